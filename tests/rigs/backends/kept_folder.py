"""A file system that keeps a tree in a file that all its workers have: what one does, the next one sees.

One lock, one pickle: for tests, a few requests at a time. A process that is killed leaves the tree as it was
or as it is to be: there are two places for it, and a few bytes that say which one counts.
"""

import errno
import fcntl
import itertools
import os
import pickle
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ringblk import Attributes, Caller, Changes, StatFs

HEADER = struct.Struct("<QQ")  # which place counts, and how much stands there
PLACES = (4096, 64 << 20)


class Node:
    """One inode."""

    def __init__(self, inode: int, mode: int, **fields: int) -> None:
        self.attributes = Attributes(inode, mode, **fields)
        self.content: Any = {} if stat.S_ISDIR(mode) else b""
        self.extended: dict[str, bytes] = {}

    def set(self, **fields: Any) -> Attributes:
        names = Attributes.__struct_fields__
        values = {name: getattr(self.attributes, name) for name in names}
        self.attributes = Attributes(**values | fields)
        return self.attributes


class KeptFolder:
    """All operations."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        if os.fstat(self.fd).st_size == 0:
            self._store({1: Node(1, stat.S_IFDIR | 0o755)}, 0)

    def _load(self) -> tuple[int, dict[int, Node]]:
        place, size_bytes = HEADER.unpack(os.pread(self.fd, HEADER.size, 0))
        return place, pickle.loads(os.pread(self.fd, size_bytes, PLACES[place]))

    def _store(self, nodes: dict[int, Node], place: int) -> None:
        data = pickle.dumps(nodes)
        os.pwrite(self.fd, data, PLACES[place])
        os.pwrite(self.fd, HEADER.pack(place, len(data)), 0)

    @contextmanager
    def nodes(self) -> Iterator[dict[int, Node]]:
        """The tree, for this process alone meanwhile."""
        fcntl.lockf(self.fd, fcntl.LOCK_EX)
        try:
            place, nodes = self._load()
            before = pickle.dumps(nodes)
            yield nodes
            if pickle.dumps(nodes) != before:
                self._store(nodes, 1 - place)
        finally:
            fcntl.lockf(self.fd, fcntl.LOCK_UN)

    def _find(self, nodes: dict[int, Node], parent: int, name: str) -> Node:
        if name not in nodes[parent].content:
            raise FileNotFoundError(name)
        return nodes[nodes[parent].content[name]]

    def lookup(self, parent: int, name: str) -> Attributes:
        with self.nodes() as nodes:
            return self._find(nodes, parent, name).attributes

    def getattr(self, inode: int) -> Attributes:
        with self.nodes() as nodes:
            return nodes[inode].attributes

    def setattr(self, inode: int, changes: Changes) -> Attributes:
        with self.nodes() as nodes:
            node = nodes[inode]
            given = {
                name: value
                for name in changes.__struct_fields__
                if (value := getattr(changes, name)) is not None
            }
            if "size" in given:
                node.content = node.content[: given["size"]].ljust(given["size"], b"\0")
            if "mode" in given:
                given["mode"] |= stat.S_IFMT(node.attributes.mode)
            return node.set(**given)

    def _make(
        self, parent: int, name: str, mode: int, caller: Caller, content: Any = None, rdev: int = 0
    ) -> Attributes:
        with self.nodes() as nodes:
            if name in nodes[parent].content:
                raise FileExistsError(name)
            inode = next(number for number in itertools.count(2) if number not in nodes)
            now_ns = time.time_ns()
            nodes[inode] = node = Node(
                inode, mode, uid=caller.uid, gid=caller.gid, mtime_ns=now_ns, rdev=rdev
            )
            if content is not None:
                node.content = content
                node.set(size=len(content))
            nodes[parent].content[name] = inode
            return node.attributes

    def create(self, parent: int, name: str, mode: int, caller: Caller) -> Attributes:
        return self._make(parent, name, stat.S_IFREG | mode, caller)

    def mkdir(self, parent: int, name: str, mode: int, caller: Caller) -> Attributes:
        return self._make(parent, name, stat.S_IFDIR | mode, caller)

    def mknod(self, parent: int, name: str, mode: int, rdev: int, caller: Caller) -> Attributes:
        return self._make(parent, name, mode, caller, rdev=rdev)

    def symlink(self, parent: int, name: str, target: str, caller: Caller) -> Attributes:
        return self._make(parent, name, stat.S_IFLNK | 0o777, caller, target)

    def link(self, inode: int, new_parent: int, new_name: str) -> Attributes:
        with self.nodes() as nodes:
            if new_name in nodes[new_parent].content:
                raise OSError(errno.EEXIST, new_name)
            nodes[new_parent].content[new_name] = inode
            return nodes[inode].set(nlink=nodes[inode].attributes.nlink + 1)

    def readlink(self, inode: int) -> str:
        with self.nodes() as nodes:
            return str(nodes[inode].content)

    def unlink(self, parent: int, name: str) -> None:
        with self.nodes() as nodes:
            self._find(nodes, parent, name)
            del nodes[parent].content[name]

    def rmdir(self, parent: int, name: str) -> None:
        with self.nodes() as nodes:
            if self._find(nodes, parent, name).content:
                raise OSError(errno.ENOTEMPTY, name)
            del nodes[parent].content[name]

    def rename(self, parent: int, name: str, new_parent: int, new_name: str, flags: int) -> None:
        with self.nodes() as nodes:
            node = self._find(nodes, parent, name)
            if flags:
                raise OSError(errno.EINVAL, f"flags {flags}")
            del nodes[parent].content[name]
            nodes[new_parent].content[new_name] = node.attributes.inode

    def readdir(self, inode: int) -> Iterator[str]:
        with self.nodes() as nodes:
            yield from nodes[inode].content

    def read(self, inode: int, offset: int, size: int) -> memoryview:
        with self.nodes() as nodes:
            return memoryview(nodes[inode].content)[offset : offset + size]

    def write(self, inode: int, offset: int, data: bytes) -> int:
        with self.nodes() as nodes:
            content = nodes[inode].content.ljust(offset, b"\0")
            nodes[inode].content = content[:offset] + data + content[offset + len(data) :]
            nodes[inode].set(size=len(nodes[inode].content))
        return len(data)

    def copy_file_range(self, inode: int, offset: int, new_inode: int, new_offset: int, size: int) -> int:
        return self.write(new_inode, new_offset, bytes(self.read(inode, offset, size)))

    def fallocate(self, inode: int, mode: int, offset: int, size: int) -> None:
        self.setattr(inode, Changes(size=max(offset + size, self.getattr(inode).size)))

    def lseek(self, inode: int, offset: int, whence: int) -> int:
        return offset if whence == os.SEEK_DATA else self.getattr(inode).size

    def fsync(self, inode: int, data_only: bool) -> None:  # as it is called
        os.fsync(self.fd)

    def statfs(self) -> StatFs:
        with self.nodes() as nodes:
            return StatFs(blocks=1000, free_blocks=900, files=len(nodes))

    def getxattr(self, inode: int, name: str) -> bytes:
        with self.nodes() as nodes:
            if name not in nodes[inode].extended:
                raise OSError(errno.ENODATA, name)
            return nodes[inode].extended[name]

    def setxattr(self, inode: int, name: str, value: bytes, flags: int) -> None:
        with self.nodes() as nodes:
            nodes[inode].extended[name] = value

    def listxattr(self, inode: int) -> list[str]:
        with self.nodes() as nodes:
            return list(nodes[inode].extended)

    def removexattr(self, inode: int, name: str) -> None:
        with self.nodes() as nodes:
            if nodes[inode].extended.pop(name, None) is None:
                raise OSError(errno.ENODATA, name)
