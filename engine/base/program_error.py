"""Why a program cannot do what it was asked to."""

from ringblk.engine.base.exit_status import ExitStatus


class ProgramError(Exception):
    """What was asked for cannot be done; the message is one line that names what is wrong and what to do.

    `exit_status` is WRONG_OPTIONS where the command line or file is wrong, FAILED where the system says no.
    """

    def __init__(self, message: str, exit_status: ExitStatus = ExitStatus.WRONG_OPTIONS) -> None:
        super().__init__(message)
        self.exit_status = exit_status
