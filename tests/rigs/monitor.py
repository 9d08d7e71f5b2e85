"""QEMU's monitor (QMP), as far as tests need it."""

import json
import socket
from typing import Any

_GUARD_S = 120.0


class MonitorError(Exception):
    """QEMU has refused a command, or ended."""


class Monitor:
    """One end of a monitor's connection; `ask` may be called once QEMU runs."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._socket.settimeout(_GUARD_S)
        self._lines = connected.makefile("rw")
        self._has_begun = False

    def ask(self, command: str, **arguments: object) -> Any:
        """Carry a command out, and give its answer. Raises `MonitorError`."""
        if not self._has_begun:
            self._has_begun = True
            self.ask("qmp_capabilities")
        try:
            self._lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
            self._lines.flush()
            while line := self._lines.readline():
                answer = json.loads(line)
                if "error" in answer:
                    raise MonitorError(f"{command}: {answer['error']['desc']}")
                if "return" in answer:
                    return answer["return"]
        except OSError as error:
            raise MonitorError(f"{command}: {error}") from error
        raise MonitorError(f"{command}: QEMU has ended")

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self._socket.close()
