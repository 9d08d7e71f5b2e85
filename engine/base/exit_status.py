"""What the programs end with, so that a service manager can tell a wrong configuration from the rest.

What a signal ends has 128 and the signal's number, as in a shell (130: an interrupt).
"""

from enum import IntEnum


class ExitStatus(IntEnum):
    """The statuses of all commands; the units in share/systemd know them."""

    DONE = 0
    """Done, or ended as it was told to."""
    FAILED = 1
    """It could not run, or could not go on: the host says no, or something has gone wrong. Again may help."""
    WRONG_OPTIONS = 2
    """An option or a configuration file is wrong: it has to be changed first."""


MEANINGS = {
    ExitStatus.DONE: "It is done, or has ended as it was told to.",
    ExitStatus.FAILED: "It could not run, or could not go on: the host says no, or something has gone wrong.",
    ExitStatus.WRONG_OPTIONS: "An option or a configuration file is wrong.",
}
"""For whoever reads a page."""
