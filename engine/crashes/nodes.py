"""The files below a recorded folder. The recorder keeps them open: no inode comes to mean another file."""

import os
import stat

import msgspec

from ringblk.engine.crashes.fuse_messages import ROOT_NODE


class Node(msgspec.Struct):
    """A file or folder. Its number for the kernel is its inode's, the root's excepted."""

    number: int
    inode: int
    fd: int
    is_folder: bool

    def info(self) -> os.stat_result:
        """As it is now."""
        return os.fstat(self.fd)


class NodeTable:
    """All nodes that the kernel was told of. Raises `OSError` where a file cannot be had."""

    def __init__(self, root_fd: int) -> None:
        self._root_inode = os.fstat(root_fd).st_ino
        self._nodes = {ROOT_NODE: Node(ROOT_NODE, self._root_inode, root_fd, True)}

    def __getitem__(self, number: int) -> Node:
        return self._nodes[number]

    def find(self, folder: Node, name: bytes) -> Node:
        """The file of this name."""
        info = os.stat(name, dir_fd=folder.fd, follow_symlinks=False)
        if info.st_ino in self._nodes:
            return self._nodes[info.st_ino]
        is_folder = stat.S_ISDIR(info.st_mode)
        if not is_folder and not stat.S_ISREG(info.st_mode):
            raise PermissionError(1, "neither a file nor a folder")
        flags = os.O_RDONLY | os.O_DIRECTORY if is_folder else os.O_RDWR
        return self.add(os.open(name, flags | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder.fd))

    def add(self, fd: int) -> Node:
        """One that is open; the descriptor is the table's from now on."""
        info = os.fstat(fd)
        node = Node(info.st_ino, info.st_ino, fd, stat.S_ISDIR(info.st_mode))
        self._nodes[node.number] = node
        return node
