"""A ring as a device is given it."""

import os

import msgspec


class Vring(msgspec.Struct, frozen=True):
    """All that a device needs to process a ring.

    Addresses are the front end's own (`uva`); `base` is where `next_avail` starts. A kick_fd of None asks for
    polling; a call_fd or err_fd of None means that nobody wants to be told.
    """

    queue_index: int
    queue_size: int
    desc_uva: int
    avail_uva: int
    used_uva: int
    base: int
    kick_fd: int | None = None
    call_fd: int | None = None
    err_fd: int | None = None
    log_gpa: int | None = None
    """Where writes to the used ring are marked in the dirty log; None: nowhere."""

    def parts(self, *, event_words: bool = True) -> tuple[tuple[str, int, int], ...]:
        """Name, address and bytes of each, its event word at the end or left out (virtio 1.2, 2.7)."""
        size, ends_bytes = self.queue_size, 2 * event_words
        return (
            ("descriptor table", self.desc_uva, 16 * size),
            ("avail ring", self.avail_uva, 4 + 2 * size + ends_bytes),
            ("used ring", self.used_uva, 4 + 8 * size + ends_bytes),
        )


def close_fd(fd: int | None) -> None:
    """Close an fd, if there is one."""
    if fd is not None:
        os.close(fd)
