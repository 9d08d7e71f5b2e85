"""`ringblk doctor`: the command line's part of it."""

import argparse
from collections.abc import Callable
from typing import Any

from ringblk.engine.options.drive_config import DriveConfig
from ringblk.shm.state.segment import MAX_QUEUES, MAX_WORKERS

MAX_DRIVES = 4096


def add_parser(subparsers: Any) -> None:
    """Add it to what `add_subparsers` returned; `run` carries it out."""
    doctor = subparsers.add_parser(
        "doctor",
        help="say what this host can do for a drive",
        description="Say what this host can do for a drive, and what mends what it cannot: for the user who"
        " asks, who should be the one that engines run as. Ends with status 1 where a drive would not start.",
    )
    doctor.add_argument(
        "path",
        nargs="*",
        metavar="PATH",
        help="an image, a folder that one is to be made in, or the URI of storage elsewhere",
    )
    doctor.add_argument("--read-only", action="store_true", help="ask for a drive that is only read")
    defaults = DriveConfig()
    for option, default, most, what in (
        ("--drives", 1, MAX_DRIVES, "drives that an engine is to have"),
        ("--workers", defaults.workers, MAX_WORKERS, "worker processes of each"),
        ("--num-queues", defaults.num_queues, MAX_QUEUES, "virtqueues of each"),
    ):
        doctor.add_argument(
            option,
            type=_count_up_to(most),
            default=default,
            metavar="COUNT",
            help=f"{what} (default: {default})",
        )
    doctor.add_argument(
        "--format", choices=["human", "json"], default="human", help="for people, or a JSON array"
    )
    doctor.set_defaults(run=_run)


def _count_up_to(most: int) -> Callable[[str], int]:
    """What argparse has to read such a number by."""

    def count(text: str) -> int:
        number = int(text)
        if not 1 <= number <= most:
            raise argparse.ArgumentTypeError(f"{text} is not from 1 to {most}")
        return number

    return count


def _run(arguments: argparse.Namespace) -> int:
    from ringblk.engine.doctor.doctor_command import run_doctor  # imports the engine: not for --help

    return run_doctor(arguments)
