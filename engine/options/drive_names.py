"""What drives may be called."""

import re

MAX_NAME_BYTES = 64
SOLE_DRIVE = ""
"""The drive of an engine that has one, by its command line: it needs no name."""
NAME_RULE = (
    f"a drive's name is 1 to {MAX_NAME_BYTES} of the letters a to z and A to Z, digits, `.`, `_` and `-`,"
    " and begins with a letter, digit or `_`"
)
NAME_PATTERN = rf"^[A-Za-z0-9_][A-Za-z0-9._-]{{0,{MAX_NAME_BYTES - 1}}}$"
"""The same, as JSON schemas have it."""


def is_drive_name(text: str) -> bool:
    """Whether a drive may be called so: it stands in URLs, logs and shell commands."""
    return re.fullmatch(NAME_PATTERN.strip("^$"), text, re.ASCII) is not None


def quoted_name(text: str, most: int = 80) -> str:
    """What was given for a name, for an error text: on one line, and cut where it is long."""
    return repr(text if len(text) <= most else text[:most] + "...")
