"""Claiming an image: one engine that writes to it, and none before its predecessor's last process is gone.

The claim is a lock on the image's open file description (`ImageHold`), which the children inherit. So it is
the fence between engines: whatever a killed engine still has on its way to the disk, one of its processes, or
a request of its io_uring, holds the image open until it has landed.

Who holds an image can be read from the state segments of the engines on this machine: a holder whose
supervisor lives is in use; one whose supervisor is gone is about to end, and is waited for.
"""

import contextlib
import logging
import os
import time

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.drives.image_hold import ImageHold
from ringblk.engine.drives.image_users import engines_on, holder_name, image_of, living
from ringblk.engine.drives.segments import DriveSegment
from ringblk.engine.program.takeover import Takeover
from ringblk.shm.platform.kernel_files import device_node, locked_inodes
from ringblk.shm.segments.segment import remove_orphan
from ringblk.shm.segments.shared_folder import shared_names
from ringblk.shm.state.segment import SEGMENT_PREFIX
from ringblk.workers.backends.image_lock import ImageLocked
from ringblk.workers.backends.interface import BackendError

REFUSAL_S = 1.0
"""How long a holder is watched before it counts as alive: one that was just killed needs a moment to go."""
DEAD_HOLDER_S = 15.0
"""How long what is left of a dead engine (I/O in the kernel) may hold the image."""
LOOK_S = 0.005

_log = logging.getLogger(__name__)


class ImageClaim:
    """Locks an image, for as long as any process has it open; waits for an engine that is ending.

    With `takes_over`, an engine that uses it is told to end. To be tried until it is had.
    """

    def __init__(self, hold: ImageHold, *, takes_over: bool) -> None:
        self._hold = hold
        self._takes_over = takes_over
        self._takeover = Takeover()
        self._refused_s: float | None = None
        # A dead engine's segment may name an image that was since deleted, and this one got its number.
        self._given_up_s = time.monotonic() + DEAD_HOLDER_S
        self._waits = False

    def attempt(self) -> bool:
        """Whether the image is this engine's now, or its queues wait for it.

        Raises `ProgramError` when somebody else uses it.
        """
        if self._takes_over and self._hold.can_be_given_up and self._tell(living(self._holders())):
            return False  # one that has given it up ends, too
        try:
            self._hold.claim()
            return True
        except ImageLocked:
            holders = self._holders()
        except BackendError as error:
            raise ProgramError(f"{self._hold.option.partition(' ')[0]} {error}", ExitStatus.FAILED) from error
        except OSError as error:
            _log.warning(
                "%s: cannot be locked: %s; nothing keeps others off it",
                self._hold.name,
                error.strerror or error,
            )
            self._hold.go_unlocked()
            return True
        alive = living(holders)
        if self._takes_over and self._tell(alive):
            return False
        if alive or not holders or time.monotonic() > self._given_up_s:
            return self._stand_by_after_a_while(alive)
        if not self._waits:
            self._waits = True
            _log.info("waiting for the last process of the engine before this one (process %d)", holders[0])
        return False

    def _holders(self) -> list[int]:
        return [] if self._hold.storage_subject is None else engines_on(self._hold.storage_subject)

    def _tell(self, alive: list[int]) -> bool:
        for pid in alive:
            self._takeover.tell(pid)
        return bool(alive)

    def _stand_by_after_a_while(self, alive: list[int]) -> bool:
        """Whether queues wait for the image of another engine. Raises `ProgramError` where they may not."""
        self._refused_s = self._refused_s or time.monotonic() + REFUSAL_S
        if time.monotonic() <= self._refused_s:
            return False
        if self._hold.may_stand_by(alive):
            _log.info("the image is in use by %s: the queues wait until it is given up", holder_name(alive))
            return True
        raise ProgramError(f"{self._hold.option}: in use by {holder_name(alive)}", ExitStatus.FAILED)


def claim_image(hold: ImageHold, *, takes_over: bool) -> None:
    """Lock an image (`ImageClaim`), and wait for that. Raises `ProgramError` when somebody else uses it."""
    claim = ImageClaim(hold, takes_over=takes_over)
    while not claim.attempt():
        time.sleep(LOOK_S)


def remove_dead_engines(*own_images: tuple[int, int]) -> list[str]:
    """Remove the segments of engines that are gone, now that this one has its images; returns their names.

    One stays where an engine without processes still holds its image, by I/O in the kernel: from its segment
    a successor learns that it only has to wait.
    """
    segments = {name: DriveSegment.named(name) for name in shared_names(SEGMENT_PREFIX)}
    held = {name for name, segment in segments.items() if segment.is_held()}
    if len(held) == len(segments):
        return []  # as nearly always: nothing else needs to be looked at
    images = {name: image_of(segment) for name, segment in segments.items()}
    in_use = {images[name] for name in held} | {*own_images}
    locked = locked_inodes("OFDLCK")
    # An image that cannot be told may be any that is locked, and that no engine here is known to use.
    is_unknown_locked = bool(locked - {_inode_of(image) for image in in_use if image is not None})

    def is_waited_for(image: tuple[int, int] | None) -> bool:
        return is_unknown_locked if image is None else image not in in_use and _inode_of(image) in locked

    waited_for = {name for name, image in images.items() if is_waited_for(image)}
    return [name for name in segments if name not in held | waited_for and remove_orphan(name)]


def _inode_of(image: tuple[int, int]) -> int:
    """The inode that the image's lock is on: a block device's node. 0: it cannot be told."""
    device, inode = image
    if inode == 0 and device != 0:
        with contextlib.suppress(OSError):
            return os.stat(device_node(device)).st_ino
    return inode
