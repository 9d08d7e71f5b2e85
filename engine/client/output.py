"""What the client commands print: a line for people, or the engine's answer."""

import argparse

import msgspec

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.client.drive_view import Drive, done_line


def say(arguments: argparse.Namespace, what: str, answer: Drive) -> int:
    """What was done to the drive that the command line names."""
    if arguments.output == "json":
        print_json(answer)
    else:
        print(done_line(arguments.drive, what, answer))
    return ExitStatus.DONE


def print_json(answer: object) -> None:
    """As the engine said it."""
    print(msgspec.json.encode(answer).decode())
