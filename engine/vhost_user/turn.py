"""One front end's turn at a socket where others may wait."""

import asyncio
import socket
from functools import partial

from ringblk.engine.vhost_user.descriptor_seal import has_hung_up, is_read_by_peer
from ringblk.engine.vhost_user.listener import Listener
from ringblk.engine.vhost_user.session import Session

STALL_LIMIT_S = 1.0
"""How long a front end may owe a message or the reading of ours while another waits."""


async def serve_turn(session: Session, connected: socket.socket, listener: Listener) -> None:
    """Serve a session to its end, on this socket that the listener gave.

    It ends, too, when the front end keeps another waiting, or another has its end of the connection.
    """
    yielding = asyncio.ensure_future(_yield_to_next(session, listener))
    listener.call_when_sealed(partial(_end_if_handed_over, session, connected))
    try:
        await session.serve()
    finally:
        yielding.cancel()
        await asyncio.wait({yielding})  # it looks at the listener no more when the next is accepted
        listener.call_when_sealed(None)


def _end_if_handed_over(session: Session, connected: socket.socket) -> None:
    """End the session if another front end has had its other end among what it sent."""
    if connected.fileno() < 0:  # it has ended already, and its task has not gone on yet
        return
    if not is_read_by_peer(connected) and not has_hung_up(connected):
        session.end("its other end was handed over")


async def _yield_to_next(session: Session, listener: Listener) -> None:
    """A front end that owes us something and does not go on makes room for one that waits."""
    if listener.is_connected:
        return
    await listener.wait_next()
    while session.stalled_s < STALL_LIMIT_S:
        await asyncio.sleep(STALL_LIMIT_S)
    session.end(f"another front end waits, and this one has not gone on for {STALL_LIMIT_S:g} s")
