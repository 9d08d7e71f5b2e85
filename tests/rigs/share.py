"""The driver's side of a shared folder without a guest: FUSE requests of any shape, one at a time.

Plain struct, with nothing taken from the product's own wire structures.
"""

import errno
import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ringblk.engine.frontend.connection import FrontendConnection
from ringblk.engine.vhost_user.codes import ProtocolFeature
from tests.rigs.engine_rig import PROGRAM as BLOCK_PROGRAM
from tests.rigs.engine_rig import Engine, RawFrontend

PROGRAM = (BLOCK_PROGRAM + "-fs",)
ROOT = 1
LOOKUP, FORGET, GETATTR, SETATTR, READLINK, SYMLINK = 1, 2, 3, 4, 5, 6
MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK, OPEN, READ, WRITE, STATFS, RELEASE = range(8, 19)
FSYNC, SETXATTR, GETXATTR, LISTXATTR, REMOVEXATTR, FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR = range(20, 30)
FSYNCDIR, ACCESS, CREATE, INTERRUPT, DESTROY, BATCH_FORGET, FALLOCATE = 30, 34, 35, 36, 38, 42, 43
READDIRPLUS, RENAME2, LSEEK, COPY_FILE_RANGE, SETUPMAPPING, REMOVEMAPPING = range(44, 50)
SYNCFS, TMPFILE, STATX = 50, 51, 52
ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
ENTRY_BYTES, OPEN_BYTES = 128, 16
INIT_FLAGS = 0xFFFFFFFF
HEADER_BYTES = 16
QUEUE_SIZE = 64


class Attr(NamedTuple):
    """What is compared of `fuse_attr`."""

    ino: int
    size: int
    mode: int
    nlink: int
    uid: int
    gid: int


class Entry(NamedTuple):
    """What is compared of `fuse_entry_out`."""

    node_id: int
    attr: Attr


class ShareError(OSError):
    """The request was answered with an errno."""


class NoDescriptorError(ShareError):
    """It was EMFILE."""


def attr_of(data: bytes) -> Attr:
    fields = ATTR.unpack_from(data)
    return Attr(fields[0], fields[1], fields[9], fields[10], fields[11], fields[12])


def entry_of(data: bytes) -> Entry:
    return Entry(struct.unpack_from("<Q", data)[0], attr_of(data[40:]))


