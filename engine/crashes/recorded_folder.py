"""A folder whose files are recorded while programs use them as ever."""

import contextlib
import ctypes
import errno
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from ringblk.engine.crashes.folder_copy import FolderCopy
from ringblk.engine.crashes.record_form import RecordWriter

_DEVICE = "/dev/fuse"
_MNT_DETACH = 2
_END_GUARD_S = 30.0
_EVENTS, _BEFORE = "events", "before"


class CannotRecord(Exception):  # noqa: N818
    """A folder cannot be recorded, or its recording not be ended; the message says why, and what to do."""


class RecordedFolder:
    """Records what is done to the files below `folder` from entering to leaving it, into the folder `record`.

    Whatever programs have the files open meanwhile find them where they were. They are to have ended when it
    is left. `record` is made, and has what was there before as well, so it takes as much room. Entering
    raises `CannotRecord` where there are no file systems in user space (it takes Linux, /dev/fuse and root),
    and `OSError`.
    """

    def __init__(self, folder: str | os.PathLike[str], record: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.record = Path(record)

    def __enter__(self) -> "RecordedFolder":
        if self.record.resolve().is_relative_to(self.folder.resolve()):
            raise CannotRecord(f"{self.record}: is in the folder that is to be recorded")
        self.record.mkdir(parents=True)
        FolderCopy.make(self.folder, self.record / _BEFORE)
        self._libc = ctypes.CDLL(None, use_errno=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._record_fd = os.open(self.record / _EVENTS, flags, 0o600)
        root_fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            device_fd = self._mount()
            with contextlib.closing(os.fdopen(device_fd, closefd=True)):
                fds = (device_fd, root_fd, self._record_fd)
                command = [sys.executable, "-m", "ringblk.engine.crashes.recorder", *map(str, fds)]
                self._recorder = subprocess.Popen(command, pass_fds=fds, stdin=subprocess.DEVNULL)
        except BaseException:
            os.close(self._record_fd)
            raise
        finally:
            os.close(root_fd)
        self._writer = RecordWriter(self._record_fd)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_busy = self._unmount(0) == errno.EBUSY
        if is_busy:
            self._unmount(_MNT_DETACH)
            self._recorder.kill()
        self._recorder.wait(_END_GUARD_S)
        os.close(self._record_fd)
        if is_busy and error is None:
            raise CannotRecord(f"{self.folder}: a program has files of it open still: end it first")

    @property
    def now(self) -> int:
        """The time: what has ended by now was recorded before it."""
        return os.fstat(self._record_fd).st_size

    def mark(self, text: str) -> None:
        """Note something at this moment, such as that a program has said that it has kept something."""
        self._writer.mark(text)

    def _mount(self) -> int:
        """The device on which the kernel asks what is in the folder."""
        try:
            device_fd = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise CannotRecord(
                f"{_DEVICE}: {error.strerror}: recording takes a file system in user space"
            ) from error
        root_mode = f"{os.stat(self.folder).st_mode:o}"
        options = f"fd={device_fd},rootmode={root_mode},user_id={os.getuid()},group_id={os.getgid()}"
        options += ",allow_other,default_permissions"
        target = os.fsencode(self.folder)
        if self._libc.mount(b"ringblk-crashes", target, b"fuse", 0, options.encode()) != 0:
            error_number = ctypes.get_errno()
            os.close(device_fd)
            reason = os.strerror(error_number)
            raise CannotRecord(f"{self.folder}: cannot mount a recorder on it, which takes root: {reason}")
        return device_fd

    def _unmount(self, flags: int) -> int:
        """0, or an error number."""
        if self._libc.umount2(os.fsencode(self.folder), flags) == 0:
            return 0
        return ctypes.get_errno()
