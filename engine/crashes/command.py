"""What `ringblk crashes` does, once it is parsed."""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.printable_text import printable
from ringblk.engine.crashes.commands import PLACE
from ringblk.engine.crashes.folder_copy import remove_folder
from ringblk.engine.crashes.recorded_folder import CannotRecord, RecordedFolder
from ringblk.engine.crashes.states import Recording, State

MARKS_VARIABLE = "RINGBLK_CRASHES_MARKS"
"""For a command that checks a state: the marks that were reached, a line each."""


def run(arguments: argparse.Namespace) -> int:
    """Carry out a parsed command; the exit status, `FAILED` where a state is not as it may be."""
    commands: dict[str, Callable[[argparse.Namespace], int]] = {
        "record": _record,
        "check": _check,
        "make": _make,
    }
    try:
        return commands[arguments.crashes_command](arguments)
    except CannotRecord as error:
        return _refuse(str(error))
    except OSError as error:
        at = f"{error.filename}: " if error.filename is not None else ""
        return _refuse(f"{at}{error.strerror or error}")


def _refuse(message: str) -> int:
    print(f"ringblk crashes: {printable(message)}", file=sys.stderr)
    return ExitStatus.FAILED


def _record(arguments: argparse.Namespace) -> int:
    with RecordedFolder(arguments.folder, arguments.record) as recorded:
        done = subprocess.Popen(arguments.program, stdout=subprocess.PIPE, text=True)
        assert done.stdout is not None
        for line in done.stdout:
            recorded.mark(line.rstrip("\n"))
            sys.stdout.write(line)
            sys.stdout.flush()
        status = done.wait()
    if status != 0:
        return _refuse(f"{arguments.program[0]}: ended with {status}")
    return ExitStatus.DONE


def _read(record: Path) -> Recording:
    try:
        return Recording.read(record)
    except (msgspec.DecodeError, KeyError) as error:
        raise CannotRecord(f"{record}: is no record: {error}") from error


def _check(arguments: argparse.Namespace) -> int:
    recording = _read(arguments.record)
    with _place(arguments.place) as place:
        for number, state in enumerate(recording.states(arguments.states, arguments.seed)):
            folder = place / f"state-{number}"
            state.make(folder)
            status = _run_check(arguments.program, folder, state)
            if status != 0:
                again = f"ringblk crashes make --seed={arguments.seed} {arguments.record} {number} TARGET"
                return _refuse(f"state {number} of seed {arguments.seed} is wrong ({status}); again: {again}")
            remove_folder(folder)
    print(f"{arguments.states} states, all as they may be")
    return ExitStatus.DONE


@contextmanager
def _place(chosen: Path | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=chosen, prefix="ringblk-crashes-") as name:
        yield Path(name)


def _run_check(program: list[str], folder: Path, state: State) -> int:
    command = [word.replace(PLACE, os.fspath(folder)) for word in program]
    marks = "".join(f"{mark.text}\n" for mark in state.marks)
    try:
        done = subprocess.run(command, env={**os.environ, MARKS_VARIABLE: marks}, check=False)
    except FileNotFoundError:
        raise CannotRecord(f"{printable(command[0])}: there is no such program") from None
    return done.returncode


def _make(arguments: argparse.Namespace) -> int:
    _read(arguments.record).state(arguments.seed, arguments.number).make(arguments.target)
    return ExitStatus.DONE
