"""The vhost-user-blk backend under test, as a process that serves one image."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.rigs.child_process import ends_with_tests

# A guard against a backend that does not end; it takes milliseconds.
END_GUARD_S = 30.0


PROGRAM = (str(Path(sys.executable).with_name("vhost-user-ringblk")),)


def backend_command(
    listener_fd: int, image: Path | None, read_only: bool, num_queues: int, program: Sequence[str] = PROGRAM
) -> list[str]:
    """The command line that serves `image` on a listening socket; None: other options say what is served."""
    command = [*program, f"--fd={listener_fd}", f"--num-queues={num_queues}"]
    command += [] if image is None else [f"--blk-file={image}"]
    return [*command, "--read-only"] if read_only else command


@contextlib.contextmanager
def serve(
    image: Path | None,
    directory: Path,
    read_only: bool = False,
    num_queues: int = 1,
    options: tuple[str, ...] = (),
    program: Sequence[str] = PROGRAM,
) -> Iterator[Path]:
    """Serve `image` (None: what `options` say) while the context lasts; gives the socket's path.

    Its output is `backend.log`. The socket listens before the program starts, so that nobody has to wait for
    it.
    """
    socket_path = directory / "blk.sock"
    with socket.socket(socket.AF_UNIX) as listener, (directory / "backend.log").open("wb") as log:
        listener.bind(os.fspath(socket_path))
        listener.listen()
        command = [*backend_command(listener.fileno(), image, read_only, num_queues, program), *options]
        process = subprocess.Popen(
            ends_with_tests(command),
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield socket_path
        assert process.poll() is None, f"the backend ended early:\n{(directory / 'backend.log').read_text()}"
        process.send_signal(signal.SIGTERM)
        status = process.wait(END_GUARD_S)
        assert status == 0, f"the backend ended with {status}:\n{(directory / 'backend.log').read_text()}"
    finally:
        process.kill()
        process.wait()
