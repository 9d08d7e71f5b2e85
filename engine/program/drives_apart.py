"""What two drives of an engine may not both have: a socket, an image that one of them writes."""

from collections.abc import Iterable

from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.options.config import same_socket
from ringblk.engine.program.served_drive import ServedDrive


class TakenError(ProgramError):
    """Another drive has it; both are named."""


def check_sockets_apart(added: ServedDrive, drives: Iterable[ServedDrive], control: str | None) -> None:
    """Raise `TakenError` for a socket that another drive or the control API has."""
    path = added.config.socket_path
    if path is None:
        return
    if control is not None and not added.is_sole and same_socket(path, control):
        raise TakenError(f"drive {added.name}: socket_path {path} is control's, too")
    for served in drives:
        other = served.config.socket_path
        if served is not added and other is not None and same_socket(path, other):
            raise TakenError(f"drive {added.name}: socket_path {path} is drive {served.name}'s, too")


def check_images_apart(added: ServedDrive, drives: Iterable[ServedDrive]) -> None:
    """Raise `TakenError` for an image that another drive has, unless both only read it."""
    assert added.plan is not None, "open comes first"
    storage = added.plan.backend.identity()
    for served in drives:
        if served is added or served.plan is None or storage is None:
            continue
        other = served.plan.backend.identity()
        is_same = other is not None and other.subject == storage.subject
        if is_same and not (added.plan.is_read_only and served.plan.is_read_only):
            raise TakenError(
                f"drive {added.name}: blk_file {added.config.blk_file} is drive {served.name}'s, too:"
                " only drives that are read_only may share an image"
            )
