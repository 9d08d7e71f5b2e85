"""What a drive is to be, before anything is made of it: what can be refused is refused here."""

import msgspec

from ringblk.engine.base.open_files import OpenFiles
from ringblk.engine.devices.device_face import DeviceFace
from ringblk.engine.devices.device_kind import DeviceKind
from ringblk.engine.devices.io_plan import IoPlan
from ringblk.engine.drives.image_hold import ImageHold
from ringblk.engine.drives.record import identify
from ringblk.engine.drives.running_settings import DriveIdentity
from ringblk.engine.drives.sandbox_plan import plan_sandbox
from ringblk.engine.drives.storage import OpenedStorage
from ringblk.engine.options.config import EngineOptions
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.engine.supervisor.cgroup import DriveCgroup
from ringblk.engine.vhost_user.listener import Listener
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.sandbox.process_user import ProcessUser
from ringblk.workers.sandbox.sandbox import Sandbox


class DrivePlan(msgspec.Struct, frozen=True, kw_only=True):
    """A drive's parts that need nobody's leave."""

    name: str
    """As its engine knows it; `SOLE_DRIVE` where the engine is for one."""
    config: DriveConfig
    options: EngineOptions
    """How its engine was started."""
    open_files: OpenFiles
    """Where its engine keeps count of descriptors; its share is reserved."""
    kind: DeviceKind
    backend: NativeBackend
    storage_fds: frozenset[int]
    """What was opened for the storage, by whoever opened it."""
    device: DeviceFace
    identity: DriveIdentity
    image: tuple[int, int] | None
    """What others know its image by (`StorageIdentity.subject`); None: it has none."""
    hold: ImageHold
    io: IoPlan
    sandbox: Sandbox
    user: ProcessUser | None
    """Whom its processes run as, if that was said."""
    cgroup: DriveCgroup | None
    """Where its processes are accounted for, if that was said."""
    inherited: Listener | None
    """The socket that was handed over to listen on, if one was."""

    @property
    def is_read_only(self) -> bool:
        """Whether nothing is ever written."""
        return self.config.read_only or self.backend.read_only


def plan_drive(
    name: str,
    config: DriveConfig,
    options: EngineOptions,
    open_files: OpenFiles,
    kind: DeviceKind,
    opened: OpenedStorage,
    user: ProcessUser | None,
    cgroup: DriveCgroup | None,
) -> DrivePlan:
    """Put the parts together. Raises `ProgramError`."""
    backend = opened.backend
    storage = backend.identity()
    return DrivePlan(
        name=name,
        config=config,
        options=options,
        open_files=open_files,
        kind=kind,
        backend=backend,
        storage_fds=opened.fds,
        device=kind.make_device(config, backend),
        sandbox=plan_sandbox(config, backend, user, kind),
        io=opened.io,
        inherited=Listener.from_fd(config.fd) if config.fd is not None else None,
        identity=identify(config, backend),
        image=None if storage is None else storage.subject,
        hold=ImageHold(config, backend),
        user=user,
        cgroup=cgroup,
    )
