"""Sockets that a control plane leaves to the next one: which they are, by their descriptors in that."""

import os
from collections.abc import Iterable, Mapping

import msgspec

from ringblk.engine.zygote.messages import KeepSocket
from ringblk.shm.platform.shared_memory import make_unnamed

Sockets = Mapping[int, KeepSocket]
"""By descriptor."""


def socket_number(fd: int) -> bytes:
    """What tells a socket from all others that are open, in whichever process. Raises `OSError`."""
    return os.fstat(fd).st_ino.to_bytes(8, "big")


def list_sockets(sockets: Sockets) -> int:
    """A descriptor of their list, for who inherits them under the same numbers. Raises `OSError`."""
    data = msgspec.msgpack.encode(sockets)
    fd = make_unnamed("ringblk-sockets", max(1, len(data)))
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    return fd


def take_sockets(list_fd: int) -> dict[int, KeepSocket]:
    """Those of such a list, which is closed. Raises `OSError` and `msgspec.DecodeError`."""
    data = os.pread(list_fd, os.fstat(list_fd).st_size, 0)
    os.close(list_fd)
    sockets = msgspec.msgpack.decode(data, type=dict[int, KeepSocket])
    for fd in sockets:
        os.set_inheritable(fd, False)
    return sockets


def decode_kept(entries: Iterable[tuple[bytes, int]]) -> dict[int, KeepSocket]:
    """The same of what a zygote has kept."""
    decoder = msgspec.msgpack.Decoder(KeepSocket)
    return {fd: decoder.decode(message) for message, fd in entries}
