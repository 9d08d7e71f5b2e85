"""One drive in an engine: opened, claimed, made, served, ended."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.log_format import drive_in_log
from ringblk.engine.base.open_files import OpenFiles
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.devices.kinds import kind_named
from ringblk.engine.drives.adopted_drive import AdoptedDrive
from ringblk.engine.drives.drive import Drive
from ringblk.engine.drives.drives import DriveState
from ringblk.engine.drives.making import make_drive
from ringblk.engine.drives.plan import DrivePlan, plan_drive
from ringblk.engine.drives.record import FoundRecord
from ringblk.engine.drives.sandbox_plan import plan_user
from ringblk.engine.drives.storage import OpenedStorage, close_storage, save_storage
from ringblk.engine.options.config import EngineOptions, of_drive, place_of
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.engine.options.drive_names import SOLE_DRIVE
from ringblk.engine.program.drive_claim import Claims, claim_drive, find_record
from ringblk.engine.program.opener import open_here
from ringblk.engine.program.orphans import Orphan
from ringblk.engine.program.storage_opening import StorageOpeners
from ringblk.engine.supervisor.cgroup import DriveCgroup
from ringblk.engine.supervisor.drive_processes import ProcessesFailed
from ringblk.engine.supervisor.kept_parts import AdoptionFailed
from ringblk.engine.supervisor.zygote_process import Zygote
from ringblk.workers.sandbox.process_user import ProcessUser

_log = logging.getLogger(__name__)


class ServedDrive:
    """`open`, `make`, `begin`, `serve`; then `finish`. `close` lets go of it after any step."""

    def __init__(self, name: str, config: DriveConfig, *, is_carried: bool = False) -> None:
        """`is_carried`: it came by the control API of an engine before, so others start without it."""
        self.name = name
        self.is_carried = is_carried
        self.config = config
        """What it was begun with."""
        self.socket_place = None if config.socket_path is None else place_of(config.socket_path)
        """As `place_of` has it."""
        self.state: DriveState = "starting"
        self.reason = ""
        """Why it has failed."""
        self.plan: DrivePlan | None = None
        self.drive: Drive | None = None
        self._found: FoundRecord | None = None
        self._adopted: AdoptedDrive | None = None
        self._serving: asyncio.Task[None] | None = None
        self._finishing: asyncio.Task[None] | None = None
        self._open_files: OpenFiles | None = None
        self._cgroup: DriveCgroup | None = None
        self._zygote: Zygote | None = None
        self._is_stuck = False
        """Whether its storage cannot be closed."""

    @property
    def is_sole(self) -> bool:
        """Whether its engine is for it alone."""
        return self.name == SOLE_DRIVE

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """What is logged is of this drive, and what is refused names it."""
        with drive_in_log(self.name):
            try:
                yield
            except ProgramError as error:
                raise of_drive(self.name, error) from error

    def open(self, options: EngineOptions, open_files: OpenFiles) -> None:
        """Open its storage, and see what can be made of it. Raises `ProgramError`."""
        with self._named():
            user = self._reserve(open_files)
            self._plan(options, open_files, open_here(self.config, is_sole=self.is_sole), user)

    async def open_later(
        self, options: EngineOptions, open_files: OpenFiles, openers: StorageOpeners
    ) -> None:
        """The same, while others are served. Raises `OSError`, too."""
        with self._named():
            user = self._reserve(open_files)
            self._plan(options, open_files, await openers.open(self.config), user)

    def _reserve(self, open_files: OpenFiles) -> ProcessUser | None:
        user = plan_user(self.config)
        if self.config.cgroup is not None:
            self._cgroup = DriveCgroup(self.config.cgroup)
        open_files.reserve(self.name, self.config.workers, self.config.virtqueue_count)
        self._open_files = open_files
        return user

    def _plan(
        self,
        options: EngineOptions,
        open_files: OpenFiles,
        opened: OpenedStorage,
        user: ProcessUser | None,
    ) -> None:
        try:
            open_files.reserve(
                self.name, self.config.workers, self.config.num_queues, len(opened.backend.fds)
            )
            self.plan = plan_drive(
                self.name,
                self.config,
                options,
                open_files,
                kind_named(self.config.kind),
                opened,
                user,
                self._cgroup,
            )
        except BaseException:
            close_storage(opened.backend)
            raise

    def adopt(
        self,
        orphan: Orphan,
        zygote: Zygote,
        options: EngineOptions,
        open_files: OpenFiles,
    ) -> None:
        """Go on with its processes, which another control plane has left; in place of `open` and `claim`.

        Raises `ProgramError`; they have been ended then.
        """
        with self._named():
            adopted = orphan.adopt(zygote)
            try:
                user = self._reserve(open_files)
                self._plan(options, open_files, orphan.storage(), user)
            except BaseException:
                orphan.end()
                adopted.state.close()
                raise
            self._adopted = adopted
            assert self.plan is not None
            self.plan.hold.resume(orphan.drive.hold)
            self._found = find_record(self.plan)

    @property
    def is_adopted(self) -> bool:
        """Whether it goes on with processes of another control plane's."""
        return self._adopted is not None

    def claim(self, claims: Claims) -> None:
        """Be the only one on it. Raises `ProgramError`."""
        assert self.plan is not None, "open comes first"
        with self._named():
            self._found = claims.make(self.plan)

    async def claim_later(self) -> None:
        """The same, while others are served."""
        assert self.plan is not None, "open comes first"
        with self._named():
            self._found = await claim_drive(self.plan)

    def make(self, zygote: Zygote) -> None:
        """Make it, with what an engine before has left, once it is claimed. Raises `ProgramError`."""
        assert self.plan is not None, "open comes first"
        with self._named():
            self._zygote = zygote
            self.drive = make_drive(self.plan, self._found, zygote, self._adopted)

    def begin(self) -> None:
        """Listen, and start its processes. Raises `ProgramError` and `OSError`."""
        assert self.plan is not None, "open comes first"
        assert self.drive is not None, "make comes first"
        assert self._zygote is not None, "make comes first"
        with self._named():
            try:
                if self.plan.backend.layered is not None:
                    self._zygote.have_imported("overlay")
                self.drive.listen(self._zygote.sockets)
                if not self.is_sole and self.plan.user is not None and self.config.socket_path is not None:
                    self.plan.user.own(self.config.socket_path)
                self.drive.start()
            except (OSError, AdoptionFailed) as error:
                if self.is_sole:
                    raise
                raise ProgramError(f"cannot be started: {error}", ExitStatus.FAILED) from error

    def serve(self, on_end: Callable[["ServedDrive"], None], on_change: Callable[[], None]) -> None:
        """Serve front ends in the background; `on_end` is called once it has ended, whatever way.

        `on_change` is called when this has begun, and when a front end has come or gone.
        """
        assert self.drive is not None, "begin comes first"
        with drive_in_log(self.name):
            _log.info("%s", self.drive.first_line())
            self.state = "running"
            self._serving = asyncio.get_running_loop().create_task(self._serve(self.drive, on_change))
        self._serving.add_done_callback(lambda _: on_end(self))
        on_change()

    async def _serve(self, drive: Drive, on_change: Callable[[], None]) -> None:
        try:
            await drive.run(on_change)
            self.state = "ended"
        except ProcessesFailed as error:
            self.state, self.reason = "failed", str(error)
            _log.error("the engine ends: %s" if self.is_sole else "the drive has failed: %s", error)

    def end(self, *, for_successor: bool = False, is_removed: bool = False) -> None:
        """Have it end once what is in flight is done (`Drive.end`)."""
        if self.drive is not None:
            if self.state == "running":
                self.state = "ending"
            self.drive.end(for_successor=for_successor, is_removed=is_removed)

    def kill(self) -> None:
        """End its processes at once."""
        if self.drive is not None:
            self.drive.kill()

    def fail(self, reason: str) -> None:
        """It cannot be had, and is listed all the same."""
        with drive_in_log(self.name):
            _log.error("the drive cannot be served: %s", reason)
        self.state, self.reason = "failed", reason

    def abandon(self) -> None:
        """It has begun, or has tried to, and is not to be served."""
        if self.drive is not None:
            self.drive.stop_listening()
            self.drive.kill()

    async def wait_served(self) -> None:
        """Wait until nothing is in flight and nobody is served."""
        if self._serving is not None:
            await asyncio.wait([self._serving])

    async def finish(self) -> None:
        """Wait until it is not served any more, and end its processes; who calls again waits for the same."""
        if self._finishing is None:
            with drive_in_log(self.name):
                self._finishing = asyncio.get_running_loop().create_task(self._finish())
        await asyncio.shield(self._finishing)

    async def _finish(self) -> None:
        await self.wait_served()
        if self.drive is not None:
            self.drive.stop_listening()
            await self.drive.stop()
        if self.plan is not None:
            self._is_stuck = not await save_storage(self.plan.backend)

    def close(self) -> bool:
        """Let go of all that is its; False where the storage has failed at that."""
        with drive_in_log(self.name):
            if self._open_files is not None:
                self._open_files.release(self.name)
            if self._cgroup is not None:
                self._cgroup.close()
            if self.drive is not None:
                self.drive.close()
                self.drive = None
            if self.plan is None:
                return True
            plan, self.plan = self.plan, None
            plan.sandbox.close()
            return not self._is_stuck and close_storage(plan.backend)
