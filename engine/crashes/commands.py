"""`ringblk crashes`: record what a program does to its files, and see what a power failure may leave."""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from ringblk.engine.options.command_line import print_help

PLACE = "{}"
"""Where a command that checks a state has the state's folder."""


def add_parser(subparsers: Any) -> None:
    """Add `crashes` and its commands to what `add_subparsers` returned; `run` carries them out."""
    crashes: argparse.ArgumentParser = subparsers.add_parser(
        "crashes",
        help="record a program's files, and make what a power failure may leave",
        description=__doc__,
    )
    crashes.set_defaults(run=partial(print_help, crashes))
    commands = crashes.add_subparsers(dest="crashes_command", metavar="COMMAND")
    record = commands.add_parser("record", help="run a program, and record what it does to a folder's files")
    record.add_argument("folder", metavar="FOLDER", type=Path, help="whose files are recorded")
    record.add_argument(
        "record", metavar="RECORD", type=Path, help="a folder to be made for what is recorded"
    )
    _add_command(record, "what to run; each line that it prints is a mark")
    check = commands.add_parser("check", help="run a program on each of many states")
    _add_record(check)
    check.add_argument("--states", type=int, default=1000, help="how many (default: 1000)")
    check.add_argument(
        "--place", type=Path, help="where states are made (default: a folder for temporary files)"
    )
    _add_command(
        check, f"what to run; {PLACE} is the state's folder. It ends with 0 where the state is as it may be"
    )
    make = commands.add_parser("make", help="make one state, once more")
    _add_record(make)
    make.add_argument("number", type=int, help="of the state, as `check` has said")
    make.add_argument("target", metavar="TARGET", type=Path, help="a folder to be made")
    for command in (record, check, make):
        command.set_defaults(run=_run)


def _add_record(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("record", metavar="RECORD", type=Path, help="what `record` has made")
    parser.add_argument("--seed", type=int, default=1, help="another gives other states (default: 1)")


def _add_command(parser: argparse.ArgumentParser, meaning: str) -> None:
    parser.add_argument("program", nargs="+", metavar="PROGRAM", help=meaning)


def _run(arguments: argparse.Namespace) -> int:
    from ringblk.engine.crashes.command import run  # not for the other commands of `ringblk`

    return run(arguments)
