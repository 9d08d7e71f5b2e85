"""What an engine refuses to serve because it is no raw image, and when it doesn't."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.images.served_format import check_served_format
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.workers.backends.file import FileBackend
from tests.rigs.engine_rig import Engine, raw_frontend, run_program
from tests.rigs.inline_device import IN, OK, OUT

QCOW2 = b"QFI\xfb\0\0\0\3" + bytes(504)
SIZE_BYTES = 1 << 20
HEADS: dict[str, tuple[int, bytes]] = {
    "qcow2": (0, QCOW2),
    "vmdk": (0, b"KDMV"),
    "vhdx": (0, b"vhdxfile"),
    "vdi": (64, b"\x7f\x10\xda\xbe"),
    "LUKS": (0, b"LUKS\xba\xbe\0\1"),
    "parallels": (0, b"WithoutFreeSpace"),
    "qed": (0, b"QED\0"),
    "vhd": (0, b"conectix"),
    "dmg": (SIZE_BYTES - 512, b"koly\0\0\0\x04\0\0\x02\0"),
    "gzip": (0, b"\x1f\x8b\x08\0"),
    "zstd": (0, b"\x51\x2a\x4d\x18"),
}


@pytest.fixture
def make_image(tmp_path: Path) -> Callable[[int, bytes], Path]:
    def make(offset_bytes: int, content: bytes) -> Path:
        path = tmp_path / "disk.img"
        path.write_bytes(bytes(offset_bytes) + content + bytes(SIZE_BYTES - offset_bytes - len(content)))
        return path

    return make


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("direct", ["auto", "off"])
@pytest.mark.parametrize("name", sorted(HEADS))
def test_a_container_is_refused(
    make_image: Callable[[int, bytes], Path], name: str, direct: str, read_only: bool
) -> None:
    path = make_image(*HEADS[name])
    options: dict[str, Any] = {
        "blk_file": str(path),
        "socket_path": "/x",
        "direct": direct,
        "read_only": read_only,
    }
    backend = FileBackend(path, read_only=read_only, direct=direct)  # type: ignore[arg-type]
    with pytest.raises(
        ProgramError, match=f"this is a {name} file, and only raw images are served"
    ) as refused:
        check_served_format(DriveConfig(**options), backend)
    assert "--format=raw" in str(refused.value)
    check_served_format(DriveConfig(**options, format="raw"), backend)
    backend.close()


@pytest.mark.parametrize("content", [(0, b""), (510, b"\x55\xaa"), (1080, b"\x53\xef"), (0, b"no format")])
def test_a_raw_image_is_served(make_image: Callable[[int, bytes], Path], content: tuple[int, bytes]) -> None:
    path = make_image(*content)
    check_served_format(DriveConfig(blk_file=str(path), socket_path="/x"), FileBackend(path))


def test_an_image_of_one_sector_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(QCOW2)
    with pytest.raises(ProgramError):
        check_served_format(DriveConfig(blk_file=str(path), socket_path="/x"), FileBackend(path))


@pytest.mark.parametrize("options", [(), ("--read-only",)])
def test_the_program_refuses_and_leaves_the_file_alone(
    tmp_path: Path, make_image: Callable[[int, bytes], Path], options: tuple[str, ...]
) -> None:
    path = make_image(0, QCOW2)
    before = path.read_bytes()
    done = run_program(f"--socket-path={tmp_path / 's'}", f"--blk-file={path}", *options)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("vhost-user-ringblk: ")]
    assert lines == [
        f"vhost-user-ringblk: --blk-file {path}: this is a qcow2 file, and only raw images are served: "
        "`ringblk image import` makes a raw image of it; --format=raw serves it as it is"
    ]
    assert path.read_bytes() == before
    with Engine(f"--blk-file={path}", "--format=raw", *options) as engine, raw_frontend(engine) as frontend:
        assert frontend.queues[0].request(IN, read_bytes=512) == (OK, QCOW2)


def test_a_guest_that_writes_a_header_does_not_stop_an_upgrade(
    make_image: Callable[[int, bytes], Path],
) -> None:
    image = f"--blk-file={make_image(0, b'')}"
    with Engine(image) as engine:
        with raw_frontend(engine) as frontend:
            assert frontend.queues[0].request(OUT, data=QCOW2)[0] == OK
        with Engine(image, "--takeover") as successor, raw_frontend(successor) as frontend:
            assert frontend.queues[0].request(IN, read_bytes=512) == (OK, QCOW2)
            assert "looks like a qcow2 file, and goes on as raw" in successor.log()


@pytest.mark.skipif(shutil.which("qemu-io") is None, reason="qemu-io is not installed")
def test_an_image_that_qemu_writes_to_is_not_served_read_only(
    tmp_path: Path, make_image: Callable[[int, bytes], Path]
) -> None:
    path = make_image(0, b"")
    with subprocess.Popen(
        ["qemu-io", "-f", "raw", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(8) == b"qemu-io>"  # it has the image open
        done = run_program(f"--socket-path={tmp_path / 's'}", f"--blk-file={path}", "--read-only")
        assert done.returncode == 1
        assert "in use by another program" in done.stderr
        process.communicate(b"quit\n")
