"""Sizes that are powers of two, and what is wrong with one that is not."""

MIN_QUEUE_SIZE = 2
MAX_QUEUE_SIZE = 32768
"""Virtio 1.2, 2.7; compiled code has it in `split_ring.pxd`."""


def queue_size_fault(queue_size: int) -> str | None:
    """Say of a split virtqueue's size that it is none; None if it is one."""
    return power_of_two_fault(queue_size, MIN_QUEUE_SIZE, MAX_QUEUE_SIZE)


def power_of_two_fault(number: int, least: int, most: int) -> str | None:
    """Say of a number that it is no power of two from `least` to `most`, both included; None if it is one."""
    if least <= number <= most and number & (number - 1) == 0:
        return None
    return f"{number} is no power of two from {least} to {most}"
