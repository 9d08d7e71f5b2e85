"""What a drive is to be, before anything is made of it: what can be refused is refused here."""

import msgspec

from ringblk.engine.devices.device_face import DeviceFace
from ringblk.engine.devices.device_kind import DeviceKind
from ringblk.engine.devices.io_plan import IoPlan, plan_io
from ringblk.engine.drives.record import identify
from ringblk.engine.drives.running_settings import DriveIdentity
from ringblk.engine.drives.sandbox_plan import plan_sandbox
from ringblk.engine.options.config import EngineConfig
from ringblk.engine.vhost_user.listener import Listener
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.sandbox.process_user import ProcessUser
from ringblk.workers.sandbox.sandbox import Sandbox


class DrivePlan(msgspec.Struct, frozen=True, kw_only=True):
    """A drive's parts that need nobody's leave."""

    config: EngineConfig
    kind: DeviceKind
    backend: NativeBackend
    device: DeviceFace
    identity: DriveIdentity
    io: IoPlan
    sandbox: Sandbox
    user: ProcessUser | None
    """Whom its processes run as, if that was said."""
    inherited: Listener | None
    """The socket that was handed over to listen on, if one was."""

    @property
    def is_read_only(self) -> bool:
        """Whether nothing is ever written."""
        return self.config.read_only or self.backend.read_only


def plan_drive(
    config: EngineConfig, kind: DeviceKind, backend: NativeBackend, user: ProcessUser | None
) -> DrivePlan:
    """Put the parts together. Raises `ProgramError`."""
    return DrivePlan(
        config=config,
        kind=kind,
        backend=backend,
        device=kind.make_device(config, backend),
        sandbox=plan_sandbox(config, backend, user, kind.system_calls),
        io=plan_io(config.io_engine, backend),
        inherited=Listener.from_fd(config.fd) if config.fd is not None else None,
        identity=identify(config, backend),
        user=user,
    )
