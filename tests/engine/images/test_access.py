"""Who may read a new image, and what the target of `ringblk image` may be called."""

import errno
import gzip
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringblk.engine.images.direct_io_file import DirectIoFile
from ringblk.engine.images.file_access import FileAccess
from ringblk.engine.images.partial import PartialFile
from tests.rigs.image_command import run_image

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users: needs root")
needs_qemu = pytest.mark.skipif(shutil.which("qemu-nbd") is None, reason="qemu-nbd is not installed")
ACL = "system.posix_acl_access"
CONTENT = bytes(510) + b"\x55\xaa" + b"secret! " * 1024


def acl(*entries: tuple[int, int, int]) -> bytes:
    """Tag, permissions, id of each (linux/posix_acl_xattr.h)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


# Owner rw, user 1234 r, group none, mask r, others none.
FOR_ONE_MORE = acl(
    (1, 6, 2**32 - 1), (2, 4, 1234), (4, 0, 2**32 - 1), (0x10, 4, 2**32 - 1), (0x20, 0, 2**32 - 1)
)


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.raw"
    path.write_bytes(CONTENT)
    return path


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def set_acl(path: Path, value: bytes, name: str = ACL) -> None:
    try:
        os.setxattr(path, name, value)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            pytest.skip("no access control lists here")
        raise


@pytest.mark.parametrize(("mode", "wanted"), [(0o600, 0o600), (0o640, 0o640), (0o644, 0o644), (0o666, 0o644)])
@pytest.mark.parametrize("name", ["t.raw", "t.gz", pytest.param("t.qcow2", marks=needs_qemu)])
def test_a_new_target_is_no_more_open_than_its_source(
    tmp_path: Path, source: Path, name: str, mode: int, wanted: int
) -> None:
    source.chmod(mode)
    assert run_image("export", "--quiet", "--verify", source, tmp_path / name) == 0
    assert mode_of(tmp_path / name) == wanted


def test_a_private_stream_becomes_a_private_image(tmp_path: Path) -> None:
    packed = tmp_path / "packed.gz"
    packed.write_bytes(gzip.compress(CONTENT))
    packed.chmod(0o600)
    assert run_image("import", "--quiet", packed, tmp_path / "t.raw") == 0
    assert mode_of(tmp_path / "t.raw") == 0o600


@as_root
def test_the_group_of_a_source_is_not_ours(tmp_path: Path, source: Path) -> None:
    os.chown(source, -1, 1234)
    source.chmod(0o640)
    assert run_image("import", "--quiet", source, tmp_path / "t.raw") == 0
    assert mode_of(tmp_path / "t.raw") == 0o600


def test_the_list_of_a_source_means_nobody_of_ours(tmp_path: Path, source: Path) -> None:
    source.chmod(0o600)
    set_acl(source, FOR_ONE_MORE)
    set_acl(
        tmp_path,
        acl(
            *[(1, 7, 2**32 - 1), (2, 7, 1235), (4, 5, 2**32 - 1)], (0x10, 7, 2**32 - 1), (0x20, 5, 2**32 - 1)
        ),
        "system.posix_acl_default",
    )
    assert run_image("import", "--quiet", source, tmp_path / "t.raw") == 0
    assert mode_of(tmp_path / "t.raw") == 0o600
    with pytest.raises(OSError, match="No data"):
        os.getxattr(tmp_path / "t.raw", ACL)


@pytest.mark.parametrize("command", ["create", "import"])
@as_root
def test_what_is_replaced_keeps_its_owner_and_mode(tmp_path: Path, source: Path, command: str) -> None:
    target = tmp_path / "t.raw"
    target.write_bytes(bytes(512))
    os.chown(target, 1234, 1235)
    target.chmod(0o660)
    arguments = (target, "1M") if command == "create" else ("--quiet", source, target)
    assert run_image(command, "--force", *arguments) == 0
    found = target.stat()
    assert (found.st_uid, found.st_gid, mode_of(target)) == (1234, 1235, 0o660)
    assert found.st_size != 512


def test_what_is_replaced_keeps_its_list(tmp_path: Path, source: Path) -> None:
    target = tmp_path / "t.raw"
    target.write_bytes(bytes(512))
    target.chmod(0o600)
    set_acl(target, FOR_ONE_MORE)
    kept = os.getxattr(target, ACL)
    assert run_image("import", "--quiet", "--force", source, target) == 0
    assert os.getxattr(target, ACL) == kept
    assert mode_of(target) == 0o640  # the list's mask
    assert target.read_bytes() == CONTENT


@as_root
def test_an_owner_that_cannot_be_kept_is_said_first(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "t.raw"
    target.write_bytes(bytes(512))
    os.chown(target, 1234, -1)

    def refuse(fd: int, user: int, group: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fchown", refuse)
    assert run_image("import", "--force", source, target) == 1
    assert "only root can keep" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["source.raw", "t.raw"]
    assert target.read_bytes() == bytes(512)


def test_a_stand_in_is_its_makers_alone(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, seen = tmp_path / "t.raw", []
    target.write_bytes(bytes(512))
    target.chmod(0o666)
    write_at = DirectIoFile._write_at

    def look(file: DirectIoFile, part: memoryview, offset_bytes: int) -> int:
        seen.append(os.fstat(file.fileno()).st_mode & 0o7777)
        return write_at(file, part, offset_bytes)

    monkeypatch.setattr(DirectIoFile, "_write_at", look)
    assert run_image("import", "--quiet", "--force", source, target) == 0
    assert set(seen) == {0o600}
    assert mode_of(target) == 0o666


def test_what_a_source_allows() -> None:
    source = FileAccess(user=1, group=2, mode=0o664, acl=None)
    assert source.no_more_than(0o666, group=2) == 0o664
    assert source.no_more_than(0o666, group=3) == 0o644
    assert source.no_more_than(0o600, group=2) == 0o600
    assert source._replace(acl=b"any").no_more_than(0o666, group=2) == 0o644


@pytest.mark.parametrize(
    "name", ["x" * 237, "x" * 238, "x" * 255, "\u00e4" * 127, "\U0001f4bd" * 63, "\udcff" * 250]
)
def test_a_name_may_be_as_long_as_names_may_be(tmp_path: Path, source: Path, name: str) -> None:
    target = tmp_path / name
    assert run_image("import", "--quiet", "--format=raw", source, target) == 0
    assert run_image("create", "--force", target, "1M") == 0
    assert run_image("export", "--quiet", "--force", "--format=gzip", source, target) == 0
    left = PartialFile(target, replace=True)
    left._close()  # as if it had been killed
    assert left.path.exists()
    other = PartialFile(tmp_path / ("y" + name[1:]), replace=True)  # another's is not removed
    assert run_image("create", "--force", target, "1M") == 0
    assert sorted(tmp_path.iterdir()) == sorted([source, target, other.path])
    other.discard()


def test_a_name_that_is_too_long_is_one_line(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_image("import", source, tmp_path / ("x" * 256)) == 1
    said = capsys.readouterr().err
    assert said.endswith(": File name too long\n")
    assert os.listdir(tmp_path) == ["source.raw"]
