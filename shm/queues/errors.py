"""What is wrong with memory that a front end gives for a queue."""


class RingError(Exception):
    """A virtqueue's rings are not where they can be: size, alignment or place in guest memory.

    The front end set them up wrongly: refuse its request to start the queue.
    """


class InflightError(Exception):
    """An in-flight region is too small or contradicts its ring; the message says how.

    Whoever handed it over must start the queue with a fresh region.
    """
