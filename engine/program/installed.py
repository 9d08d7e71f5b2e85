"""The program that is installed now, which an engine that runs may be another version of.

It is started as the engine itself was, imports all that an engine runs, and says what it can go on with.
"""

import asyncio
import contextlib
import importlib
import os
import signal

import msgspec

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.program_start import ADOPT_VARIABLE, ASKED, ProgramStart
from ringblk.engine.base.version import VERSION
from ringblk.engine.drives.drives import UpgradeRefused
from ringblk.engine.program.adoption import Form
from ringblk.engine.program.kept_form import current_form
from ringblk.shm.platform.process import signal_process, watch_process

ANSWER_TIMEOUT_S = 30.0
"""How long a program may take to start and answer."""
_RUN_BY_AN_ENGINE = ("ringblk.engine.program.serve", "ringblk.engine.control.server")
_PIPE_BYTES = 4096


class Installed(msgspec.Struct, frozen=True):
    """What it says of itself."""

    version: str
    form: Form


def answer_installed(fd_text: str) -> int:
    """Be that program: answer, and end. The exit status."""
    for module in _RUN_BY_AN_ENGINE:
        importlib.import_module(module)
    os.write(int(fd_text), msgspec.json.encode(Installed(VERSION, current_form())))
    return ExitStatus.DONE


async def ask_installed(start: ProgramStart) -> Installed:
    """Ask it whether it can go on with this engine. Raises `UpgradeRefused`: it cannot, or does not start."""
    reading, writing = os.pipe()
    for fd in (reading, writing):
        os.set_blocking(fd, False)
    try:
        pid = start.again({ADOPT_VARIABLE: f"{ASKED}{writing}"}, [writing])
    except OSError as error:
        os.close(reading)
        raise UpgradeRefused(f"{start.executable} cannot be started: {error.strerror or error}") from error
    finally:
        os.close(writing)
    try:
        data = await _read_all(reading)
    finally:
        os.close(reading)
        status = await _end(pid)
    try:
        installed = msgspec.json.decode(data, type=Installed)
    except msgspec.DecodeError as error:
        raise UpgradeRefused(
            f"the program that is installed now does not start (status {status}): see the engine's log"
        ) from error
    if installed.form != current_form():
        raise UpgradeRefused(
            f"version {installed.version} is installed, which cannot go on from version {VERSION} while"
            " guests run: restart the engine with it"
        )
    return installed


async def _read_all(fd: int) -> bytes:
    """What comes until the other end is closed, or too long nothing does."""
    loop = asyncio.get_running_loop()
    is_readable = asyncio.Event()
    loop.add_reader(fd, is_readable.set)
    data = b""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            while True:
                await is_readable.wait()
                is_readable.clear()
                with contextlib.suppress(BlockingIOError):  # it was readable before the last read
                    if not (part := os.read(fd, _PIPE_BYTES)):
                        return data
                    data += part
    except TimeoutError:
        return b""
    finally:
        loop.remove_reader(fd)


async def _end(pid: int) -> int:
    """See a child out, which has answered or is not to; its exit status."""
    loop = asyncio.get_running_loop()
    watch_fd = watch_process(pid)
    has_ended = asyncio.Event()
    loop.add_reader(watch_fd, has_ended.set)
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            await has_ended.wait()
    except TimeoutError:
        signal_process(watch_fd, pid, signal.SIGKILL)
    finally:
        loop.remove_reader(watch_fd)
        os.close(watch_fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
