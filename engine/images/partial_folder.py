"""The stand-in that a folder is made as, which becomes the target once it is whole."""

import fcntl
import glob
import os
import secrets
import shutil
from pathlib import Path

from ringblk.engine.images.error import ImageError

_TOKEN_BYTES = 4


class PartialFolder:
    """A folder in `.NAME.partial-XXXX` beside the target. That is locked: a later run knows killed ones'.

    Raises `ImageError` if the target is there already and has anything in it, `OSError`.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        _check_absent(target)
        stem = f".{target.name}.partial-"
        for path in target.parent.glob(f"{glob.escape(stem)}{'?' * 2 * _TOKEN_BYTES}"):
            _remove_stale(path)
        self._around = target.with_name(f"{stem}{secrets.token_hex(_TOKEN_BYTES)}")
        self._around.mkdir(0o700)
        self._fd = _locked(self._around)
        self.path = self._around / target.name
        self.path.mkdir(0o700)

    def commit(self) -> None:
        """Give it the target's name: all files in it are on the disk already."""
        _sync_folder(self.path)
        _check_absent(self.target)
        os.rename(self.path, self.target)  # over an empty folder, too
        _sync_folder(self.target.parent)
        self.discard()

    def discard(self) -> None:
        """Remove it."""
        shutil.rmtree(self._around, ignore_errors=True)
        os.close(self._fd)


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _check_absent(target: Path) -> None:
    if os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir())):
        raise ImageError("exists already")


def _locked(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def _remove_stale(path: Path) -> None:
    try:
        fd = _locked(path)
    except OSError:  # somebody makes it at this moment, or it is nobody's of ours
        return
    shutil.rmtree(path, ignore_errors=True)
    os.close(fd)
