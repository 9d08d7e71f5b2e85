"""The image's lock through a drive's life: claimed at the start, given up when the guest moves, held again.

The engines that a guest moves between have its image open at the same time. `--lock` says when one of them
holds it: `always`, for as long as it lives; `running`, while a queue runs; `auto`, from its start until its
guest moves away, and from then on from the first start of a queue until the front end has gone or the guest
has moved again. A guest moves away when the last of its queues stops while its front end keeps a dirty log.
Queues that stop for a pause or a reset of the guest say nothing: with `auto` nobody else gets the image then.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator

import msgspec

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.devices.device import DeviceError
from ringblk.engine.drives.image_users import engines_on, holder_name, living
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.workers.backends.image_lock import ImageLocked
from ringblk.workers.backends.native import NativeBackend

LOOK_AGAIN_S = 0.005
PATIENCE_S = 1.0
"""How long a queue may wait for the image before the log says so."""

_log = logging.getLogger(__name__)


class HoldState(msgspec.Struct, frozen=True):
    """Where a hold stands, for a control plane that goes on with the drive."""

    is_held: bool
    is_from_start: bool
    is_unlocked: bool
    """The file system has no locks."""


class ImageHold:
    """Whether this engine has its drive's image, and what it does to have it."""

    def __init__(self, config: DriveConfig, backend: NativeBackend) -> None:
        """Raises `ProgramError` for storage whose lock cannot be given up, though that was asked for."""
        self._backend = backend  # whose descriptor the lock is of
        self._lock = backend.image_lock()
        self._storage = backend.identity()
        self._name = config.blk_file or config.storage_name
        self.option = config.storage_option
        """The option that names it, for messages."""
        if self._lock is None and config.lock != "auto":
            raise ProgramError(f"--lock {config.lock}: this backend has no image to lock")
        can_be_given_up = self._lock is not None and self._lock.can_be_given_up
        is_shared = self._lock is not None and self._lock.is_shared_between_hosts
        is_stale = is_shared and not backend.direct_io().is_direct
        if config.lock == "running" and can_be_given_up and is_stale and config.direct != "off":
            raise ProgramError(
                f"--blk-file {self._name}: other hosts may have it open, and I/O cannot go past the page"
                " cache: after a move a guest may read what was there before"
                " (--direct=off goes through the page cache all the same)",
                ExitStatus.FAILED,
            )
        if config.lock == "auto" and can_be_given_up and is_stale:
            _log.info("its guest cannot move: other hosts may have the image open, beyond the page cache")
        self.waits_for_queues = can_be_given_up and config.lock == "running"
        """Whether it is held while queues run, and only then."""
        self.can_be_given_up = self.waits_for_queues or (
            can_be_given_up and config.lock == "auto" and not is_stale
        )
        """Whether a guest can move away with it."""
        self._is_held = False
        self._is_from_start = False
        """Whether it has been held since the start: so a front end that goes leaves it."""
        self._is_unlocked = False

    # At the start

    def claim(self) -> None:
        """Have the image, while nobody else does.

        Raises `ImageLocked`, and `OSError` where the file system has no locks.
        """
        if self._lock is None:
            self._is_held = True
            return
        if not self.can_be_given_up:
            self._lock.lock()
        else:
            self._lock.claim()
        self._is_held = self._is_from_start = True

    def go_unlocked(self) -> None:
        """The file system has no locks: nothing keeps others off, and nothing is to be waited for."""
        self._lock = None
        self._is_unlocked = True
        self.can_be_given_up = self.waits_for_queues = False
        self._is_held = self._is_from_start = True

    @property
    def state(self) -> HoldState:
        """Where it stands."""
        return HoldState(self._is_held, self._is_from_start, self._is_unlocked)

    def resume(self, state: HoldState) -> None:
        """Go on where another control plane has ended; the drive's processes have the lock as well."""
        if state.is_unlocked:
            self.go_unlocked()
        self._is_held, self._is_from_start = state.is_held, state.is_from_start

    def may_stand_by(self, living_engines: list[int]) -> bool:
        """Whether the image, which could not be claimed, may be waited for when a queue starts.

        An engine holds it that may give it up. One on this host is waited for only where that was asked for
        (`--lock=running`): who starts a second engine on an image has mostly made a mistake.
        """
        if not self.can_be_given_up or (living_engines and not self.waits_for_queues):
            return False
        assert self._lock is not None, "what can be given up is locked"
        try:
            self._lock.announce()
        except ImageLocked:
            return False
        return self._lock.is_held_by_another()

    def begin(self) -> None:
        """The drive is made, with what an engine before this one has left: nothing more needs the claim."""
        if self.waits_for_queues:
            self._give_up()

    # While front ends are served

    def try_take(self) -> bool:
        """Have the image, unless another engine has it. Raises `DeviceError`."""
        if self._is_held:
            return True
        assert self._lock is not None, "what can be given up is locked"
        try:
            self._lock.hold()
        except ImageLocked:
            return False
        except OSError as error:
            raise DeviceError(f"the image cannot be locked: {error.strerror or error}") from error
        self._is_held = True
        self._is_from_start = False
        _tell_soon("the image is held")
        return True

    async def take(self) -> None:
        """Wait until nobody else has the image, however long that takes. Raises `DeviceError`."""
        loop = asyncio.get_running_loop()
        told_s: float | None = loop.time() + PATIENCE_S
        while not self.try_take():
            if told_s is not None and loop.time() > told_s:
                told_s = None
                holders = living(engines_on(self._storage.subject)) if self._storage is not None else []
                _log.warning("the queues wait for the image: in use by %s", holder_name(holders))
            await asyncio.sleep(LOOK_AGAIN_S)

    async def queues_stopped(self, flush: Callable[[], Awaitable[object]], *, is_moving: bool) -> None:
        """The last queue has stopped, and nothing is in flight; `is_moving`: its writes were logged."""
        if self.can_be_given_up and (self.waits_for_queues or is_moving):
            await self._flush_and_give_up(flush)
        elif is_moving and not self._backend.read_only:
            self._look_at_server()

    async def front_end_gone(self, flush: Callable[[], Awaitable[object]]) -> None:
        """No queue will start before another front end comes."""
        if self.can_be_given_up and not self._is_from_start:
            await self._flush_and_give_up(flush)

    async def _flush_and_give_up(self, flush: Callable[[], Awaitable[object]]) -> None:
        if not self._is_held:
            return
        try:
            if not self._backend.direct_io().is_direct or self._backend.layered is not None:
                await flush()
        except DeviceError as error:  # another engine would read what was there before
            _log.error("the image is not given up: it cannot be flushed: %s", error)
            return
        self._give_up()
        _tell_soon("the image is given up: another engine may have it")

    def _look_at_server(self) -> None:
        """The other engine has connections of its own: not every server shows by them what came by these."""
        server = self._backend.connection()
        if server is not None and "multi_conn" not in server.abilities:
            _log.warning(
                "the guest moves away, and the server does not say that its connections share one cache"
                " (CAN_MULTI_CONN): what was written and not flushed may be missed at the other engine"
            )

    def _give_up(self) -> None:
        if not self._is_held:
            return
        assert self._lock is not None, "what can be given up is locked"
        self._lock.give_up()
        self._is_held = self._is_from_start = False

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold it for a moment, to change the image itself. Raises `ImageLocked` where another has it."""
        if self._is_held:
            yield
            return
        assert self._lock is not None, "what can be given up is locked"
        self._lock.hold()
        try:
            yield
        finally:
            if not self._is_held:  # by a queue that has waited for it, meanwhile
                self._lock.give_up()

    @property
    def keeps_others_off(self) -> bool:
        """Whether any other engine waits for this one to give the image up, wherever it runs.

        A block device's lock does not reach other hosts.
        """
        return self.can_be_given_up and self._storage is not None and self._storage.kind == "image"

    @property
    def is_held(self) -> bool:
        """Whether the image is this engine's now."""
        return self._is_held

    @property
    def name(self) -> str:
        """What the image is called."""
        return self._name

    @property
    def storage_subject(self) -> tuple[int, int] | None:
        """What others know the image by (`StorageIdentity.subject`)."""
        return None if self._storage is None else self._storage.subject


def _tell_soon(text: str) -> None:
    """Log this when nobody waits for what was done: a line takes as long as the lock itself."""
    asyncio.get_running_loop().call_soon(_log.info, text)
