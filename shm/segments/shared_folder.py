"""The folder of shared memory. It is everybody's: a name in it says nothing about what stands behind it."""

import os
import stat
from collections.abc import Collection

from ringblk.shm.platform.shared_memory import FOLDER

__all__ = ["FOLDER", "file_fault", "shared_names"]


def shared_names(prefix: str) -> list[str]:
    """The names that begin with `prefix`, those of other users included; none where they cannot be listed."""
    try:
        return sorted(name for name in os.listdir(FOLDER) if name.startswith(prefix))
    except OSError:
        return []


def file_fault(name: str, info: os.stat_result, owners: Collection[int] | None = None) -> str | None:
    """Why a file is not to be believed, or None: it is a plain one, and of one of these users where given."""
    if not stat.S_ISREG(info.st_mode):
        return f"{name} is no shared memory segment, but a pipe, folder or device"
    if owners is not None and info.st_uid not in owners:
        return f"shared memory segment {name} belongs to another user ({info.st_uid})"
    return None
