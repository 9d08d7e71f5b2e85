"""The drives of an engine by name: at the start all of them or none, later one at a time."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import msgspec

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.log_format import drive_in_log
from ringblk.engine.base.open_files import OpenFiles
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.drives.drives import DriveBusy, DriveConflict, DriveRefused, NoSuchDrive
from ringblk.engine.drives.engine_name import engine_name
from ringblk.engine.drives.list_record import ListRecord
from ringblk.engine.drives.record import clear_records
from ringblk.engine.options.config import EngineConfig, EngineOptions, check_drive, in_field_names
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.engine.program.drive_claim import Claims, remove_left
from ringblk.engine.program.drives_apart import TakenError, check_images_apart, check_sockets_apart
from ringblk.engine.program.orphans import Orphan, find_orphans
from ringblk.engine.program.served_drive import ServedDrive
from ringblk.engine.program.storage_opening import StorageOpeners
from ringblk.engine.program.upgrade import Upgrade
from ringblk.engine.supervisor.zygote_process import Zygote

_log = logging.getLogger(__name__)


class DriveList:
    """All drives of one engine, whatever state they are in."""

    def __init__(
        self,
        config: EngineConfig,
        zygote: Zygote,
        on_end: Callable[[ServedDrive], None],
        on_change: Callable[[], None],
        *,
        each_alone: bool = False,
    ) -> None:
        """`on_end` is told of each drive that is not served any more.

        `on_change` is called when a drive or a front end has come or gone. `each_alone`: one that cannot be
        served at the start fails alone, be it of the configuration file or not.
        """
        self._each_alone = each_alone
        self._zygote = zygote
        self._on_end = on_end
        self._on_change = on_change
        self._in_file = config.drives
        self._record: ListRecord | None = None
        if config.control is not None and not config.is_sole:
            self._record = ListRecord(config.control, forgets=config.forget_changes)
        carried = {} if self._record is None else self._record.take(self._in_file)
        left = {name: drive for name, drive in config.drives.items() if name not in carried}
        came = {name: drive for name, drive in carried.items() if drive is not None}
        self._config = msgspec.structs.replace(config, drives={**left, **came})
        self._drives = {name: ServedDrive(name, drive) for name, drive in left.items()}
        self._drives |= {name: ServedDrive(name, drive, is_carried=True) for name, drive in came.items()}
        self._open_files = OpenFiles(is_sole=config.is_sole)
        self._changing: dict[str, asyncio.Task[None]] = {}
        self._openers = StorageOpeners()
        self.upgrade = Upgrade(config, zygote, self._openers)
        self._opening: set[str] = set()
        self._is_ending = False
        if carried:
            gone = [name for name, drive in carried.items() if drive is None]
            words = [*(f"{name} added" for name in came), *(f"{name} removed" for name in gone)]
            _log.info(
                "changed while an engine before this one ran, and taken over: %s"
                " (--forget-changes begins with the file)",
                ", ".join(words),
            )

    @property
    def is_sole(self) -> bool:
        """Whether the engine is for one drive."""
        return self._config.is_sole

    def __iter__(self) -> Iterator[ServedDrive]:
        """All of them, those that have failed included."""
        return iter(list(self._drives.values()))

    def get(self, name: str) -> ServedDrive:
        """The drive of this name. Raises `NoSuchDrive`."""
        if name not in self._drives:
            raise NoSuchDrive(f"there is no drive {name}")
        return self._drives[name]

    # At the start

    def open(self) -> None:
        """Open all of them and make them this engine's. Raises `ProgramError`."""
        orphans = self._find_orphans()
        self._each(lambda served: self._open(served, orphans.get(served.name)))
        unclaimed = [served.plan for served in self if served.plan is not None and not served.is_adopted]
        claims = Claims(self._config, unclaimed)
        self._each(lambda served: None if served.is_adopted else served.claim(claims))
        plans = [served.plan for served in self if served.plan is not None]
        remove_left(plans, is_again=self._each_alone)

    def _find_orphans(self) -> dict[str, Orphan]:
        """The drives that a control plane before this one has left, and that are still to be as they are."""
        if self.is_sole:
            return {}
        orphans: dict[str, Orphan] = {}
        for orphan in find_orphans(
            engine_name(self._config.control, None), self._drives, self._zygote.sockets
        ):
            name = orphan.processes.name
            config = self._drives[name].config if name in self._drives else None
            if config == orphan.processes.config and name not in orphans:
                orphans[name] = orphan
            elif orphan.is_of_engine or (config is not None and orphan.is_in_the_way_of(config)):
                orphan.end()  # it was just about to be removed, or set anew
            else:
                orphan.let_go()
        return orphans

    def make(self) -> None:
        """Make all of them. Raises `ProgramError`."""
        self._each(lambda served: served.make(self._zygote))
        clear_records()
        if self._record is not None:
            try:
                self._record.begin()
            except OSError as error:
                raise ProgramError(
                    f"no room for the list's record in shared memory: {error}", ExitStatus.FAILED
                ) from error

    def begin(self) -> None:
        """Start all of them, or leave no process behind. Raises `ProgramError`, `OSError`."""
        try:
            self._each(ServedDrive.begin)
        except BaseException:
            for served in self:
                served.abandon()
            raise

    def serve(self) -> None:
        """Serve all that have begun."""
        for served in self:
            if served.state == "starting":
                served.serve(self._on_end, self._on_change)

    def _open(self, served: ServedDrive, orphan: Orphan | None = None) -> None:
        check_sockets_apart(served, self, self._config.control)
        if orphan is None or not self._adopt(served, orphan):
            served.open(self._config, self._open_files)
        check_images_apart(served, self)

    def _adopt(self, served: ServedDrive, orphan: Orphan) -> bool:
        """Whether it goes on with what another control plane has left; else nothing of that is left."""
        try:
            served.adopt(orphan, self._zygote, self._config, self._open_files)
        except ProgramError as error:
            with drive_in_log(served.name):
                _log.warning("%s; its processes are ended, and it begins anew", error)
            served.close()
            return False
        return True

    def _each(self, step: Callable[[ServedDrive], None]) -> None:
        """Take a step with each drive. One that came by the control API fails alone, or any does."""
        for served in self:
            if served.state == "failed":
                continue
            try:
                step(served)
            except ProgramError as error:
                if not served.is_carried and not self._each_alone:
                    raise
                served.fail(str(error))
                served.abandon()
                served.close()

    # While others are served

    async def add(self, name: str, config: DriveConfig) -> None:
        """Begin one more. Raises `DriveRefused` and `DriveBusy`; nothing is left of it then."""
        if self._is_ending:
            raise DriveBusy("the engine ends")
        if name in self._drives:
            raise DriveBusy(f"drive {name} is there already, {self._drives[name].state}")
        served = ServedDrive(name, config)
        try:
            check_drive(name, config)
            if config.socket_path is None:
                raise ProgramError(
                    f"drive {name}: fd is for drives that an engine starts with: give socket_path"
                )
            check_sockets_apart(served, self, self._config.control)
        except ProgramError as error:
            raise _refused(error) from error
        self._drives[name] = served
        await self._change(name, self._add(served))

    async def _add(self, served: ServedDrive) -> None:
        try:
            # What it is to be was said just now: nothing of an earlier engine's settings.
            options = msgspec.structs.replace(
                self._config, takeover=False, replace_image=False, forget_changes=True, drives={}
            )
            await self._open_later(served, options)
            served.make(self._zygote)
            served.begin()
            if self._record is not None:
                self._note_added(self._record, served)
        except BaseException as error:
            served.abandon()
            await served.finish()
            self._forget(served)
            if isinstance(error, asyncio.CancelledError):  # `end`
                raise DriveBusy("the engine ends") from error
            if isinstance(error, ProgramError):
                raise _refused(error) from error
            if isinstance(error, OSError):
                raise DriveRefused(f"drive {served.name}: {error.strerror or error}") from error
            raise
        served.serve(self._on_end, self._on_change)

    async def _open_later(self, served: ServedDrive, options: EngineOptions) -> None:
        """All that may take long before a drive is made. Cancelled when the engine ends."""
        if self._is_ending:
            raise DriveBusy("the engine ends")
        self._opening.add(served.name)
        try:
            await served.open_later(options, self._open_files, self._openers)
            check_images_apart(served, self)
            await served.claim_later()
        finally:
            self._opening.discard(served.name)

    def _note_added(self, record: ListRecord, served: ServedDrive) -> None:
        """Have the next engine begin it as well, which it does by itself where the file has it so."""
        if self._in_file.get(served.name) == served.config:
            record.forget(served.name)
        else:
            record.note(served.name, served.config)

    async def replace(self, name: str, config: DriveConfig) -> None:
        """Begin anew one that has failed or ended. Raises as `add` does; it stays as failed then."""
        former = self.get(name)
        await former.finish()
        self._forget(former)
        try:
            await self.add(name, config)
        except (DriveRefused, DriveBusy) as error:
            served = ServedDrive(name, former.config)
            served.fail(str(error))
            self._drives.setdefault(name, served)
            raise

    async def remove(self, name: str, *, drains: bool = True) -> None:
        """End a drive, and leave nothing of it; not `drains`: at once, requests in flight or not.

        Raises `NoSuchDrive`, `DriveBusy`.
        """
        served = self.get(name)
        if served.state == "starting":
            raise DriveBusy(f"drive {name} is being started")
        served.end(is_removed=True)
        if not drains:
            served.kill()
        await self._change(name, self._remove(served))

    async def _remove(self, served: ServedDrive) -> None:
        await served.finish()
        if served.config.fd is not None:
            self._zygote.let_go(served.config.fd)
        self._forget(served)
        if self._record is None:
            return
        try:
            if served.name in self._in_file:
                self._record.note(served.name, None)
            else:
                self._record.forget(served.name)
        except OSError as error:
            _log.error(
                "the next engine has drive %s again, that it is gone is not noted: %s", served.name, error
            )

    async def _change(self, name: str, change: Coroutine[Any, Any, None]) -> None:
        """Make a change to the end, whoever waits for it; who comes meanwhile waits for the same."""
        if name in self._changing:
            change.close()
        else:
            self._changing[name] = asyncio.get_running_loop().create_task(change)
            self._changing[name].add_done_callback(lambda _: self._changing.pop(name))
        # No name for the task: its exception knows this frame, and would keep all that the drive has.
        await asyncio.shield(self._changing[name])

    # At the end

    def end(self, *, for_successor: bool = False) -> None:
        """Have all of them end; no more come."""
        if not self._is_ending:
            for name in self._opening:
                self._changing[name].cancel()
        self._is_ending = True
        for served in self:
            served.end(for_successor=for_successor)

    def kill(self) -> None:
        """End the processes of all of them at once."""
        for served in self:
            served.kill()

    async def drain(self) -> None:
        """Wait until all that was in flight is done."""
        await asyncio.gather(*self._changing.values(), return_exceptions=True)
        await asyncio.gather(*(served.wait_served() for served in self))

    async def finish(self) -> None:
        """Wait until all have ended, and end their processes."""
        self._openers.end_idle()
        await asyncio.gather(*(served.finish() for served in self))

    def close(self) -> bool:
        """Let go of all that was opened; False where a storage has failed at that."""
        if self._record is not None:
            self._record.close()
        closed = [served.close() for served in self]  # all of them, whichever fails
        return all(closed)

    def _forget(self, served: ServedDrive) -> None:
        served.close()
        del self._drives[served.name]
        self._on_change()


def _refused(error: ProgramError) -> DriveRefused:
    """The same, for the control API: the first field that is named is the one at fault."""
    text = in_field_names(str(error))
    words = text.replace(":", " ").replace(",", " ").split()
    fields = [word for word in words[2:] if word in DriveConfig.__struct_fields__]
    refusal = DriveConflict if isinstance(error, TakenError) else DriveRefused
    return refusal(text, fields[0] if fields else "")
