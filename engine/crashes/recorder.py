"""A file system in user space that hands everything on to a folder, and records what changes it.

It sees what every program does to the files, however that does it: system calls, io_uring, direct I/O, stores
through a mapping once they are written back. It runs in a process of its own, `main`, because who waits for a
page of a mapped file waits for it, and has one thread: so each change ends before the next begins. The kernel
lets no write and no flush of one file be under way at once anyway (fuse_fsync in fs/fuse/file.c takes the
inode's lock).

A durable write (RWF_DSYNC, O_DSYNC) comes as a write that says so, then a flush, both of one thread: that
flush is the write's own, and covers nothing else.
"""

import ctypes
import errno
import os
import resource
import stat
import sys
from collections.abc import Callable

from ringblk.engine.crashes.fuse_messages import (
    CREATE_IN,
    FALLOCATE_IN,
    IN_HEADER,
    KEEP_CACHE,
    LINK_IN,
    LSEEK_IN,
    LSEEK_OUT,
    MAX_WRITE_BYTES,
    MKDIR_IN,
    OPEN_OUT,
    OUT_HEADER,
    READ_IN,
    RENAME2_IN,
    RENAME_IN,
    SETATTR_IN,
    UNANSWERED,
    WRITE_OUT,
    WRITTEN_BACK,
    Operation,
    Valid,
    attributes_reply,
    directory_entry,
    entry_reply,
    init_reply,
    statfs_reply,
)
from ringblk.engine.crashes.nodes import Node, NodeTable
from ringblk.engine.crashes.record_form import Kind, NameEntry, RecordWriter

_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 0x01, 0x02, 0x10
_OPENED = OPEN_OUT.pack(0, KEEP_CACHE, 0)
_RENAME_NOREPLACE = 1


