"""Why a program cannot do what it was asked to."""


class ProgramError(Exception):
    """What was asked for cannot be done; the message is one line that names what is wrong and what to do.

    `exit_status` is 2 where the command line or file is wrong, 1 where the system says no.
    """

    def __init__(self, message: str, exit_status: int = 2) -> None:
        super().__init__(message)
        self.exit_status = exit_status
