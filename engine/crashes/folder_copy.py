"""A folder as it was when recording began: a copy of each file, by inode, and the names."""

import os
import shutil
import stat
from pathlib import Path

import msgspec

from ringblk.engine.crashes.record_form import NameEntry

_TREE = "tree.json"


class FolderCopy(msgspec.Struct, frozen=True):
    """What a folder had in it. The files' contents are in `place`, each under its inode's number."""

    place: Path
    root: int
    """The folder's own inode."""
    entries: list[NameEntry]

    @staticmethod
    def make(folder: Path, place: Path) -> "FolderCopy":
        """Copy what is there, holes included, to `place`, which is made. Raises `OSError`."""
        place.mkdir(parents=True)
        entries = list(_copy_files(folder, place))
        copy = FolderCopy(place, folder.stat().st_ino, entries)
        (place / _TREE).write_bytes(msgspec.json.encode([copy.root, entries]))
        return copy

    @staticmethod
    def read(place: Path) -> "FolderCopy":
        """A copy that was made before. Raises `OSError`, `msgspec.DecodeError`."""
        root, entries = msgspec.json.decode((place / _TREE).read_bytes(), type=tuple[int, list[NameEntry]])
        return FolderCopy(place, root, entries)


def _copy_files(folder: Path, place: Path) -> list[NameEntry]:
    entries = []
    own = folder.stat().st_ino
    for path in sorted(folder.iterdir()):
        info = path.lstat()
        if stat.S_ISDIR(info.st_mode):
            entries.append(NameEntry(own, path.name, info.st_ino, True))
            entries += _copy_files(path, place)
        elif stat.S_ISREG(info.st_mode):
            entries.append(NameEntry(own, path.name, info.st_ino))
            copy_sparse(path, place / str(info.st_ino))
    return entries


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a file; what is a hole stays one. Raises `OSError`."""
    with source.open("rb") as file, target.open("wb") as copy:
        size = os.fstat(file.fileno()).st_size
        os.ftruncate(copy.fileno(), size)
        offset = 0
        while offset < size:
            try:
                offset = os.lseek(file.fileno(), offset, os.SEEK_DATA)
            except OSError:  # a hole up to the end
                return
            until = os.lseek(file.fileno(), offset, os.SEEK_HOLE)
            while offset < until:
                piece = os.pread(file.fileno(), min(until - offset, 1 << 20), offset)
                if not piece:  # it became shorter
                    return
                offset += os.pwrite(copy.fileno(), piece, offset)


def remove_folder(path: Path) -> None:
    """Remove it with all in it, where it is there."""
    shutil.rmtree(path, ignore_errors=True)
