"""`ringblk list`, `ringblk stat` and `ringblk top`: the command line's part of them."""

import argparse
from typing import Any


def add_parsers(subparsers: Any) -> None:
    """Add them to what `add_subparsers` returned; `run` carries them out."""
    listing = subparsers.add_parser("list", help="print a line for each drive that runs")
    listing.add_argument(
        "--format", choices=("human", "json"), default="human", help="for people, or a JSON array of drives"
    )
    listing.set_defaults(run=_run_list)
    stat = subparsers.add_parser("stat", help="print what running engines have done")
    stat.add_argument(
        "--format",
        choices=("human", "json", "prometheus"),
        default="human",
        help="for people, a JSON array of engines, or metrics in Prometheus's text format",
    )
    stat.add_argument("--json", dest="format", action="store_const", const="json", help="--format=json")
    stat.set_defaults(run=_run_stat)
    top = subparsers.add_parser("top", help="show running engines live")
    top.add_argument(
        "--interval", type=_interval_s, default=1.0, metavar="SECONDS", help="between two looks (default: 1)"
    )
    top.add_argument("--frames", type=int, metavar="COUNT", help="end after so many looks")
    top.set_defaults(run=_run_top)
    for parser in (stat, top):
        parser.add_argument(
            "engine",
            nargs="?",
            metavar="ENGINE",
            help="process id, drive, image or segment name (default: all)",
        )


def _run_list(arguments: argparse.Namespace) -> int:
    from ringblk.engine.statistics.list_command import run_list

    return run_list(arguments.format)


def _run_stat(arguments: argparse.Namespace) -> int:
    from ringblk.engine.statistics.stat_command import run_stat  # reads segments: not for --help

    return run_stat(arguments.engine, arguments.format)


def _run_top(arguments: argparse.Namespace) -> int:
    from ringblk.engine.statistics.top_command import run_top

    return run_top(arguments.engine, arguments.interval, arguments.frames)


def _interval_s(text: str) -> float:
    interval_s = float(text)
    if not 0.05 <= interval_s <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not from 0.05 to 3600")
    return interval_s
