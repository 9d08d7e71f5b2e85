"""`ringblk image` as a person runs it: other processes, their locks, signals and standard streams."""

import argparse
import errno
import json
import lzma
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ringblk.engine.images import qemu_image
from ringblk.engine.images.command import parse_size_bytes
from ringblk.engine.images.direct_io_file import DirectIoFile
from ringblk.engine.images.direct_io_reader import DirectIoReader
from ringblk.engine.images.stream import CompressedReader
from ringblk.shm.platform.form import LINUX
from ringblk.workers.backends.image_lock import lock_image
from tests.rigs.image_command import run_image

COMMAND = [sys.executable, "-m", "ringblk", "image"]


def test_create_and_info(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "disk.raw"
    assert run_image("create", path, "16M") == 0
    assert (path.stat().st_size, path.stat().st_blocks) == (16 << 20, 0)
    assert run_image("create", path, "16M") == 1
    assert "exists already" in capsys.readouterr().err
    assert run_image("create", "--force", "--preallocate", path, "4M") == 0
    assert path.stat().st_blocks * 512 >= 4 << 20
    assert run_image("info", "--json", path) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["format"], told["size_bytes"], told["locked"]) == ("raw", 4 << 20, False)
    assert run_image("info", path) == 0
    assert "4.0 MiB (4194304 bytes)" in capsys.readouterr().out
    assert os.listdir(tmp_path) == ["disk.raw"]


