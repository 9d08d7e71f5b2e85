"""What `ringblk drive` does to the layers of copy-on-write drives: snapshots, resets, merges."""

import argparse
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.number_text import parse_size
from ringblk.engine.base.printable_text import printable
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.base.text_table import terminal_width
from ringblk.engine.client.control_client import AllSnapshots, Changed, ControlClient, OneDrive, drive_path
from ringblk.engine.client.drive_view import job_line, snapshot_lines
from ringblk.engine.client.output import print_json, say

LOOK_S = 0.1


def take_snapshot(arguments: argparse.Namespace) -> int:
    """`ringblk drive snapshot`: of one drive, or of several at one instant."""
    client, drives = ControlClient(arguments.control), [arguments.drive, *arguments.also]
    if arguments.also:
        body: dict[str, Any] = {"name": arguments.name, "drives": drives}
        answer = client.ask("POST", "/snapshots", body, shape=AllSnapshots)
    else:
        path = f"{drive_path(arguments.drive)}/snapshots"
        answer = client.ask("POST", path, {"name": arguments.name}, shape=dict[str, Any])
    if arguments.output == "json":
        print_json(answer)
    else:
        names = ", ".join(map(printable, drives))
        print(f"{names}: snapshot {printable(arguments.name)} taken")
    return ExitStatus.DONE


def list_snapshots(arguments: argparse.Namespace) -> int:
    """`ringblk drive snapshots`."""
    path = f"{drive_path(arguments.drive)}/snapshots"
    answer = ControlClient(arguments.control).ask("GET", path, shape=AllSnapshots)
    if arguments.output == "json":
        print_json(answer)
    elif answer["snapshots"]:
        print("\n".join(snapshot_lines(answer["snapshots"], terminal_width())))
    else:
        print("this drive has no snapshots")
    return ExitStatus.DONE


def reset_drive(arguments: argparse.Namespace) -> int:
    """`ringblk drive reset`."""
    body = {"snapshot": arguments.name, "force": arguments.force}
    path = f"{drive_path(arguments.drive)}/reset"
    answer = ControlClient(arguments.control).ask("POST", path, body, shape=OneDrive)
    return say(arguments, f"reset to {arguments.name or 'its base'}", answer)


def delete_snapshot(arguments: argparse.Namespace) -> int:
    """`ringblk drive delete-snapshot`."""
    path = f"{drive_path(arguments.drive)}/snapshots/{quote(arguments.name, safe='')}"
    ControlClient(arguments.control).ask("DELETE", path)
    if arguments.output == "human":
        print(f"{printable(arguments.drive)}: snapshot {printable(arguments.name)} deleted")
    return ExitStatus.DONE


def commit_drive(arguments: argparse.Namespace) -> int:
    """`ringblk drive commit`."""
    return _post(arguments, "commit", "committed to the snapshot below")


def flatten_drive(arguments: argparse.Namespace) -> int:
    """`ringblk drive flatten`."""
    return _post(arguments, "flatten", "copies what its base has")


def changed_blocks(arguments: argparse.Namespace) -> int:
    """`ringblk drive changed`: lines of offset and length, as `ringblk image diff` prints them."""
    path = f"{drive_path(arguments.drive)}/changed?since={quote(arguments.since, safe='')}"
    answer = ControlClient(arguments.control).ask("GET", path, shape=Changed)
    if arguments.output == "json":
        print_json(answer)
    else:
        for extent in answer["extents"]:
            print(extent["offset"], extent["length"])
    return ExitStatus.DONE


def drive_job(arguments: argparse.Namespace) -> int:
    """`ringblk drive job`: what is merged in the background; slow it down, stop it, wait for it."""
    client, path = ControlClient(arguments.control), f"{drive_path(arguments.drive)}/job"
    if arguments.bps is not None:
        client.ask("PATCH", path, {"bps": _rate(arguments.bps)}, shape=OneDrive)
    if arguments.cancel:
        client.ask("DELETE", path)
    while True:
        answer = client.ask("GET", drive_path(arguments.drive), shape=OneDrive)
        job = answer["state"].get("job")
        if not arguments.wait or job is None or job["error"]:
            break
        time.sleep(LOOK_S)
    if arguments.output == "json":
        print_json(job)
    else:
        print(f"{printable(arguments.drive)}: {job_line(job)}")
    return ExitStatus.FAILED if job is not None and job["error"] else ExitStatus.DONE


def _rate(text: str) -> int:
    if text == "none":
        return 0
    try:
        return parse_size(text)
    except ValueError as error:
        raise ProgramError(f"--bps: {error}") from None


def _post(arguments: argparse.Namespace, word: str, what: str) -> int:
    path = f"{drive_path(arguments.drive)}/{word}"
    return say(arguments, what, ControlClient(arguments.control).ask("POST", path, shape=OneDrive))


LAYER_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "snapshot": take_snapshot,
    "snapshots": list_snapshots,
    "reset": reset_drive,
    "delete-snapshot": delete_snapshot,
    "commit": commit_drive,
    "flatten": flatten_drive,
    "changed": changed_blocks,
    "job": drive_job,
}
"""By the words of the command line."""
