"""The programs: `vhost-user-ringblk`, and `ringblk` with its subcommands."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from functools import partial

from ringblk.engine.base.asyncio_import import import_asyncio_without_tls
from ringblk.engine.base.log_format import start_logging
from ringblk.engine.base.printable_text import printable
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.base.standard_streams import open_standard_streams
from ringblk.engine.options.command_line import (
    OptionParser,
    add_engine_options,
    config_from,
    print_help,
)

CAPABILITIES = '{"type": "block", "features": ["read-only", "blk-file"]}'
"""What --print-capabilities prints (QEMU, vhost-user "Backend program conventions")."""


def backend_program() -> None:
    """`vhost-user-ringblk`: one engine, with the conventions' options."""
    _exit_with("vhost-user-ringblk", lambda: _serve("vhost-user-ringblk", sys.argv[1:]))


def main() -> None:
    """`ringblk`: `serve` is the backend program; the others work on images and running engines."""
    _exit_with("ringblk", lambda: _run_subcommand(sys.argv[1:]))


def _run_subcommand(arguments: list[str]) -> int:
    if arguments[:1] == ["serve"]:
        return _serve("ringblk serve", arguments[1:])
    parser = OptionParser(prog="ringblk", description="A virtio block backend.")
    parser.set_defaults(run=partial(print_help, parser))  # where no command is given
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    subparsers.add_parser("serve", help="serve a drive to a hypervisor (vhost-user)")
    from ringblk.engine.doctor import commands as doctor_commands
    from ringblk.engine.images import command as image_command
    from ringblk.engine.statistics import (
        commands as statistics_commands,  # not for a backend program that only serves
    )

    image_command.add_parser(subparsers)
    statistics_commands.add_parsers(subparsers)
    doctor_commands.add_parser(subparsers)
    parsed = parser.parse_args(arguments)
    status: int = parsed.run(parsed)
    return status


def _serve(program: str, arguments: list[str]) -> int:
    if "--print-capabilities" in arguments:  # whatever else is said, as the conventions have it
        print(CAPABILITIES)
        return 0
    parser = OptionParser(
        prog=program, description="Serve a virtio block device over vhost-user.", allow_abbrev=False
    )
    add_engine_options(parser)
    parser.add_argument("--print-capabilities", action="store_true", help="print what this program can do")
    config = config_from(parser.parse_args(arguments))
    start_logging(config.log_format)
    if config.runs_own_code_only:
        import_asyncio_without_tls()
    from ringblk.engine.program.serve import serve  # asyncio and all that: not for --help

    return serve(config)


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
        status = 1
    sys.exit(status)


def _give_up_output() -> None:
    """What is still to be written to standard output goes nowhere: it cannot be, or is wanted no more."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere_fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere_fd, sys.stdout.fileno())
        os.close(nowhere_fd)
