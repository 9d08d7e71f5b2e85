"""Waiting for what a dead process has sent to a server."""

import logging
import os
import socket

from ringblk.workers.nbd.ledger import LOOK_BYTES, Ledger, NotNbd, ReplyKeeper
from ringblk.workers.nbd.mailbox import Mailbox
from ringblk.workers.nbd.record_keeper import RecordKeeper

_log = logging.getLogger(__name__)


class ConnectionFence:
    """One connection of a process that was reaped: taken from its mailbox, read from, and closed."""

    def __init__(self, ledgers: Ledger, index: int, mailbox: Mailbox) -> None:
        self._socket: socket.socket | None = None
        self._keeper: ReplyKeeper | RecordKeeper | None = None
        found = mailbox.take()
        if found is None:
            return  # it had never connected
        generation, fd = found
        if generation != ledgers.generation(index):
            os.close(fd)  # it was about to use another, and had sent nothing through that
            return
        self._socket = socket.socket(fileno=fd)
        try:
            is_encrypted = ledgers.is_encrypted(index)
            self._keeper = RecordKeeper(ledgers, index) if is_encrypted else ReplyKeeper(ledgers, index)
        except NotNbd:
            self._close()

    def look(self) -> bool:
        """Take what has come; whether the server has answered all that it had received. Never waits."""
        while self._socket is not None:
            assert self._keeper is not None, "they come and go together"
            if self._keeper.owed_count == 0:
                self._close()
                return True
            try:
                data = self._socket.recv(LOOK_BYTES, socket.MSG_DONTWAIT)
                if data:
                    self._keeper.feed(data)
                    continue
            except BlockingIOError:
                return False
            except (OSError, NotNbd):
                pass
            _log.warning(
                "the server has ended the connection of the process that died: %d requests were not answered",
                self._keeper.owed_count,
            )
            self._close()
        return True

    def _close(self) -> None:
        assert self._socket is not None
        self._socket.close()
        self._socket = self._keeper = None
