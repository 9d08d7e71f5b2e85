"""The session that a drive has at the moment, for whoever finds that it has to end.

It does not know the drive: what the drive keeps, and what knows the drive, would be freed some day only.
"""

from ringblk.engine.vhost_user.session import Session


class CurrentSession:
    """The session of a drive, where a front end is connected."""

    def __init__(self) -> None:
        self.session: Session | None = None

    def end(self, reason: str) -> None:
        """End the session that there is, if there is one, for the reason given."""
        if self.session is not None:
            self.session.end(reason)
