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
from ringblk.engine.zygote.left_sockets import take_sockets
from ringblk.engine.zygote.messages import FromZygote, KeepSocket, TakeOn
from ringblk.engine.zygote.zygote import ZygoteEnd
from ringblk.shm.platform.process import watch_process
from ringblk.shm.platform.shared_memory import make_unnamed
from ringblk.shm.sync.channel import Channel, ChannelClosed

_NOT_FOR_PEOPLE = f"{ADOPT_VARIABLE} is for the zygote of an engine to set: unset it"


class Form(msgspec.Struct, frozen=True):
    """What a program must have in common with another to go on with its drives (`current_form`)."""

    kept: int
    segment: int
    """The layout of a drive's segment."""
    types: str
    """A digest of the types of all that is kept and said."""


class KeptConfig(msgspec.Struct, frozen=True):
    """What the next control plane begins with, whatever its files and options say by then."""

    version: str
    form: Form | None
    """None: of an engine that had not begun."""
    program_id: str
    """Of the program that the zygote is a process of: another one has another."""
    config: EngineConfig


class _KeptForm(msgspec.Struct):
    """What is read of a configuration that may be of any version."""

    version: str
    form: Form | None = None


class Adoption(msgspec.Struct, frozen=True):
    """What a control plane takes over from one that has died."""

    config: EngineConfig
    program_id: str
    config_fd: int
    launcher_pidfd: int
    sockets: dict[int, KeepSocket]
    zygote_end: ZygoteEnd | None
    """None: it has died, too."""


def new_program_id() -> str:
    """For a program that begins, be it the same as before."""
    return os.urandom(8).hex()


def keep_config(config: EngineConfig, program_id: str, form: Form | None = None) -> int:
    """A descriptor of this configuration in memory. Raises `OSError`."""
    data = msgspec.json.encode(KeptConfig(VERSION, form, program_id, config))
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
        program_id=kept.program_id,
        config_fd=fds[0],
        launcher_pidfd=fds[2] if message.has_launcher else -1,
        sockets=take_sockets(fds[1]),
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


class Left(msgspec.Struct, frozen=True):
    """What the program that was this process before has left."""

    kept: KeptConfig
    launcher_pidfd: int
    sockets: dict[int, KeepSocket]


def take_left(fd_texts: str) -> Left:
    """Take that over (`UPGRADED`). Raises `ProgramError`."""
    try:
        config_fd, launcher_pidfd, sockets_fd = map(int, fd_texts.split(":"))
        kept = msgspec.json.decode(_data(config_fd), type=KeptConfig)  # it was asked before (`installed.py`)
        os.close(config_fd)
        if launcher_pidfd >= 0:
            os.set_inheritable(launcher_pidfd, False)
        return Left(kept, launcher_pidfd, take_sockets(sockets_fd))
    except (ValueError, OSError, msgspec.DecodeError) as error:
        raise ProgramError(_NOT_FOR_PEOPLE) from error


def _read(config_fd: int) -> KeptConfig:
    data = _data(config_fd)
    kept = msgspec.json.decode(data, type=_KeptForm)
    if kept.version != VERSION and not _can_go_on_from(kept.form):
        raise ProgramError(
            f"the control plane that has died cannot be started again: it was of version {kept.version},"
            f" which version {VERSION} cannot go on from; its guests go on without one",
            exit_status=ExitStatus.FAILED,
        )
    return msgspec.json.decode(data, type=KeptConfig)


def _data(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def _can_go_on_from(form: Form | None) -> bool:
    from ringblk.engine.program.kept_form import current_form  # of another version alone

    return form == current_form()


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
