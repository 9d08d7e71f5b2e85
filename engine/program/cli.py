"""The programs: `vhost-user-ringblk`, and `ringblk` with its subcommands."""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.printable_text import printable
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.base.program_start import ADOPT_VARIABLE, ProgramStart
from ringblk.engine.base.service_manager import HandedSocket, ServiceManager, take_handed_sockets
from ringblk.engine.base.standard_streams import open_standard_streams
from ringblk.engine.options.command_line import OptionParser, config_from
from ringblk.engine.options.config import EngineConfig
from ringblk.engine.options.share_options import share_config_from
from ringblk.engine.program.parsers import (
    BACKEND_PROGRAM,
    PROGRAM,
    SERVE,
    SHARE_PROGRAM,
    make_parser,
    make_serve_parser,
    make_share_parser,
)

CAPABILITIES = '{"type": "block", "features": ["read-only", "blk-file"]}'
SHARE_CAPABILITIES = '{"type": "fs"}'
"""What --print-capabilities prints (QEMU, vhost-user "Backend program conventions")."""


def backend_program() -> None:
    """`vhost-user-ringblk`: one engine, with the conventions' options."""
    _exit_with(BACKEND_PROGRAM, lambda: _serve(BACKEND_PROGRAM, sys.argv[1:]))


def share_program() -> None:
    """`vhost-user-ringblk-fs`: the same for a shared folder."""
    _exit_with(SHARE_PROGRAM, lambda: _serve_share(sys.argv[1:]))


def main() -> None:
    """`ringblk`: `serve` is the backend program; the others work on images and running engines."""
    _exit_with(PROGRAM, lambda: _run_subcommand(sys.argv[1:]))


def _run_subcommand(arguments: list[str]) -> int:
    if arguments[:1] == [SERVE]:
        return _serve(f"{PROGRAM} {SERVE}", arguments[1:])
    parsed = make_parser().parse_args(arguments)
    status: int = parsed.run(parsed)
    return status


def _serve(program: str, arguments: list[str]) -> int:
    if "--print-capabilities" in arguments:  # whatever else is said, as the conventions have it
        print(CAPABILITIES)
        return 0
    return _start(make_serve_parser(program), arguments, config_from)


def _serve_share(arguments: list[str]) -> int:
    if "--print-capabilities" in arguments:
        print(SHARE_CAPABILITIES)
        return 0
    return _start(make_share_parser(), arguments, share_config_from)


def _start(
    parser: OptionParser,
    arguments: list[str],
    make_config: Callable[[argparse.Namespace, Sequence[HandedSocket]], EngineConfig],
) -> int:
    parsed = parser.parse_args(arguments)
    start = ProgramStart.of_this_process()
    manager = ServiceManager.from_environment(os.environ)
    is_again = ADOPT_VARIABLE in os.environ
    handed = [] if is_again else take_handed_sockets(os.environ)
    stored = [end for end in handed if "/" in end.name]  # no drive's name
    config = None if is_again else make_config(parsed, [end for end in handed if end not in stored])
    from ringblk.engine.program.start import (  # what an engine is made of: not for --help
        start_again,
        start_engine,
    )

    if config is None:
        return start_again(start, manager)
    return start_engine(config, start, manager, stored)


def _exit_with(program: str, run: Callable[[], int]) -> None:
    open_standard_streams()
    try:
        try:
            status = run()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # at the interpreter's end nobody could say what is wrong with it
    except ProgramError as error:
        print(f"{program}: {printable(str(error))}", file=sys.stderr)
        status = error.exit_status
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except BrokenPipeError:  # who reads has had enough (head): that is no news
        _give_up_output()
        status = 128 + signal.SIGPIPE
    except OSError as error:
        _give_up_output()
        at = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
        print(f"{program}: {printable(f'{at}{error.strerror or error}')}", file=sys.stderr)
        status = ExitStatus.FAILED
    sys.exit(status)


def _give_up_output() -> None:
    """What is still to be written to standard output goes nowhere: it cannot be, or is wanted no more."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere_fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere_fd, sys.stdout.fileno())
        os.close(nowhere_fd)
