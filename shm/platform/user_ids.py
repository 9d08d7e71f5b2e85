"""Whom this process runs as: its real, effective and, where the system shows them, saved users and groups."""

import os
import sys


def become(user_id: int, group_id: int) -> None:
    """Run as this user and group from now on, for good: nothing of the former is kept. Raises `OSError`."""
    if sys.platform != "darwin":
        os.setresgid(group_id, group_id, group_id)
        os.setresuid(user_id, user_id, user_id)
    else:
        os.setgid(group_id)  # of root: all of them, the saved ones too
        os.setuid(user_id)


def is_all(user_id: int, group_id: int) -> bool:
    """Whether that is all that this process runs as."""
    if sys.platform != "darwin":
        return {*os.getresuid()} == {user_id} and {*os.getresgid()} == {group_id}
    return {os.getuid(), os.geteuid()} == {user_id} and {os.getgid(), os.getegid()} == {group_id}
