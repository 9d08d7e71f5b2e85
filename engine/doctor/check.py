"""What one look at the host has found."""

from typing import Literal

import msgspec

State = Literal["ok", "warning", "failure"]
"""failure: a drive would not start; warning: it would, and go more slowly or with less around it."""


class CheckResult(msgspec.Struct, frozen=True):
    """What was looked at, what it is like, and the line that mends it."""

    name: str
    state: State
    what: str
    mend: str = ""


def ok(name: str, what: str) -> CheckResult:
    """All that a drive needs."""
    return CheckResult(name, "ok", what)


def warning(name: str, what: str, mend: str) -> CheckResult:
    """A drive starts without it."""
    return CheckResult(name, "warning", what, mend)


def failure(name: str, what: str, mend: str) -> CheckResult:
    """No drive starts without it."""
    return CheckResult(name, "failure", what, mend)
