"""An image is held while an engine runs, and free when the last process of it is gone."""

import os
import signal
from pathlib import Path

from ringblk import Frontend, engine_command
from ringblk.workers.backends.image_lock import is_image_locked


def is_held(image: Path) -> bool:
    fd = os.open(image, os.O_RDWR)
    try:
        return is_image_locked(fd)
    finally:
        os.close(fd)


def test_the_image_is_held_while_an_engine_runs_and_free_after(image: Path) -> None:
    with Frontend(engine_command(f"--blk-file={image}"), request_timeout_s=60) as disk:
        assert is_held(image)
        disk.write(0, bytes(512))
    assert not is_held(image)


def test_the_next_engine_goes_on_after_a_killed_one(image: Path) -> None:
    with Frontend(engine_command(f"--blk-file={image}"), request_timeout_s=60) as disk:
        supervisor = disk.backend_pid
        assert supervisor is not None
        disk.write(0, b"x" * 512)
        os.kill(supervisor, signal.SIGKILL)  # its children may hold the image a little longer
        disk.reconnect()
        assert disk.backend_pid != supervisor
        assert is_held(image)
        assert disk.read(0, 512) == b"x" * 512