class Recorder:
    """Answers the kernel on `device_fd`, with what is in the folder open as `root_fd`."""

    def __init__(self, device_fd: int, root_fd: int, record: RecordWriter) -> None:
        self._device_fd = device_fd
        self._nodes = NodeTable(root_fd)
        self._record = record
        self._durable_writes: set[tuple[int, int]] = set()
        """Thread and node of writes whose own flush is to come."""
        self._listings: dict[int, list[bytes]] = {}
        self._listing_count = 0
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._answers: dict[int, Callable[[int, int, memoryview], bytes]] = {
            Operation.INIT: lambda *arguments: init_reply(bytes(arguments[2])),
            Operation.LOOKUP: self._look_up,
            Operation.GETATTR: self._get_attributes,
            Operation.SETATTR: self._set_attributes,
            Operation.MKDIR: self._make_folder,
            Operation.UNLINK: self._unlink,
            Operation.RMDIR: self._remove_folder,
            Operation.RENAME: self._rename,
            Operation.RENAME2: self._rename_with_flags,
            Operation.LINK: self._link,
            Operation.OPEN: lambda *_: _OPENED,
            Operation.CREATE: self._create,
            Operation.READ: self._read,
            Operation.WRITE: self._write,
            Operation.STATFS: lambda _, node, __: statfs_reply(os.fstatvfs(self._nodes[node].fd)),
            Operation.RELEASE: lambda *_: b"",
            Operation.FLUSH: lambda *_: b"",
            Operation.FSYNC: self._flush,
            Operation.FSYNCDIR: self._flush,
            Operation.OPENDIR: self._list,
            Operation.READDIR: self._read_listing,
            Operation.RELEASEDIR: self._forget_listing,
            Operation.FALLOCATE: self._allocate,
            Operation.LSEEK: self._seek,
        }

    def serve(self) -> None:
        """Answer until the folder is unmounted."""
        buffer = bytearray(MAX_WRITE_BYTES + 4096)
        view = memoryview(buffer)
        while True:
            try:
                size = os.readv(self._device_fd, [buffer])
            except OSError as error:
                if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                return  # ENODEV
            _, operation, unique, node, _, _, thread, *_ = IN_HEADER.unpack_from(buffer)
            if operation in UNANSWERED:
                continue
            answer, error_number = self._answer(operation, thread, node, view[IN_HEADER.size : size])
            head = OUT_HEADER.pack(OUT_HEADER.size + len(answer), -error_number, unique)
            try:
                os.writev(self._device_fd, [head, answer])
            except FileNotFoundError:  # who asked was killed meanwhile
                continue

    def _answer(self, operation: int, thread: int, node: int, body: memoryview) -> tuple[bytes, int]:
        answer = self._answers.get(operation)
        if answer is None:
            return b"", errno.ENOSYS
        try:
            return answer(thread, node, body), 0
        except OSError as error:
            return b"", error.errno or errno.EIO

    # Names.

    def _look_up(self, _: int, number: int, body: memoryview) -> bytes:
        found = self._nodes.find(self._nodes[number], _name(body))
        return entry_reply(found.number, found.info())

    def _create(self, _: int, number: int, body: memoryview) -> bytes:
        folder, name = self._nodes[number], _name(body[CREATE_IN.size :])
        flags, mode, *_others = CREATE_IN.unpack_from(body)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | flags & os.O_EXCL
        made = self._nodes.add(os.open(name, flags, stat.S_IMODE(mode), dir_fd=folder.fd))
        self._note_names(_entry(folder, name, made))
        return entry_reply(made.number, made.info()) + _OPENED

    def _make_folder(self, _: int, number: int, body: memoryview) -> bytes:
        folder, name = self._nodes[number], _name(body[MKDIR_IN.size :])
        os.mkdir(name, stat.S_IMODE(MKDIR_IN.unpack_from(body)[0]), dir_fd=folder.fd)
        made = self._nodes.find(folder, name)
        self._note_names(_entry(folder, name, made))
        return entry_reply(made.number, made.info())

    def _link(self, _: int, number: int, body: memoryview) -> bytes:
        folder, name = self._nodes[number], _name(body[LINK_IN.size :])
        linked = self._nodes[LINK_IN.unpack_from(body)[0]]
        os.link(f"/proc/self/fd/{linked.fd}", name, dst_dir_fd=folder.fd, follow_symlinks=True)
        self._note_names(_entry(folder, name, linked))
        return entry_reply(linked.number, linked.info())

    def _unlink(self, _: int, number: int, body: memoryview) -> bytes:
        folder, name = self._nodes[number], _name(body)
        os.unlink(name, dir_fd=folder.fd)
        self._note_names(_entry(folder, name, None))
        return b""

    def _remove_folder(self, _: int, number: int, body: memoryview) -> bytes:
        folder, name = self._nodes[number], _name(body)
        os.rmdir(name, dir_fd=folder.fd)
        self._note_names(_entry(folder, name, None))
        return b""

    def _rename(self, _: int, number: int, body: memoryview) -> bytes:
        return self._move(number, RENAME_IN.unpack_from(body)[0], body[RENAME_IN.size :])

    def _rename_with_flags(self, _: int, number: int, body: memoryview) -> bytes:
        target, flags, _padding = RENAME2_IN.unpack_from(body)
        if flags & ~_RENAME_NOREPLACE:
            raise OSError(errno.EINVAL, "names are not exchanged")
        names = body[RENAME2_IN.size :]
        if flags:
            name = bytes(names).split(b"\0")[1]
            if os.access(name, os.F_OK, dir_fd=self._nodes[target].fd, follow_symlinks=False):
                raise FileExistsError(errno.EEXIST, "there is such a name")
        return self._move(number, target, names)

    def _move(self, number: int, target_number: int, names: memoryview) -> bytes:
        source, target = self._nodes[number], self._nodes[target_number]
        name, new_name = bytes(names).split(b"\0")[:2]
        moved = self._nodes.find(source, name)
        os.rename(name, new_name, src_dir_fd=source.fd, dst_dir_fd=target.fd)
        self._note_names(_entry(source, name, None), _entry(target, new_name, moved))
        return b""

    def _note_names(self, *entries: NameEntry) -> None:
        self._record.names(list(entries))

    # Attributes.

    def _get_attributes(self, _: int, number: int, __: memoryview) -> bytes:
        return attributes_reply(number, self._nodes[number].info())

    def _set_attributes(self, _: int, number: int, body: memoryview) -> bytes:
        valid, _padding, _handle, size, _owner, atime, mtime, _ctime, *rest = SETATTR_IN.unpack_from(body)
        atime_ns, mtime_ns, _ctime_ns, mode, _unused, user, group, _more = rest
        node = self._nodes[number]
        if valid & (Valid.UID | Valid.GID):
            os.fchown(node.fd, user if valid & Valid.UID else -1, group if valid & Valid.GID else -1)
        if valid & Valid.MODE:
            os.fchmod(node.fd, stat.S_IMODE(mode))
        if valid & Valid.SIZE:
            os.ftruncate(node.fd, size)
            self._record.resize(node.inode, size)
        info = node.info()
        if valid & (Valid.ATIME | Valid.MTIME) and not valid & (Valid.ATIME_NOW | Valid.MTIME_NOW):
            times_ns = (
                atime * 10**9 + atime_ns if valid & Valid.ATIME else info.st_atime_ns,
                mtime * 10**9 + mtime_ns if valid & Valid.MTIME else info.st_mtime_ns,
            )
            os.utime(node.fd, ns=times_ns)
        elif valid & (Valid.ATIME | Valid.MTIME):
            os.utime(node.fd)
        return attributes_reply(number, node.info())

    # Contents.

    def _read(self, _: int, number: int, body: memoryview) -> bytes:
        _handle, offset, size, *_others = READ_IN.unpack_from(body)
        return os.pread(self._nodes[number].fd, size, offset)

    def _write(self, thread: int, number: int, body: memoryview) -> bytes:
        _handle, offset, size, request_flags, _owner, file_flags, _padding = READ_IN.unpack_from(body)
        node = self._nodes[number]
        data = body[READ_IN.size : READ_IN.size + size]
        done = os.pwrite(node.fd, data, offset)
        is_durable = bool(file_flags & os.O_DSYNC) and not request_flags & WRITTEN_BACK
        if is_durable:
            self._durable_writes.add((thread, number))
        kind = Kind.WRITE_DURABLY if is_durable else Kind.WRITE
        self._record.call(kind, node.inode, offset, done, data[:done])
        return WRITE_OUT.pack(done, 0)

    def _flush(self, thread: int, number: int, _: memoryview) -> bytes:
        if (thread, number) in self._durable_writes:
            self._durable_writes.remove((thread, number))
        else:
            self._record.call(Kind.FLUSH, self._nodes[number].inode, 0, 0)
        return b""

    def _allocate(self, _: int, number: int, body: memoryview) -> bytes:
        _handle, offset, size, mode, _padding = FALLOCATE_IN.unpack_from(body)
        node = self._nodes[number]
        before_bytes = node.info().st_size
        arguments = (node.fd, mode, ctypes.c_int64(offset), ctypes.c_int64(size))
        if self._libc.fallocate(*arguments) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        after_bytes = node.info().st_size
        if after_bytes != before_bytes:
            self._record.resize(node.inode, after_bytes)
        if mode & (_PUNCH_HOLE | _ZERO_RANGE):
            end = min(offset + size, after_bytes)
            self._record.call(Kind.ZERO, node.inode, offset, max(0, end - offset))
        return b""

    def _seek(self, _: int, number: int, body: memoryview) -> bytes:
        _handle, offset, whence, _padding = LSEEK_IN.unpack_from(body)
        return LSEEK_OUT.pack(os.lseek(self._nodes[number].fd, offset, whence))

    # Listings.

    def _list(self, _: int, number: int, __: memoryview) -> bytes:
        self._listing_count += 1
        self._listings[self._listing_count] = [
            os.fsencode(name) for name in os.listdir(self._nodes[number].fd)
        ]
        return OPEN_OUT.pack(self._listing_count, 0, 0)

    def _read_listing(self, _: int, number: int, body: memoryview) -> bytes:
        handle, offset, size, *_others = READ_IN.unpack_from(body)
        entries = b""
        for place, name in enumerate(self._listings[handle][offset:], offset + 1):
            try:
                info = os.stat(name, dir_fd=self._nodes[number].fd, follow_symlinks=False)
            except FileNotFoundError:  # removed since
                continue
            entry = directory_entry(info.st_ino, place, name, stat.S_IFMT(info.st_mode))
            if len(entries) + len(entry) > size:
                break
            entries += entry
        return entries

    def _forget_listing(self, _: int, __: int, body: memoryview) -> bytes:
        del self._listings[READ_IN.unpack_from(body.tobytes().ljust(READ_IN.size, b"\0"))[0]]
        return b""


def _name(body: memoryview) -> bytes:
    return bytes(body).partition(b"\0")[0]


def _entry(folder: Node, name: bytes, node: Node | None) -> NameEntry:
    inode, is_folder = (0, False) if node is None else (node.inode, node.is_folder)
    return NameEntry(folder.inode, os.fsdecode(name), inode, is_folder)


def main() -> None:
    """Be the recorder: the command line has the descriptors of device, folder and record."""
    device_fd, root_fd, record_fd = map(int, sys.argv[1:])
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.umask(0)
    Recorder(device_fd, root_fd, RecordWriter(record_fd)).serve()


if __name__ == "__main__":
    main()
