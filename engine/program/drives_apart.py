"""What two drives of an engine may not both have: a socket, an image that one of them writes."""

from collections.abc import Iterable

from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.options.config import in_field_names, place_of
from ringblk.engine.program.served_drive import ServedDrive


class TakenError(ProgramError):
    """Another drive has it; both are named."""


def check_sockets_apart(added: ServedDrive, drives: Iterable[ServedDrive], control: str | None) -> None:
    """Raise `TakenError` for a socket that another drive or the control API has."""
    place, path = added.socket_place, added.config.socket_path
    if place is None:
        return
    if control is not None and not added.is_sole and place == place_of(control):
        raise TakenError(f"drive {added.name}: socket_path {path} is control's, too")
    for served in drives:
        if served.socket_place == place and served is not added:
            raise TakenError(f"drive {added.name}: socket_path {path} is drive {served.name}'s, too")


def check_images_apart(added: ServedDrive, drives: Iterable[ServedDrive]) -> None:
    """Raise `TakenError` for an image that another drive has, unless both only read it."""
    assert added.plan is not None, "open comes first"
    image = added.plan.image
    for served in drives:
        if served.plan is None or served.plan.image != image or image is None or served is added:
            continue
        if not (added.plan.is_read_only and served.plan.is_read_only):
            taken = in_field_names(added.config.storage_option)
            raise TakenError(
                f"drive {added.name}: {taken} is drive {served.name}'s, too:"
                " only drives that are read_only may share an image"
            )
