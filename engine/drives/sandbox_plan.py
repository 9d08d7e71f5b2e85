"""The sandbox that an engine's options ask for."""

import logging

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.devices.device_kind import DeviceKind
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.shm.platform.abilities import HAS_SANDBOX
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.sandbox.process_user import ProcessUser, UnknownUser
from ringblk.workers.sandbox.sandbox import Sandbox

_log = logging.getLogger(__name__)


def plan_user(config: DriveConfig) -> ProcessUser | None:
    """Whom the processes are to run as, if that was said. Raises `ProgramError`."""
    if config.user is None:
        return None
    try:
        return ProcessUser.named(config.user)
    except UnknownUser as error:
        raise ProgramError(f"--user {config.user}: {error}", ExitStatus.FAILED) from error


def plan_sandbox(
    config: DriveConfig, backend: NativeBackend, user: ProcessUser | None, kind: DeviceKind
) -> Sandbox:
    """Make it, for children of this kind's drives.

    Raises `ProgramError` where it cannot be had as asked for.
    """
    runs_user_code = config.runs_user_code
    if config.sandbox_allow and not runs_user_code:
        raise ProgramError("--sandbox-allow: only for a --backend=package.module:Class; others open nothing")
    try:
        sandbox = Sandbox(
            confines=config.sandbox != "off",
            runs_user_code=runs_user_code,
            storage_calls=backend.system_calls,
            allowed_paths=(*config.sandbox_allow, *backend.reachable_paths),
            allowed_ports=backend.reachable_ports,
            user=user,
            # A class of a user's does what it does by itself, as any program may.
            system_calls="" if runs_user_code else kind.system_calls,
            kept_capabilities=0 if runs_user_code else kind.kept_capabilities,
            opens_handles=kind.opens_handles and not runs_user_code,
        )
    except OSError as error:
        where = f"--sandbox-allow {error.filename}" if error.filename else "--sandbox"
        raise ProgramError(f"{where}: {error.strerror or error}", ExitStatus.FAILED) from error
    if sandbox.missing and HAS_SANDBOX:  # else there is none to miss, and the drive's first line says so
        missing = " and no ".join(sandbox.missing)
        if config.sandbox == "on":
            raise ProgramError(f"--sandbox on: this kernel has no {missing}", ExitStatus.FAILED)
        _log.warning("sandbox: this kernel has no %s; going on without", missing)
    return sandbox
