"""What an engine is called beside the others of a host, where its drives are counted."""

import os

from ringblk.engine.base.digest import short_digest
from ringblk.engine.base.printable_text import printable

MAX_NAME_BYTES = 255


def engine_name(control: str | None, sole_socket: str | None) -> str:
    """Its control API's socket, or else that of its only drive; empty where it has neither.

    No other engine listens there, and the next one that does goes on with its drives.
    """
    path = control or sole_socket
    if path is None:
        return ""
    try:
        name = printable(os.path.abspath(path))
    except FileNotFoundError:  # the folder that it was started in has been removed
        name = printable(path)
    encoded = name.encode()
    if len(encoded) <= MAX_NAME_BYTES:
        return name
    digest = short_digest(encoded)
    return encoded[: MAX_NAME_BYTES - len(digest)].decode(errors="ignore") + digest
