"""Claiming an image: one engine that writes to it, and none before its predecessor's last process is gone.

The claim is a lock on the image's open file description (workers/image_lock.py), which the children inherit.
So it is the fence between engines: whatever a killed engine still has on its way to the disk, one of its
processes, or a request of its io_uring, holds the image open until it has landed.

Who holds an image can be read from the state segments of the engines on this machine: a holder whose
supervisor lives is in use; one whose supervisor is gone is about to end, and is waited for.
"""

import logging
import os
import select
import signal
import socket
import stat
import struct
import time

from ringblk.engine.config import ConfigError
from ringblk.shm.segment import SegmentError, is_segment_held, segment_names
from ringblk.shm.state import SEGMENT_PREFIX, StateSegment
from ringblk.workers.image_lock import ImageLocked, lock_image

REFUSAL_S = 1.0
"""How long a holder is watched before it counts as alive: one that was just killed needs a moment to go."""
DEAD_HOLDER_S = 15.0
"""How long what is left of a dead engine (I/O in the kernel) may hold the image."""
_LOOK_S = 0.005
_PF_EXITING = 0x4  # linux/sched.h
_SIGKILL_BIT = 1 << (signal.SIGKILL - 1)
_CREDENTIALS = struct.Struct("3i")  # struct ucred

_log = logging.getLogger(__name__)


def claim_image(path: str, fd: int, *, read_only: bool, takes_over: bool) -> None:
    """Lock the image behind `fd`, for as long as any process has it open; waits for an engine that is ending.

    With `takes_over`, an engine that uses it is told to end. Raises `ConfigError` when somebody else uses it.
    """
    refused_s: float | None = None
    # A segment left by a dead engine may name an image that was since deleted, and this one got its number.
    given_up_s = time.monotonic() + DEAD_HOLDER_S
    told: set[int] = set()
    waits = False
    while True:
        try:
            lock_image(fd, read_only)
            return
        except ImageLocked:
            holders = engines_on(fd)
        except OSError as error:
            _log.warning("%s: cannot be locked: %s; nothing keeps others off it", path, error.strerror)
            return
        alive = [pid for pid in holders if is_running(pid)]
        if takes_over and alive:
            for pid in set(alive) - told:
                tell_to_hand_over(pid)
            told.update(alive)
        elif alive or not holders or time.monotonic() > given_up_s:
            refused_s = refused_s or time.monotonic() + REFUSAL_S
            if time.monotonic() > refused_s:
                holder = f"another engine (process {alive[0]})" if alive else "another program"
                raise ConfigError(f"--blk-file {path}: in use by {holder}", exit_status=1)
        elif not waits:
            waits = True
            _log.info("waiting for the last process of the engine before this one (process %d)", holders[0])
        time.sleep(_LOOK_S)


def take_over_socket(socket_path: str | None) -> None:
    """Have an engine that listens on this socket end, and wait for its last process. Raises `ConfigError`."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(socket_path or "")
        except OSError:
            return
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid = _CREDENTIALS.unpack(credentials)[0]
    name = f"{SEGMENT_PREFIX}{pid}"
    if name not in segment_names(name):
        return  # it is no engine, or one of another machine's: the socket's name says that it is in use
    tell_to_hand_over(pid)
    while is_segment_held(name):
        time.sleep(_LOOK_S)


def tell_to_hand_over(pid: int) -> None:
    """Have an engine finish what is in flight and end; its front end is to connect to this one."""
    _log.info("taking over from the engine of process %d", pid)
    try:
        os.kill(pid, signal.SIGUSR2)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise ConfigError(f"--takeover: process {pid}: {error.strerror}", exit_status=1) from error


def image_identity(fd: int) -> tuple[int, int]:
    """What tells images apart, whatever path they are opened by; never (0, 0)."""
    info = os.fstat(fd)
    return (info.st_rdev, 0) if stat.S_ISBLK(info.st_mode) else (info.st_dev, info.st_ino)


def engines_on(fd: int) -> list[int]:
    """The supervisors of engines whose image this is, be they alive or not, as far as it can be told."""
    identity = image_identity(fd)
    found = []
    for name in segment_names(SEGMENT_PREFIX):
        try:
            state = StateSegment.attach(name)
        except (SegmentError, OSError):
            continue  # gone meanwhile, or of another version
        if state.image == identity:
            found.append(int(name.removeprefix(SEGMENT_PREFIX)))
        state.close()
    return found


def is_running(pid: int) -> bool:
    """Whether the process lives and is not about to end.

    One that was killed may hang in the kernel for as long as the disk does; it does nothing any more.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        return not select.select([pidfd], [], [], 0)[0] and not _is_ending(pid)
    finally:
        os.close(pidfd)


def _is_ending(pid: int) -> bool:
    """Whether SIGKILL waits to be seen, or the process is in its exit already (proc(5))."""
    try:
        with open(f"/proc/{pid}/status") as status_file, open(f"/proc/{pid}/stat") as stat_file:
            status = status_file.read()
            flags = int(stat_file.read().rpartition(")")[2].split()[6])
    except OSError:
        return False
    pending = [line.split()[1] for line in status.splitlines() if line.startswith(("SigPnd:", "ShdPnd:"))]
    return bool(flags & _PF_EXITING) or any(int(mask, 16) & _SIGKILL_BIT for mask in pending)
