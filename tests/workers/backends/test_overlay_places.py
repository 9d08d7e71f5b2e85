"""Bases and overlays where nothing may be written, or another user's: served, or refused in a clear line."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.overlay import OverlayBackend
from ringblk.workers.backends.overlay_changes import OverlayChanger

BASE = bytes(range(1, 129)) * 512
SOMEBODY = 54321

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="being somebody else needs root")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that anybody may look into, and its owner alone write to; a base is in it."""
    with tempfile.TemporaryDirectory(prefix="ringblk-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "base").write_bytes(BASE)
        yield folder


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """It is mounted so."""
    for options in ("bind", "remount,bind,ro"):
        command = ["mount", "-o", options, str(folder), str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def somebody_else() -> Iterator[None]:
    os.seteuid(SOMEBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def made(base: Path, overlay: Path, snapshot: str | None = None) -> OverlayBackend:
    backend = OverlayBackend(base, overlay, snapshot=snapshot)
    backend.image_lock().lock()
    return backend


def content(backend: OverlayBackend) -> bytes:
    read = bytearray(backend.size_bytes)
    backend.read_at(0, read)
    return bytes(read)


def test_a_base_is_only_read(place: Path, tmp_path: Path) -> None:
    """It, and the folder of a snapshot that is one, may be where nothing can be written."""
    source = made(place / "base", place / "source")
    source.write_at(0, b"s" * 4096)
    changer = OverlayChanger(source, "auto")
    change = changer.seal("s")
    changer.write(change.chain)
    source.use(change.found, change.fds)
    changer.settle()
    source.close()
    with read_only(place):
        for number, (base, snapshot) in enumerate([(place / "base", None), (place / "source", "s")]):
            backend = made(base, tmp_path / f"overlay {number}", snapshot)
            backend.write_at(8192, b"o" * 4096)
            first = b"s" * 4096 if snapshot else BASE[:4096]
            assert content(backend) == first + BASE[4096:8192] + b"o" * 4096 + BASE[12288:]
            backend.close()


def test_an_overlay_is_refused_where_nothing_can_be_written(place: Path) -> None:
    made(place / "base", place / "old").close()
    with read_only(place):
        for name in ("new", "old"):
            with pytest.raises(BackendError, match=f"{name}: can't open it: Read-only file system"):
                made(place / "base", place / name)
    made(place / "base", place / "old").close()


def test_another_user_s_base_is_served_if_it_may_be_read(place: Path) -> None:
    folder = place / "own"
    folder.mkdir()
    os.chown(folder, SOMEBODY, -1)
    with somebody_else():
        backend = made(place / "base", folder / "overlay")
        assert content(backend) == BASE
        backend.close()
    (place / "base").chmod(0o600)
    with somebody_else(), pytest.raises(BackendError, match="base: can't open it: Permission denied"):
        made(place / "base", folder / "second")
    assert not (folder / "second").exists()


def test_another_user_s_overlay_is_refused(place: Path) -> None:
    made(place / "base", place / "roots").close()
    for name in ("roots", "new"):
        with somebody_else(), pytest.raises(BackendError, match=f"{name}: can't open it: Permission denied"):
            made(place / "base", place / name)
    with somebody_else(), pytest.raises(BackendError, match="roots: can't open it: Permission denied"):
        made(place / "roots", place / "new", "s")
