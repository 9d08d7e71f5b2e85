"""`ringblk doctor`: what was found, in lines for people or as JSON."""

import argparse
import logging
import sys
from collections.abc import Iterator

import msgspec

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.printable_text import printable, utf8_text
from ringblk.engine.doctor.checks import Findings, examine
from ringblk.engine.doctor.host_checks import Need
from ringblk.engine.options.drive_config import DriveConfig


def run_doctor(arguments: argparse.Namespace) -> int:
    """Look, and print; the exit status: `FAILED` where something keeps a drive from starting."""
    logging.disable(logging.WARNING)  # what the log of an engine would say is said in the findings
    drive = DriveConfig(
        read_only=arguments.read_only, workers=arguments.workers, num_queues=arguments.num_queues
    )
    found = []
    for findings in examine(Need(arguments.drives, drive), arguments.path, read_only=arguments.read_only):
        found.append(findings)
        if arguments.format == "human":
            print("\n".join(_lines(findings)), flush=True)
    if arguments.format == "json":
        sys.stdout.write(_json(found) + "\n")
    return ExitStatus.FAILED if any(findings.has_failed for findings in found) else ExitStatus.DONE


def _lines(findings: Findings) -> Iterator[str]:
    yield "this host" if findings.path is None else f"\n{printable(findings.path)}"
    for check in findings.checks:
        yield f"  {check.state:<8}{check.name:<20}{printable(check.what)}"
        if check.mend:
            yield f"  {'':<8}{'':<20}-> {printable(check.mend)}"


def _json(found: list[Findings]) -> str:
    valid = [
        msgspec.structs.replace(
            findings,
            path=None if findings.path is None else utf8_text(findings.path),
            checks=[
                msgspec.structs.replace(check, what=utf8_text(check.what), mend=utf8_text(check.mend))
                for check in findings.checks
            ],
        )
        for findings in found
    ]
    return msgspec.json.format(msgspec.json.encode(valid)).decode()
