"""What a drive's options ask for that a system other than Linux cannot give (docs/portability.md).

A build of the portable forms refuses it before anything is opened, on Linux, too. What depends on more than
the system is refused where it is tried: direct I/O, which macOS has in a form of its own, and control groups.
"""

from typing import Protocol

from ringblk.shm.platform.abilities import (
    HAS_FILE_HANDLES,
    HAS_MESSAGE_BATCHES,
    HAS_SANDBOX,
    HAS_URING,
)

_PORTABLE = "this build has portable forms alone (docs/portability.md)"


class AskedOfSystem(Protocol):
    """The options of a drive that are about it."""

    @property
    def shared_dir(self) -> str | None:
        """A folder of the host that its guest gets."""

    @property
    def uri(self) -> str | None:
        """Storage elsewhere."""

    @property
    def io_engine(self) -> str:
        """How requests are carried out."""

    @property
    def sandbox(self) -> str:
        """Whether processes are kept to what they need."""


def system_fault(asked: AskedOfSystem) -> str | None:
    """The option that cannot be had, and why; None: there is none, as on Linux always."""
    if not HAS_FILE_HANDLES and asked.shared_dir is not None:
        return f"--shared-dir {asked.shared_dir}: it takes Linux's file handles to share one, and {_PORTABLE}"
    if not HAS_MESSAGE_BATCHES and (asked.uri or "").startswith("nbd"):
        return f"--uri {asked.uri}: NBD needs sendmmsg and recvmmsg of Linux, and {_PORTABLE}"
    if not HAS_URING and asked.io_engine.startswith("io_uring"):
        return f"--io-engine {asked.io_engine}: io_uring is Linux's, and {_PORTABLE}"
    if not HAS_SANDBOX and asked.sandbox == "on":
        return f"--sandbox on: it is made of Landlock and seccomp of Linux, and {_PORTABLE}"
    return None
