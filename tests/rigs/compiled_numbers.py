"""What a .pxd gives numbers to: for tests of what Python names as well."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def compiled_numbers(pxd: str) -> dict[str, int]:
    """The names of a .pxd's enums, with their numbers where these are written as such."""
    found = re.findall(r"^ +([A-Z]\w+) = (0x[0-9A-F]+|[0-9]+)\b", (ROOT / pxd).read_text(), re.MULTILINE)
    return {name: int(value, 0) for name, value in found}
