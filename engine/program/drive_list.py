"""The drives of an engine by name: at the start all of them or none, later one at a time."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import msgspec

from ringblk.engine.base.open_files import OpenFiles
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.devices.device_kind import DeviceKind
from ringblk.engine.drives.drives import DriveBusy, DriveRefused, NoSuchDrive
from ringblk.engine.drives.record import clear_records
from ringblk.engine.options.config import EngineConfig, check_drive, in_field_names, of_drive, same_socket
from ringblk.engine.options.drive_config import DriveConfig, option_of
from ringblk.engine.program.drive_claim import claim_drive, claim_drives
from ringblk.engine.program.served_drive import ServedDrive


class DriveList:
    """All drives of one engine, whatever state they are in."""

    def __init__(self, config: EngineConfig, kind: DeviceKind, on_end: Callable[[ServedDrive], None]) -> None:
        """`on_end` is told of each drive that is not served any more."""
        self._config = config
        self._kind = kind
        self._on_end = on_end
        self._drives = {name: ServedDrive(name, drive) for name, drive in config.drives.items()}
        self._open_files = OpenFiles(is_sole=config.is_sole)
        self._changing: dict[str, asyncio.Task[None]] = {}
        self._is_ending = False

    def __iter__(self) -> Iterator[ServedDrive]:
        """All of them, those that have failed included."""
        return iter(list(self._drives.values()))

    def __len__(self) -> int:
        """How many there are."""
        return len(self._drives)

    def get(self, name: str) -> ServedDrive:
        """The drive of this name. Raises `NoSuchDrive`."""
        if name not in self._drives:
            raise NoSuchDrive(f"there is no drive {name}")
        return self._drives[name]

    # At the start

    def open(self) -> None:
        """Open all of them and make them this engine's. Raises `ProgramError`."""
        plans = []
        for served in self:
            plans.append(served.open(self._config, self._kind, self._open_files))
            self._check_image(served)
        self._found = claim_drives(self._config, plans)

    def make(self) -> None:
        """Make all of them. Raises `ProgramError`."""
        for served in self:
            served.make(self._found.get(served.name))
        clear_records()

    def begin(self) -> None:
        """Start all of them, or leave no process behind. Raises `ProgramError`, `OSError`."""
        try:
            for served in self:
                served.begin()
        except BaseException:
            for served in self:
                served.abandon()
            raise

    def serve(self) -> None:
        """Serve all that have begun."""
        for served in self:
            served.serve(self._on_end)

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
            self._check_apart(served)
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
            plan = served.open(options, self._kind, self._open_files)
            self._check_image(served)
            found = await claim_drive(plan)
            if self._is_ending:
                raise DriveBusy("the engine ends")
            served.make(found)
            served.begin()
        except BaseException as error:
            served.abandon()
            await served.finish()
            self._forget(served)
            if isinstance(error, ProgramError):
                raise _refused(error) from error
            raise
        served.serve(self._on_end)

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
        self._forget(served)

    async def _change(self, name: str, change: Coroutine[Any, Any, None]) -> None:
        """Make a change to the end, whoever waits for it; who comes meanwhile waits for the same."""
        if name in self._changing:
            change.close()
        else:
            task = self._changing[name] = asyncio.get_running_loop().create_task(change)
            task.add_done_callback(lambda _: self._changing.pop(name))
        await asyncio.shield(self._changing[name])

    # At the end

    def end(self, *, for_successor: bool = False) -> None:
        """Have all of them end; no more come."""
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
        await asyncio.gather(*(served.finish() for served in self))

    def close(self) -> bool:
        """Let go of all that was opened; False where a storage has failed at that."""
        closed = [served.close() for served in self]  # all of them, whichever fails
        return all(closed)

    def _forget(self, served: ServedDrive) -> None:
        served.close()
        self._open_files.release(served.name)
        del self._drives[served.name]

    # What two drives may not both have

    def _check_apart(self, added: ServedDrive) -> None:
        """Raise `ProgramError` for a socket that another drive or the control API has."""
        path = added.config.socket_path
        if path is None:
            raise ProgramError(
                f"drive {added.name}: fd is for drives of the engine's own start: give socket_path"
            )
        if self._config.control is not None and same_socket(path, self._config.control):
            raise ProgramError(f"drive {added.name}: socket_path {path} is control's, too")
        for served in self:
            other = served.config.socket_path
            if other is not None and same_socket(path, other):
                raise ProgramError(f"drive {added.name}: socket_path {path} is drive {served.name}'s, too")

    def _check_image(self, added: ServedDrive) -> None:
        """Raise `ProgramError` for an image that another drive has, unless both only read it."""
        assert added.plan is not None, "open comes first"
        storage = added.plan.backend.identity()
        for served in self:
            if served is added or served.plan is None or storage is None:
                continue
            other = served.plan.backend.identity()
            if other is None or other.subject != storage.subject:
                continue
            if not (added.plan.is_read_only and served.plan.is_read_only):
                raise of_drive(
                    added.name,
                    ProgramError(
                        f"{option_of('blk_file')} {added.plan.config.blk_file} is drive {served.name}'s, too:"
                        " only drives that are read_only may share an image"
                    ),
                )


def _refused(error: ProgramError) -> DriveRefused:
    """The same, for the control API: the first field that is named is the one at fault."""
    text = in_field_names(str(error))
    words = text.replace(":", " ").replace(",", " ").split()
    fields = [word for word in words[2:] if word in DriveConfig.__struct_fields__]
    return DriveRefused(text, fields[0] if fields else "")
