"""The drives of an engine, as whoever lists and changes them sees them."""

from collections.abc import Iterable, Iterator
from typing import Literal, Protocol

from ringblk.engine.drives.drive import Drive
from ringblk.engine.options.drive_config import DriveConfig

DriveState = Literal["starting", "running", "ending", "failed", "ended"]
"""`failed`: it cannot be served any more; `ended`: the connection that it was handed over is."""


class NoSuchDrive(Exception):  # noqa: N818
    """There is no drive of this name."""


class DriveBusy(Exception):  # noqa: N818
    """Something else is done to the drive: wait for that, or name another."""


class OtherEngine(Exception):  # noqa: N818
    """This is for an engine with one drive, and the engine has a list; or the other way round."""


class DriveRefused(Exception):  # noqa: N818
    """A drive cannot be had so, and nothing has changed. `field` names the setting at fault, if one is."""

    def __init__(self, reason: str, field: str = "") -> None:
        super().__init__(reason)
        self.field = field


class DriveConflict(DriveRefused):
    """What is asked for is another drive's, or cannot be changed while the drive runs."""


class UpgradeRefused(Exception):  # noqa: N818
    """The program that is installed cannot go on with this engine, which goes on as it is."""


class EngineDrive(Protocol):
    """One of them."""

    @property
    def name(self) -> str:
        """What it is called; `SOLE_DRIVE` where the engine is for it alone."""

    @property
    def config(self) -> DriveConfig:
        """What it was begun with."""

    @property
    def state(self) -> DriveState:
        """What has become of it."""

    @property
    def reason(self) -> str:
        """Why it has failed."""

    @property
    def drive(self) -> Drive | None:
        """The drive itself, from when it is made until it is closed."""


class EngineUpgrade(Protocol):
    """Has the control plane go on as another program."""

    @property
    def program_id(self) -> str:
        """Of the program that this is."""

    async def check(self, drives: "Iterable[EngineDrive]") -> str:
        """See that the program that is installed can go on; its version. Raises `UpgradeRefused`."""

    def carry_out(self, drives: "Iterable[EngineDrive]") -> None:
        """Be that program; returns where that cannot be begun, or a drive stands in its way."""


class EngineDrives(Protocol):
    """All of them; those that have failed are among them."""

    @property
    def upgrade(self) -> EngineUpgrade:
        """What has the control plane go on as another program."""

    @property
    def is_sole(self) -> bool:
        """Whether the engine is for one drive."""

    def __iter__(self) -> Iterator[EngineDrive]:
        """In the order in which they came."""

    def get(self, name: str) -> EngineDrive:
        """The drive of this name. Raises `NoSuchDrive`."""

    async def add(self, name: str, config: DriveConfig) -> None:
        """Begin one more. Raises `DriveRefused` and `DriveBusy`; nothing is left of it then."""

    async def replace(self, name: str, config: DriveConfig) -> None:
        """Begin anew one that has failed or ended. Raises as `add` does; it stays as failed then."""

    async def remove(self, name: str, *, drains: bool = True) -> None:
        """End a drive, and leave nothing of it; not `drains`: at once, requests in flight or not.

        Raises `NoSuchDrive` and `DriveBusy`.
        """
