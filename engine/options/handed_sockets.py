"""Which drive serves which of the sockets that a service manager has handed over."""

from collections.abc import Sequence

from ringblk.engine.base.printable_text import printable
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.base.service_manager import HandedSocket
from ringblk.engine.options.config_file import DRIVES


def place_sockets(values: dict[str, object], sockets: Sequence[HandedSocket]) -> dict[str, object]:
    """The same settings, with `fd` for the drives that the sockets are for.

    `values` are an engine's settings before they are checked: one drive's beside its own, or with a list of
    drives. Raises `ProgramError` for a socket that nobody would serve: who connects would wait for ever.
    """
    if not sockets:
        return values
    drives = values.get(DRIVES)
    if not isinstance(drives, dict):
        if len(sockets) > 1:
            raise ProgramError(
                f"the service manager hands over {len(sockets)} sockets, and there is one drive"
            )
        return _placed(values, sockets[0])
    placed = dict(drives)
    for end in sockets:
        if not isinstance(placed.get(end.name), dict):
            raise ProgramError(
                f"the service manager hands over a socket named {printable(end.name)}, and there is no such"
                " drive: FileDescriptorName= is to be a drive's name"
            )
        placed[end.name] = _placed(placed[end.name], end)
    return {**values, DRIVES: placed}


def _placed(drive: dict[str, object], end: HandedSocket) -> dict[str, object]:
    for name in ("socket_path", "fd"):
        if drive.get(name) is not None:
            raise ProgramError(
                f"the service manager hands over a socket (named {printable(end.name)}), and the drive has"
                f" {name}: leave that out"
            )
    return {**drive, "fd": end.fd}
