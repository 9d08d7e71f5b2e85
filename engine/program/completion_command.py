"""`ringblk completion`: what a shell reads to complete the commands of both programs."""

import argparse
from typing import Any

SHELLS = ("bash", "zsh", "fish")


def add_parser(subparsers: Any) -> None:
    """Add it to what `add_subparsers` returned; `run` carries it out."""
    completion = subparsers.add_parser(
        "completion",
        help="have a shell complete these commands",
        description="Print what a shell reads to complete these commands: source <(ringblk completion bash).",
    )
    completion.add_argument("shell", choices=SHELLS, help="the shell")
    completion.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from ringblk.engine.program.share_files import completion_text

    print(completion_text(arguments.shell), end="")
    return 0