class ShareFrontend:
    """A front end and the guest's file system; queue 0 is for what must not wait."""

    def __init__(
        self,
        engine: Engine | socket.socket,
        *,
        queue_count: int = 2,
        data_bytes: int = 1 << 20,
        begins: bool = True,
        declined: int = 0,
    ) -> None:
        self.frontend = RawFrontend(
            engine, num_queues=queue_count, queue_size=QUEUE_SIZE, ram_bytes=(queue_count << 20) + data_bytes
        )
        self.frontend.declined = ProtocolFeature(declined)
        # Each queue has room of its own for what is placed.
        for index, queue in enumerate(self.frontend.queues):
            queue.driver.places_gpa = queue.driver.gpa_base + (1 << 18) + index * (1 << 20)
            queue.driver.forget_places()
        self.frontend.set_up()
        self.unique = 0
        self.queue_index = 1
        """Which queue requests go to that name none."""
        self.uid = self.gid = 0
        if begins:
            self.begin()

    @property
    def connection(self) -> FrontendConnection:
        return self.frontend.connection

    def begin(self, flags: int = INIT_FLAGS) -> tuple[int, ...]:
        """INIT; minor version, flags and flags2 that are agreed to, and the longest write."""
        reply = self.ask(INIT, 0, struct.pack("<IIIII44x", 7, 38, 1 << 17, flags, 0xFFFFFFFF), room=64)
        fields = struct.unpack_from("<IIIIHHIIHHI", reply)
        return fields[1], fields[3], fields[10], fields[6]

    def header(self, opcode: int, node_id: int, size_bytes: int) -> bytes:
        self.unique += 2
        return struct.pack(
            "<IIQQIIIHH", 40 + size_bytes, opcode, self.unique, node_id, self.uid, self.gid, 1, 0, 0
        )

    def offer(
        self, readable: Sequence[bytes], room: int | None, *, queue_index: int = 1, head: int = 0
    ) -> int:
        """Offer one request, a descriptor for each piece; where its reply is."""
        queue = self.frontend.queues[queue_index]
        driver = queue.driver
        pieces = [(driver.place(piece), len(piece), False) for piece in readable if piece]
        reply_gpa = 0
        if room is not None:
            reply_gpa = driver.place(b"\xee" * room)
            pieces.append((reply_gpa, room, True))
        driver.offer(driver.make_chain(pieces, indices=range(head, head + len(pieces))))
        queue.kick()
        return reply_gpa

    def send(self, readable: Sequence[bytes], room: int | None, *, queue_index: int = 1) -> tuple[int, bytes]:
        """Send one request of any shape and wait until it comes back; used length and what was written."""
        queue = self.frontend.queues[queue_index]
        queue.driver.forget_places()
        reply_gpa = self.offer(readable, room, queue_index=queue_index)
        ((_, length),) = queue.wait_used(1)
        return length, queue.driver.read(reply_gpa, room) if room else b""

    def try_to(
        self,
        opcode: int,
        node_id: int,
        argument: bytes = b"",
        data: bytes = b"",
        *,
        room: int = 0,
        queue_index: int | None = None,
    ) -> tuple[int, bytes]:
        """Ask, in the queue that is in use; errno and the reply's body."""
        queue_index = self.queue_index if queue_index is None else queue_index
        header = self.header(opcode, node_id, len(argument) + len(data))
        length, reply = self.send([header, argument, data], HEADER_BYTES + room, queue_index=queue_index)
        said_length, error, unique = struct.unpack_from("<IiQ", reply)
        assert (said_length, unique) == (length, self.unique)
        return -error, reply[HEADER_BYTES:length]

    def ask(
        self, opcode: int, node_id: int, argument: bytes = b"", data: bytes = b"", *, room: int = 0
    ) -> bytes:
        """Ask for what is granted. Raises `ShareError`."""
        error, reply = self.try_to(opcode, node_id, argument, data, room=room)
        if error:
            kind = NoDescriptorError if error == errno.EMFILE else ShareError
            raise kind(error, f"opcode {opcode}: {os.strerror(error)}")
        return reply

    # What a guest asks for.

    def lookup(self, name: str | bytes, parent: int = ROOT) -> Entry:
        return entry_of(self.ask(LOOKUP, parent, os.fsencode(name) + b"\0", room=ENTRY_BYTES))

    def walk(self, path: str) -> Entry:
        entry = Entry(ROOT, self.getattr(ROOT))
        for name in path.split("/"):
            entry = self.lookup(name, entry.node_id)
        return entry

    def forget(self, node_id: int, count: int = 1) -> None:
        readable = [self.header(FORGET, node_id, 8), struct.pack("<Q", count)]
        assert self.send(readable, None, queue_index=0)[0] == 0

    def getattr(self, node_id: int) -> Attr:
        return attr_of(self.ask(GETATTR, node_id, bytes(16), room=104)[16:])

    def read(self, node_id: int, size_bytes: int, offset_bytes: int = 0) -> bytes:
        argument = struct.pack("<QQIIQII", 0, offset_bytes, size_bytes, 0, 0, 0, 0)
        return self.ask(READ, node_id, argument, room=size_bytes)

    def write(self, node_id: int, data: bytes, offset_bytes: int = 0, *, flags: int = 0) -> int:
        argument = struct.pack("<QQIIQII", 0, offset_bytes, len(data), 0, 0, flags, 0)
        written: int = struct.unpack_from("<I", self.ask(WRITE, node_id, argument, data, room=8))[0]
        return written

    def create(self, name: str, parent: int = ROOT, *, mode: int = 0o100644, flags: int = os.O_EXCL) -> Entry:
        argument = struct.pack("<IIII", flags | os.O_CREAT | os.O_RDWR, mode, 0, 0)
        return entry_of(self.ask(CREATE, parent, argument, name.encode() + b"\0", room=144))

    def mkdir(self, name: str, parent: int = ROOT, *, mode: int = 0o755) -> Entry:
        reply = self.ask(MKDIR, parent, struct.pack("<II", mode, 0), name.encode() + b"\0", room=ENTRY_BYTES)
        return entry_of(reply)

    def unlink(self, name: str, parent: int = ROOT) -> None:
        self.ask(UNLINK, parent, name.encode() + b"\0")

    def rmdir(self, name: str, parent: int = ROOT) -> None:
        self.ask(RMDIR, parent, name.encode() + b"\0")

    def rename(
        self, name: str, other: str, parent: int = ROOT, new_parent: int = ROOT, flags: int = 0
    ) -> None:
        names = name.encode() + b"\0" + other.encode() + b"\0"
        self.ask(RENAME2, parent, struct.pack("<QII", new_parent, flags, 0), names)

    def link(self, node_id: int, name: str, parent: int = ROOT) -> Entry:
        return entry_of(
            self.ask(LINK, parent, struct.pack("<Q", node_id), name.encode() + b"\0", room=ENTRY_BYTES)
        )

    def symlink(self, name: str, target: str, parent: int = ROOT) -> Entry:
        return entry_of(
            self.ask(SYMLINK, parent, name.encode() + b"\0" + target.encode() + b"\0", room=ENTRY_BYTES)
        )

    def readlink(self, node_id: int) -> str:
        return self.ask(READLINK, node_id, room=4096).decode()

    def names_in(self, node_id: int, *, room: int = 4096) -> list[str]:
        """The names in a folder, without . and .."""
        names: list[str] = []
        offset = 0
        while reply := self.ask(
            READDIR, node_id, struct.pack("<QQIIQII", 0, offset, room, 0, 0, 0, 0), room=room
        ):
            place = 0
            while place < len(reply):
                _, offset, length, _ = struct.unpack_from("<QQII", reply, place)
                names.append(os.fsdecode(reply[place + 24 : place + 24 + length]))
                place += -(-(24 + length) // 8) * 8
        return [name for name in names if name not in (".", "..")]

    def entries_in(self, node_id: int, *, room: int = 4096) -> dict[str, Entry]:
        """READDIRPLUS: the names, and what they stand for."""
        entries: dict[str, Entry] = {}
        offset = 0
        while reply := self.ask(
            READDIRPLUS, node_id, struct.pack("<QQIIQII", 0, offset, room, 0, 0, 0, 0), room=room
        ):
            place = 0
            while place < len(reply):
                _, offset, length, _ = struct.unpack_from("<QQII", reply, place + ENTRY_BYTES)
                name = os.fsdecode(reply[place + ENTRY_BYTES + 24 : place + ENTRY_BYTES + 24 + length])
                entries[name] = entry_of(reply[place:])
                place += -(-(ENTRY_BYTES + 24 + length) // 8) * 8
        return {name: entry for name, entry in entries.items() if name not in (".", "..")}

    def close(self) -> None:
        self.frontend.close()


def share_engine(folder: Path, *options: str, after: Engine | None = None) -> Engine:
    """An engine that shares a folder."""
    return Engine(f"--shared-dir={folder}", "--tag=test", *options, program=PROGRAM, after=after)


def errno_of(opcode: int, share: ShareFrontend, node_id: int, argument: bytes = b"", room: int = 0) -> str:
    """The name of the errno that a request is answered with; empty: it is granted."""
    error = share.try_to(opcode, node_id, argument, room=room)[0]
    return errno.errorcode[error] if error else ""
