"""An engine's configuration for its next control plane, and what that takes over from the one before it."""

import os
import socket
from collections.abc import MutableMapping

import msgspec

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.base.program_start import ADOPT_VARIABLE
from ringblk.engine.base.version import VERSION
from ringblk.engine.options.config import EngineConfig
from ringblk.engine.zygote.messages import FromZygote, TakeOn
from ringblk.engine.zygote.zygote import ZygoteEnd
from ringblk.shm.platform.process import watch_process
from ringblk.shm.platform.shared_memory import make_unnamed
from ringblk.shm.sync.channel import Channel, ChannelClosed

_NOT_FOR_PEOPLE = f"{ADOPT_VARIABLE} is for the zygote of an engine to set: unset it"


class KeptConfig(msgspec.Struct, frozen=True):
    """What the next control plane begins with, whatever its files and options say by then."""

    version: str
    config: EngineConfig


class Adoption(msgspec.Struct, frozen=True):
    """What a control plane takes over from one that has died."""

    config: EngineConfig
    config_fd: int
    launcher_pidfd: int
    zygote_end: ZygoteEnd | None
    """None: it has died, too."""


def keep_config(config: EngineConfig) -> int:
    """A descriptor of this configuration in memory. Raises `OSError`."""
    data = msgspec.json.encode(KeptConfig(VERSION, config))
    fd = make_unnamed("ringblk-config", len(data))
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    return fd


def as_begun(config: EngineConfig) -> EngineConfig:
    """The same once the engine has begun: what was to be done once is done."""
    return msgspec.structs.replace(config, takeover=False, replace_image=False, forget_changes=False)


def take_adoption(environment: MutableMapping[str, str]) -> Adoption:
    """What the zygote that has started this process has sent (`ADOPT_VARIABLE`). Raises `ProgramError`."""
    message, fds, end = _receive(environment.pop(ADOPT_VARIABLE))
    kept = _read(fds[0])
    return Adoption(
        config=kept.config,
        config_fd=fds[0],
        launcher_pidfd=fds[1] if message.has_launcher else -1,
        zygote_end=_zygote_end(message.zygote_pid, end),
    )


def _receive(fd_text: str) -> tuple[TakeOn, list[int], socket.socket]:
    try:
        end = socket.socket(fileno=int(fd_text))
        end.set_inheritable(False)
        channel: Channel[FromZygote] = Channel(end, FromZygote)
        received = channel.receive()
    except (ValueError, OSError, ChannelClosed, msgspec.DecodeError) as error:
        raise ProgramError(_NOT_FOR_PEOPLE) from error
    if received is None or not isinstance(received[0], TakeOn):
        raise ProgramError(_NOT_FOR_PEOPLE)
    return received[0], received[1], end


def _read(config_fd: int) -> KeptConfig:
    data = os.pread(config_fd, os.fstat(config_fd).st_size, 0)
    version = msgspec.json.decode(data, type=dict[str, msgspec.Raw])["version"]
    if msgspec.json.decode(version) != VERSION:
        raise ProgramError(
            "the control plane that has died cannot be started again: another version is installed now",
            exit_status=ExitStatus.FAILED,
        )
    return msgspec.json.decode(data, type=KeptConfig)


def _zygote_end(pid: int, end: socket.socket) -> ZygoteEnd | None:
    """This process's end of its zygote, which is its parent for as long as it lives."""
    try:
        pidfd = watch_process(pid)
    except ProcessLookupError:
        pidfd = -1
    if pidfd >= 0 and os.getppid() == pid:
        return ZygoteEnd(pid, end, pidfd)
    end.close()
    if pidfd >= 0:
        os.close(pidfd)
    return None
