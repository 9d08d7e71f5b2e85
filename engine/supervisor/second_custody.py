"""A drive's parts (`KeptParts`) with the zygote, too, while a front end is served.

Fault model: SIGKILL of the dispatcher and of this process, before the next one has heard of either. The
dispatcher has taken its custody along. The zygote lives on, starts the next control plane, and hands it what
stands here: descriptors by handle, kept as sockets are (`KeepSocket`), and each part's state in memory of its
own. A state is replaced in one of two slots, so it is as it was before a change or after it. Descriptors that
a state names are with the zygote before it, and leave after the next.

A zygote that does not read holds nobody up: what it was not told, it is told once it reads again.
"""

import contextlib
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from ringblk.engine.zygote.kept_parts import Segment, kept_part
from ringblk.engine.zygote.messages import ForgetSocket, KeepSocket
from ringblk.shm.platform.shared_memory import make_unnamed
from ringblk.shm.segments.two_slots import newest, record_bytes_for, slot_of
from ringblk.shm.sync.channel import MAX_MESSAGE_BYTES, encode_message
from ringblk.shm.sync.process import crash_point

STATE = 0
"""In place of a handle: the memory of the part's state."""
_MEMORY_BYTES = record_bytes_for(MAX_MESSAGE_BYTES)
_MARK = b"\xff\xfe"
"""Of identities; inodes have no such numbers."""


class CustodyZygote(Protocol):
    """The zygote as this is told of it."""

    custodies: "set[SecondCustody]"
    """Those that the next zygote has to be told of."""

    @property
    def is_behind(self) -> bool:
        """Whether it has not read what it was told."""

    def tell(self, message: KeepSocket | ForgetSocket, fds: Sequence[int] = ()) -> None:
        """Have it keep a descriptor, or no longer."""


class LeftState(msgspec.Struct, frozen=True, array_like=True):
    """A part's state, and the handles that it names."""

    data: bytes
    handles: list[int]


class _Memory(msgspec.Struct):
    fd: int
    sequence: int = 0

    def write(self, payload: bytes) -> None:
        """Replace what stands there. Raises `OSError`."""
        self.sequence += 1
        offset_bytes, slot = slot_of(self.sequence, payload, _MEMORY_BYTES // 2)
        os.pwrite(self.fd, slot, offset_bytes)


class SecondCustody:
    """Of one drive. It knows the descriptors of `KeptParts`, and has none but those of its memories."""

    def __init__(self, zygote: CustodyZygote, segment_fd: int) -> None:
        info = os.fstat(segment_fd)
        self._zygote = zygote
        self._segment: Segment = (info.st_dev, info.st_ino)
        self._kept: dict[tuple[str, int], tuple[bytes, int]] = {}  # identity and descriptor
        self._memories: dict[str, _Memory] = {}
        self._is_whole = True  # whether the zygote was told all of it

    @property
    def has_begun(self) -> bool:
        """Whether there is anything in it."""
        return bool(self._kept)

    def keep(self, part: str, fds: Mapping[int, int]) -> None:
        """Have these besides, by handle. They stay open here until the part's state does not name them."""
        self._zygote.custodies.add(self)
        for handle, fd in fds.items():
            self._kept[part, handle] = (_MARK + os.urandom(6), fd)
            self._tell(part, handle)

    def keep_state(self, part: str, data: bytes, handles: Collection[int]) -> None:
        """Have this as the part's state, and of its descriptors those alone."""
        try:
            if part not in self._memories:
                self._memories[part] = _Memory(make_unnamed("ringblk-part", _MEMORY_BYTES))
                self.keep(part, {STATE: self._memories[part].fd})
            self._memories[part].write(encode_message(LeftState(data, list(handles))))
        except OSError:  # no room: it is as with one custody then
            self.end()
            return
        crash_point("custody: state with the zygote")
        if not self._is_whole:
            self.tell_again()
        used = {*handles, STATE}
        for kept_part_name, handle in [key for key in self._kept if key[0] == part and key[1] not in used]:
            self._forget(kept_part_name, handle)

    def end(self) -> None:
        """Have nothing any more."""
        for part, handle in list(self._kept):
            self._forget(part, handle)
        for memory in self._memories.values():
            os.close(memory.fd)
        self._memories.clear()
        self._zygote.custodies.discard(self)

    def tell_again(self) -> None:
        """To a zygote that knows nothing of it, or not all."""
        self._is_whole = True
        for part, handle in self._kept:
            self._tell(part, handle)

    def _tell(self, part: str, handle: int) -> None:
        identity, fd = self._kept[part, handle]
        if self._zygote.is_behind:
            self._is_whole = False
            return
        with contextlib.suppress(
            OSError
        ):  # no room for a copy: what names it is not whole, and not gone on from
            self._zygote.tell(kept_part(identity, self._segment, part, handle), [fd])

    def _forget(self, part: str, handle: int) -> None:
        identity, _ = self._kept.pop((part, handle))
        self._zygote.tell(ForgetSocket(identity))


def read_state(memory_fd: int) -> LeftState | None:
    """What was written last to the memory of a state; None: nothing whole."""
    found = newest(os.pread(memory_fd, _MEMORY_BYTES, 0))
    return None if found is None else msgspec.msgpack.decode(found[1], type=LeftState)
