"""`ringblk upgrade`: first the control plane, then the drives' processes, a few drives at a time."""

import argparse
import contextlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.client.control_client import ControlClient, HungUp, OneDrive, drive_path

PATIENCE_S = 60.0
"""How long the next control plane may take until it answers."""
_LOOK_S = 0.02


class Program(msgspec.Struct, frozen=True):
    """What is relied on of an answer of `/upgrade`."""

    version: str
    program_id: str
    outdated: list[str]


def run_upgrade(arguments: argparse.Namespace) -> int:
    """Do all of it, or stop at the first failure, which is said last. Raises `ProgramError`."""
    client = ControlClient(arguments.control)
    before = _program(client)
    if not arguments.drives_only:
        after = _begin_upgrade(client, before)
        print(f"control plane: version {after.version}, was {before.version}", flush=True)
        before = after
    if not arguments.control_plane_only:
        _renew_all(client, sorted(before.outdated), arguments.at_once)
    return ExitStatus.DONE


def _begin_upgrade(client: ControlClient, before: Program) -> Program:
    """Upgrade the control plane; the program that goes on. Raises `ProgramError`."""
    try:
        client.ask("POST", "/upgrade", shape=Program)
    except HungUp:  # it has died, or somebody else has it upgraded at this moment
        after = _program(client)
        if after.program_id != before.program_id:
            return after
        client.ask("POST", "/upgrade", shape=Program)
    return _wait_for_next(client, before)


def _program(client: ControlClient, timeout_s: float | None = None) -> Program:
    return msgspec.convert(client.ask("GET", "/upgrade", shape=Program, timeout_s=timeout_s), Program)


def _wait_for_next(client: ControlClient, before: Program) -> Program:
    """The program that answers in the place of the one before."""
    given_up_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            after = _program(client, max(_LOOK_S, given_up_s - time.monotonic()))
            if after.program_id != before.program_id:
                return after
        except ProgramError as error:
            if time.monotonic() > given_up_s:
                raise ProgramError(
                    f"the control plane has not come back in {PATIENCE_S:g} s: {error};"
                    " guests go on; see the engine's log",
                    ExitStatus.FAILED,
                ) from error
        else:
            if time.monotonic() > given_up_s:
                raise ProgramError(
                    "the control plane goes on as it was: see the engine's log", ExitStatus.FAILED
                )
        time.sleep(_LOOK_S)


def _renew_all(client: ControlClient, names: Sequence[str], at_once: int) -> None:
    done = 0
    with ThreadPoolExecutor(at_once) as threads:
        for first in range(0, len(names), at_once):
            few = names[first : first + at_once]
            failures = []
            for name, failure in zip(few, threads.map(lambda name: _renew(client, name), few), strict=True):
                if failure is None:
                    print(f"{name}: upgraded", flush=True)
                    done += 1
                else:
                    failures.append(f"{name}: {failure}")
            if failures:
                rest = len(names) - done - len(failures)
                raise ProgramError(
                    f"{'; '.join(failures)}; {done} of {len(names)} drives upgraded, {rest} not tried",
                    ExitStatus.FAILED,
                )
    print(f"{done} drives upgraded" if names else "no drive has processes of an earlier program")


def _renew(client: ControlClient, name: str) -> str | None:
    """Why a drive's processes could not be put in the place of others; None: they were."""
    try:
        with contextlib.suppress(HungUp):
            client.ask("POST", f"{drive_path(name)}/upgrade", shape=OneDrive)
            return None
        client.ask("POST", f"{drive_path(name)}/upgrade", shape=OneDrive)  # of the control plane that is next
    except ProgramError as error:
        return str(error)
    return None