@pytest.mark.parametrize(
    ("text", "size_bytes"), [("512", 512), ("10G", 10 << 30), ("3MiB", 3 << 20), ("1t", 1 << 40)]
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert parse_size_bytes(text) == size_bytes


@pytest.mark.parametrize("text", ["", "0", "-1G", "1000", "ten", "1.5G", "8388608T", "99999999T"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        parse_size_bytes(text)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_locked_image_is_refused_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], read_only: bool
) -> None:
    locked, other = tmp_path / "locked.raw", tmp_path / "other.raw"
    for path in (locked, other):
        path.write_bytes(b"content " * 1024)
    fd = os.open(locked, os.O_RDWR)
    lock_image(fd, read_only)

    assert run_image("import", "--force", other, locked) == 1
    assert run_image("create", "--force", locked, "1M") == 1
    refusals = capsys.readouterr().err.splitlines()
    assert (
        refusals
        == [f"ringblk image: {locked}: the image is in use by a running engine or another program"] * 2
    )
    # A reader beside read-only engines changes nothing for them.
    assert run_image("export", locked, tmp_path / "out.raw") == (0 if read_only else 1)
    capsys.readouterr()
    assert run_image("info", "--json", locked) == 0
    assert json.loads(capsys.readouterr().out)["locked"] is True
    assert locked.read_bytes() == b"content " * 1024
    os.close(fd)
    assert run_image("import", "--force", other, locked) == 0


def test_what_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_image("import", tmp_path / "none", tmp_path / "target") == 1
    assert capsys.readouterr().err == f"ringblk image: {tmp_path / 'none'}: No such file or directory\n"
    assert run_image("import", tmp_path, tmp_path / "target") == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def fail(number: int) -> Callable[..., None]:
    def raise_it(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    return raise_it


@pytest.mark.parametrize("command", ["import", "export"])
def test_an_error_names_the_side_that_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    source, target = tmp_path / "source.raw", tmp_path / "target.raw"
    source.write_bytes(b"content " * 1024)
    with monkeypatch.context() as patch:
        patch.setattr(DirectIoFile, "_write_at", fail(errno.ENOSPC))
        assert run_image(command, source, target) == 1
    assert capsys.readouterr().err == f"ringblk image: {target}: No space left on device\n"
    monkeypatch.setattr(DirectIoReader, "spans", fail(errno.EIO))
    assert run_image(command, source, target) == 1
    assert capsys.readouterr().err.endswith(": the source cannot be read: Input/output error\n")
    assert os.listdir(tmp_path) == ["source.raw"]


@pytest.mark.parametrize("command", [("import", "{}", "target"), ("info", "{}")])
def test_what_has_no_end_is_no_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    target = tmp_path / "target"
    for path, reason in (("/dev/zero", "character device"), (tmp_path / "pipe", "pipe")):
        named = [{"{}": path, "target": target}.get(word, word) for word in command]
        assert run_image(*named) == 1
        assert reason in capsys.readouterr().err
    assert not target.exists()


def vmdk_descriptor(folder: Path) -> Path:
    """A vmdk that is a text and continues in a pipe that nobody writes to."""
    os.mkfifo(folder / "pipe")
    path = folder / "list.vmdk"
    path.write_text(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
        f'createType="monolithicFlat"\nRW 8 FLAT "{folder}/pipe" 0\nddb.adapterType = "ide"\n'
    )
    return path


@pytest.mark.parametrize("command", ["import", "info"])
def test_a_list_of_other_files_is_not_followed_unasked(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    path = vmdk_descriptor(tmp_path)
    monkeypatch.setattr(qemu_image, "INFO_TIMEOUT_S", 10.0)  # in which it would hang else
    assert run_image(command, path, *([tmp_path / "target"] if command == "import" else [])) == 1
    assert "--format vmdk allows that" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
def test_a_named_file_that_hangs_qemu_is_given_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qemu_image, "INFO_TIMEOUT_S", 0.2)
    assert run_image("info", "--format", "vmdk", vmdk_descriptor(tmp_path)) == 1
    assert "qemu-img gave no answer" in capsys.readouterr().err


def test_a_stream_that_wants_more_memory_than_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "packed.xz"
    packed.write_bytes(lzma.compress(b"x" * 1000))

    def run_out(*arguments: object) -> int:
        raise MemoryError

    monkeypatch.setattr(CompressedReader, "readinto", run_out)
    assert run_image("import", packed, tmp_path / "target") == 1
    assert "xz stream wants more memory than there is" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["packed.xz"]


def test_standard_input_and_output(tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    target = tmp_path / "target.raw"
    subprocess.run(
        [*COMMAND, "import", "--verify", "--format=raw", "-", target],
        input=content,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    assert target.read_bytes() == content
    exported = subprocess.run([*COMMAND, "export", target, "-"], check=True, capture_output=True)
    assert exported.stdout == content
    with target.open("rb") as file:  # a file as standard input is read past the page cache
        subprocess.run(
            [*COMMAND, "import", "--format=raw", "-", tmp_path / "again.raw"],
            stdin=file,
            check=True,
            capture_output=True,
        )
    assert (tmp_path / "again.raw").read_bytes() == content


def said(errors: bytes) -> bytes:
    """What it wrote to stderr, but for the word on the page cache where there is no way past it."""
    return b"".join(line for line in errors.splitlines(keepends=True) if LINUX or b"page cache" not in line)


def half_an_import(target: Path) -> subprocess.Popen[bytes]:
    """Start an import whose standard input does not end, and wait until data is in its partial file."""
    process = subprocess.Popen(
        [*COMMAND, "import", "--force", "--format=raw", "-", target],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    # Once this much is taken from us, all but a pipe and a read's worth of it has gone on to the file.
    process.stdin.write(os.urandom(8 << 20))
    process.stdin.flush()
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_import_leaves_nothing(tmp_path: Path, number: int) -> None:
    process = half_an_import(tmp_path / "target.raw")
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == 128 + number
    assert said(errors) == b"ringblk image: interrupted\n"
    assert os.listdir(tmp_path) == []


def test_a_killed_import_leaves_no_target_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    target = tmp_path / "target.raw"
    target.write_bytes(b"the old one" * 512)
    killed = half_an_import(target)
    living = half_an_import(tmp_path / "living.raw")
    killed.kill()
    killed.communicate()
    assert target.read_bytes() == b"the old one" * 512
    left = {path.name for path in tmp_path.iterdir() if ".partial-" in path.name}
    assert len(left) == 2
    assert run_image("create", "--force", target, "1M") == 0
    assert run_image("create", tmp_path / "third.raw", "1M") == 0
    left = {path.name for path in tmp_path.iterdir() if ".partial-" in path.name}
    assert [name.split(".partial-")[0] for name in left] == [".living.raw"]
    assert said(living.communicate()[1]) == b""
    assert living.returncode == 0
    assert sorted(os.listdir(tmp_path)) == ["living.raw", "target.raw", "third.raw"]


@pytest.mark.parametrize("kind", ["pipe", "folder", "link", "socket"])
def test_what_others_put_beside_a_target_is_let_be(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target.raw"
    other = tmp_path / ".target.raw.partial-00000000"
    kept = tmp_path / "kept"
    kept.touch()
    if kind == "pipe":
        os.mkfifo(other)
    elif kind == "folder":
        other.mkdir()
    elif kind == "link":
        other.symlink_to(kept)
    else:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(str(other))
    assert run_image("create", target, "1M") == 0
    assert target.stat().st_size == 1 << 20
    assert os.path.lexists(other)


def test_two_imports_to_one_name_do_not_meet(tmp_path: Path) -> None:
    target = tmp_path / "target.raw"
    first = half_an_import(target)
    (tmp_path / "source.raw").write_bytes(b"second" * 512)
    assert run_image("import", tmp_path / "source.raw", target) == 0
    assert target.read_bytes() == b"second" * 512
    first.communicate()
    assert first.returncode == 0
    assert target.stat().st_size == 8 << 20


@pytest.mark.skipif(shutil.which("qemu-io") is None, reason="qemu-io is not installed")
@pytest.mark.parametrize("command", ["import", "export"])
@pytest.mark.parametrize("by", ["name", "standard input", "its middle"])
def test_an_image_that_qemu_writes_to_is_not_read(tmp_path: Path, command: str, by: str) -> None:
    if command == "export" and by != "name":
        pytest.skip("export reads no standard input")
    source, target = tmp_path / "source.raw", tmp_path / "target.raw"
    source.write_bytes(bytes(1 << 20))
    with subprocess.Popen(
        ["qemu-io", "-f", "raw", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as qemu:
        assert qemu.stdout is not None
        assert qemu.stdout.read(8) == b"qemu-io>"  # it has the image open
        with source.open("rb") as file:
            os.lseek(file.fileno(), 512 if by == "its middle" else 0, os.SEEK_SET)
            name = str(source) if by == "name" else "-"
            refused = subprocess.run(
                [*COMMAND, command, name, target], stdin=file, capture_output=True, text=True, check=False
            )
        qemu.communicate(b"quit\n")
    assert refused.returncode == 1
    assert "the image is in use by a running engine or another program" in refused.stderr
    assert not target.exists()
