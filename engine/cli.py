"""The programs: `vhost-user-ringblk`, and `ringblk` with its subcommands."""

import sys
from collections.abc import Callable
from functools import partial

from ringblk.engine.asyncio_import import import_asyncio_without_tls
from ringblk.engine.config import ConfigError
from ringblk.engine.log_format import start_logging
from ringblk.engine.options import (
    OptionParser,
    add_engine_options,
    config_from,
    print_help,
)
from ringblk.engine.standard_streams import open_standard_streams

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
    from ringblk.engine import (
        image_command,
        statistics_commands,
    )  # not for a backend program that only serves

    image_command.add_parser(subparsers)
    statistics_commands.add_parsers(subparsers)
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
    from ringblk.engine.engine import serve  # asyncio and all that: not for --help

    return serve(config)


def _exit_with(program: str, run: Callable[[], int]) -> None:
    open_standard_streams()
    try:
        status = run()
    except ConfigError as error:
        print(f"{program}: {error}", file=sys.stderr)
        status = error.exit_status
    sys.exit(status)
