"""An overlay gets another base, or none, or its base what it has: it reads as before, whatever happens."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringblk.crashes import Recording
from ringblk.engine.crashes.folder_copy import remove_folder
from ringblk.engine.images.delta_export import export_delta
from ringblk.engine.images.delta_import import import_delta
from ringblk.engine.images.error import ImageError
from ringblk.engine.images.overlay import OverlayImage
from ringblk.engine.images.overlay_base import rebase
from ringblk.engine.images.overlay_check import check_overlay
from ringblk.engine.images.overlay_commit import commit
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.overlay import OverlayBackend
from ringblk.workers.layers.overlay_folder import locked_overlay, read_chain, write_chain
from tests.rigs.image_command import run_image
from tests.rigs.overlay_chain import KnownOverlay, Write, content_at
from tests.rigs.recorded_folder import Record

BLOCKS = 30
SIZES = st.integers(1, BLOCKS * 8).map(lambda count: count * 512)
WRITES = st.lists(st.builds(Write, st.integers(0, BLOCKS - 1), st.integers(1, 4), st.booleans()), max_size=4)
LAYERS = st.lists(st.tuples(WRITES, st.none() | SIZES), max_size=3)
MIB = 1 << 20


def no_watch(_: int, __: int) -> None:
    """Nobody looks."""


def assert_unchanged(overlay: KnownOverlay) -> None:
    for name, content in overlay.contents.items():
        if name != "base":
            assert content_at(overlay.folder, name) == content
    assert content_at(overlay.folder) == overlay.content
    assert check_overlay(str(overlay.folder), repair=False) == []


@given(SIZES, SIZES, LAYERS, st.none() | st.tuples(SIZES, st.integers(0, BLOCKS)))
@settings(max_examples=60, deadline=None)
def test_on_another_base_it_reads_the_same(
    base_bytes: int,
    size_bytes: int,
    layers: list[tuple[list[Write], int | None]],
    other: tuple[int, int] | None,
) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="ringblk-test-") as name:
        overlay = KnownOverlay(Path(name) / "one", base_bytes, size_bytes)
        for number, (writes, size) in enumerate(layers):
            overlay.snapshot(f"s{number}", writes, size)
        new_base = None
        if other is not None:
            new_bytes, same_blocks = other
            same = overlay.base.read_bytes()[: same_blocks * 4096]
            new_base = overlay.base.with_name("new")
            new_base.write_bytes((same + overlay.chance.randbytes(new_bytes))[: max(new_bytes, 512)])
        rebase(str(overlay.folder), None if new_base is None else str(new_base), no_watch)
        overlay.base.unlink()
        assert_unchanged(overlay)


def written_overlay(home: Path, *, blocks: int = 20) -> KnownOverlay:
    """One layer, which an engine's backend has written to."""
    overlay = KnownOverlay(home, MIB, MIB)
    backend = OverlayBackend(overlay.base, overlay.folder, direct="off")
    backend.image_lock().lock()
    for _ in range(blocks):
        offset = overlay.chance.randrange(MIB // 512 - 16) * 512
        data = overlay.chance.randbytes(512 * overlay.chance.randrange(1, 16))
        if overlay.chance.random() < 0.3:
            data = bytes(len(data))
            backend.write_zeroes(offset, len(data))
        else:
            backend.write_at(offset, data)
        overlay.content[offset : offset + len(data)] = data
    backend.close()
    return overlay


def test_what_an_engine_has_written_stays_through_a_rebase(shm_path: Path) -> None:
    overlay = written_overlay(shm_path / "one")
    other = shm_path / "other"
    other.write_bytes(overlay.chance.randbytes(MIB))
    assert run_image("rebase", overlay.folder, f"--base={other}", "--quiet") == 0
    assert_unchanged(overlay)
    assert run_image("flatten", overlay.folder, "--quiet") == 0
    other.unlink()
    assert_unchanged(overlay)


def test_a_base_that_has_moved(shm_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overlay = written_overlay(shm_path / "one")
    moved = shm_path / "moved"
    shutil.move(overlay.base, moved)
    assert run_image("rebase", overlay.folder, f"--base={moved}") == 1
    assert "--moved takes the new one for the same" in capsys.readouterr().err
    (shm_path / "short").write_bytes(bytes(512))
    assert run_image("rebase", overlay.folder, f"--base={shm_path / 'short'}", "--moved") == 1
    assert "is not as large as" in capsys.readouterr().err
    assert run_image("rebase", overlay.folder, f"--base={moved}", "--moved") == 0
    assert_unchanged(overlay)


def test_a_commit(shm_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overlay = written_overlay(shm_path / "one")
    other = overlay.copy_of_base(shm_path / "two", MIB)
    assert run_image("commit", overlay.folder) == 0
    assert overlay.base.read_bytes() == overlay.content
    assert_unchanged(overlay)
    with OverlayImage(str(overlay.folder)) as image:
        assert not image.layers[0].states.own
    shutil.copy(overlay.base, other.parent / "base")
    assert run_image("export", other, shm_path / "out.raw") == 1
    assert f"is not as it was when the overlay {other} was made on it" in capsys.readouterr().err
    overlay.snapshot("monday", [Write(1, 1)])
    assert run_image("commit", overlay.folder) == 1
    assert "has snapshots, which would change with the base" in capsys.readouterr().err


def test_a_commit_that_was_cut_off(shm_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All say in a line what to do, and that goes on with it."""
    overlay = written_overlay(shm_path / "one")

    def die(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        commit(str(overlay.folder), die)
    line = f"a commit of the overlay {overlay.folder} into it was cut off: run 'ringblk image commit"
    for words in (["info"], ["check"], ["check", "--repair"], ["flatten"], ["diff", "--since=base"]):
        assert run_image(words[0], overlay.folder, *words[1:]) == 1
        said = capsys.readouterr()
        assert line in said.out + said.err, words
    with pytest.raises(BackendError, match="was cut off: run"):
        OverlayBackend(overlay.base, overlay.folder)
    assert run_image("commit", overlay.folder) == 0
    assert overlay.base.read_bytes() == overlay.content
    assert_unchanged(overlay)
    assert run_image("check", overlay.folder) == 0


Change = Callable[[KnownOverlay], object]


def rebase_it(overlay: KnownOverlay) -> None:
    other = overlay.folder.parent / "other"
    rebase(str(overlay.folder), str(other), no_watch)


CHANGES: dict[str, Change] = {
    "rebase": rebase_it,
    "flatten": lambda overlay: rebase(str(overlay.folder), None, no_watch),
    "commit": lambda overlay: commit(str(overlay.folder), no_watch),
    "import": lambda overlay: import_delta(overlay.folder.parent / "delta", str(overlay.folder), no_watch),
    "repair": lambda overlay: check_overlay(str(overlay.folder), repair=True),
}


def know_base_again(overlay: KnownOverlay) -> None:
    """The base of a state is another file, and was written at another time: have the chain say so."""
    with locked_overlay(str(overlay.folder)) as folder_fd:
        chain = read_chain(folder_fd)
        assert chain is not None
        path = Path(os.fsdecode(chain.base.path))
        if chain.base.path and path.exists():
            info = path.stat()
            modified_ns = min(chain.base.modified_ns, 0) or info.st_mtime_ns
            base = msgspec.structs.replace(chain.base, inode=info.st_ino, modified_ns=modified_ns)
            write_chain(folder_fd, msgspec.structs.replace(chain, base=base))


@pytest.mark.parametrize("change", CHANGES)
def test_a_power_failure_leaves_the_old_or_the_new(
    shm_path: Path, recorded_folder: Record, change: str
) -> None:
    """A kill, too: what a killed program has done is one of the states that a power failure may leave."""
    home = shm_path / "one"
    overlay = written_overlay(home, blocks=0 if change == "import" else 12)
    (home / "other").write_bytes(overlay.base.read_bytes()[: MIB // 2] + overlay.chance.randbytes(MIB // 2))
    contents = {bytes(overlay.content)}
    if change == "import":
        made = written_overlay(shm_path / "two")
        with OverlayImage(str(made.folder)) as image:
            export_delta(image, "base", home / "delta", no_watch, replace=False)
        contents.add(bytes(made.content))
    with recorded_folder(home) as recorded:
        CHANGES[change](overlay)
        recorded.mark("done")
    new = content_at(overlay.folder)
    assert new in contents
    shutil.rmtree(home)
    for state in Recording.read(recorded.record).states(60):
        state.make(home)
        (home / "overlay" / "live").unlink(missing_ok=True)
        know_base_again(overlay)
        try:
            found = content_at(overlay.folder)
        except ImageError:  # it is refused until the commit is run again
            if change != "commit":
                raise
            commit(str(overlay.folder), no_watch)
            found = content_at(overlay.folder)
        assert found == new if state.marks else found in contents
        if change == "commit" and state.marks:
            assert overlay.base.read_bytes() == new
        CHANGES[change](overlay) if change == "repair" else None
        findings = check_overlay(str(overlay.folder), repair=True)
        assert all(finding.is_repaired for finding in findings), findings
        remove_folder(home)


@pytest.mark.parametrize("change", ["rebase", "flatten", "commit", "import"])
def test_a_full_disk_changes_nothing(tmp_path: Path, mount: Callable[..., Path], change: str) -> None:
    small = mount("tmpfs", "size=4m")
    overlay = written_overlay(small / "one", blocks=0 if change == "import" else 12)
    (small / "one" / "other").write_bytes(overlay.chance.randbytes(MIB))
    if change == "import":
        made = written_overlay(tmp_path / "two", blocks=60)
        with OverlayImage(str(made.folder)) as image:
            export_delta(image, "base", small / "one" / "delta", no_watch, replace=False)
    filler = small / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    with pytest.raises(OSError, match="No space left"):
        CHANGES[change](overlay)
    filler.unlink()
    assert content_at(overlay.folder) == overlay.content
    assert check_overlay(str(overlay.folder), repair=True) == []
