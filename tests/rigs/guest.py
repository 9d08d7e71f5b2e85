"""A Linux guest as a test sees it: boot, run command lines, reboot, power off."""

from __future__ import annotations

import base64
import select
import shlex
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from scripts.guest_machine import Machine, guest_image, qemu_command
from tests.rigs.child_process import ends_with_tests
from tests.rigs.monitor import Monitor

# Guards against a guest that hangs; a boot takes three seconds on a quiet machine, a command less.
BOOT_GUARD_S = 120.0
COMMAND_GUARD_S = 120.0


class GuestError(Exception):
    """The guest or a command in it failed: look at the console, whose end is part of the text."""


class Guest:
    """A guest that runs from `__enter__` to `__exit__`; `log_directory` keeps its `console.log`."""

    def __init__(
        self,
        machine: Machine,
        log_directory: Path,
        programs: tuple[str, ...] = (),
        *,
        is_incoming: bool = False,
    ) -> None:
        """With `is_incoming` it is a QEMU that waits for a guest to move into it (`moving_guest.move`)."""
        self.machine = machine
        self._is_incoming = is_incoming
        self.console_path = log_directory / "console.log"
        self._programs = programs
        self._received = bytearray()

    def __enter__(self) -> Guest:
        self._agent, qemu_end = socket.socketpair()
        monitor_end, qemu_monitor_end = socket.socketpair()
        options = ["-serial", f"file:{self.console_path}"]
        options += ["-chardev", f"socket,id=agent,fd={qemu_end.fileno()}", "-serial", "chardev:agent"]
        options += ["-chardev", f"socket,id=qmp,fd={qemu_monitor_end.fileno()}", "-mon", "qmp,mode=control"]
        options += ["-incoming", "defer"] if self._is_incoming else []
        command = qemu_command(self.machine, guest_image(self._programs), options, "agent")
        command = ends_with_tests(command)
        self.monitor = Monitor(monitor_end)
        with qemu_end, qemu_monitor_end, self.console_path.with_name("qemu.log").open("wb") as log:
            log.write(shlex.join(command).encode() + b"\n")
            log.flush()
            self._qemu = subprocess.Popen(
                command,
                pass_fds=[qemu_end.fileno(), qemu_monitor_end.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            if not self._is_incoming:
                self._wait_for_boot()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def run(self, command: str, check: bool = True, guard_s: float = COMMAND_GUARD_S) -> str:
        """The output of a shell command line in the guest, standard error included, without the last newline.

        Raises GuestError when its status is not 0, unless `check` is false.
        """
        status, output = self.status_of(command, guard_s)
        if check and status != 0:
            raise GuestError(f"{command!r} ended with status {status}:\n{output}\n{self.console_tail()}")
        return output

    def status_of(self, command: str, guard_s: float = COMMAND_GUARD_S) -> tuple[int, str]:
        """The exit status and the output of a shell command line in the guest."""
        deadline = time.monotonic() + guard_s
        self._send(command)
        answer = self._receive_line(deadline, f"{command!r} to end")
        if answer == "ready":
            raise GuestError(f"the guest rebooted during {command!r}\n{self.console_tail()}")
        status, size_bytes = answer.split()
        output = self._receive(int(size_bytes), deadline, f"the output of {command!r}")
        return int(status), output.decode(errors="replace").removesuffix("\n")

    def reboot(self, sync: bool = True) -> None:
        """Reboot within the same QEMU process; without `sync` it is as if the reset button was pressed."""
        self._send("reboot -f" if sync else "echo b >/proc/sysrq-trigger")
        self._wait_for_boot()

    def power_off(self) -> None:
        """Power the guest off and wait for QEMU's end."""
        self._send("poweroff -f")
        deadline = time.monotonic() + COMMAND_GUARD_S
        while self._receive_more(deadline, "power off"):
            pass
        status = self._qemu.wait(COMMAND_GUARD_S)
        if status != 0:
            raise GuestError(f"QEMU ended with status {status}\n{self.console_tail()}")

    def console_tail(self, line_count: int = 40) -> str:
        """The last lines of QEMU's own output and of the guest's console, for messages."""
        tails = []
        for path in (self.console_path.with_name("qemu.log"), self.console_path):
            lines = path.read_text(errors="replace").splitlines() if path.exists() else []
            tails.append(f"--- {path}\n" + "\n".join(lines[-line_count:]))
        return "\n".join(tails)

    def _send(self, command: str) -> None:
        self._agent.sendall(base64.b64encode(command.encode()) + b"\n")

    def _wait_for_boot(self) -> None:
        line = self._receive_line(time.monotonic() + BOOT_GUARD_S, "the guest to boot")
        if line != "ready":
            raise GuestError(f"the guest said {line!r} instead of booting\n{self.console_tail()}")

    def _receive_line(self, deadline: float, what: str) -> str:
        return (
            self._receive_until(lambda: self._received.find(b"\n") + 1 or None, deadline, what)
            .decode()
            .strip()
        )

    def _receive(self, size_bytes: int, deadline: float, what: str) -> bytes:
        return self._receive_until(
            lambda: size_bytes if len(self._received) >= size_bytes else None, deadline, what
        )

    def _receive_until(self, complete_bytes: Callable[[], int | None], deadline: float, what: str) -> bytes:
        """What was received, up to the size that `complete_bytes` gives once it knows one."""
        while (size_bytes := complete_bytes()) is None:
            if not self._receive_more(deadline, what):
                raise GuestError(f"QEMU ended while the test waited for {what}\n{self.console_tail()}")
        data = bytes(self._received[:size_bytes])
        del self._received[:size_bytes]
        return data

    def _receive_more(self, deadline: float, what: str) -> bool:
        """Wait for more from the guest; false when QEMU has closed its end."""
        if not select.select([self._agent], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise GuestError(f"the test waited too long for {what}\n{self.console_tail()}")
        try:
            data = self._agent.recv(65536)
        except ConnectionResetError:
            data = b""
        self._received += data
        return bool(data)

    def end(self) -> None:
        """End QEMU, whatever is in it. May be called again."""
        self._qemu.kill()
        self._qemu.wait()
        self._agent.close()
        self.monitor.close()
