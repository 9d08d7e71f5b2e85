"""Overlays as images: what is read, what has changed, and what goes to another host, against a model."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringblk.engine.images.delta_export import export_delta
from ringblk.engine.images.delta_import import import_delta
from ringblk.engine.images.error import ImageError
from ringblk.engine.images.overlay import OverlayImage
from ringblk.engine.images.overlay_diff import changed_since
from ringblk.engine.images.overlay_info import read_overlay_info
from ringblk.workers.layers.changed_blocks import extents_of
from ringblk.workers.layers.extent import Extent
from tests.rigs.image_command import run_image
from tests.rigs.overlay_chain import KnownOverlay, Write, content_at

SECTOR_BYTES = 512
MAX_BLOCKS = 40
SIZES = st.integers(1, MAX_BLOCKS * 8).map(lambda count: count * SECTOR_BYTES)
WRITES = st.lists(
    st.builds(Write, st.integers(0, MAX_BLOCKS - 1), st.integers(1, 6), st.booleans()), max_size=6
)
LAYERS = st.lists(st.tuples(WRITES, st.none() | SIZES), min_size=1, max_size=4)


@contextmanager
def known_overlay(
    base_bytes: int = 100 * 512,
    size_bytes: int = 30 * 4096 + 512,
    layers: Sequence[tuple[list[Write], int | None]] = (),
) -> Iterator[KnownOverlay]:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="ringblk-test-") as name:
        overlay = KnownOverlay(Path(name) / "one", base_bytes, size_bytes)
        for number, (writes, size) in enumerate(layers):
            overlay.snapshot(f"s{number}", writes, size)
        yield overlay


def no_watch(_: int, __: int) -> None:
    """Nobody looks."""


def changes(overlay: KnownOverlay, since: str, to: str) -> list[Extent]:
    with OverlayImage(str(overlay.folder), to) as image:
        return extents_of(changed_since(image, since), image.size_bytes)


def export(overlay: KnownOverlay, since: str, to: str, target: Path) -> Path:
    with OverlayImage(str(overlay.folder), to) as image:
        export_delta(image, since, target, no_watch, replace=True)
    return target


@given(SIZES, SIZES, LAYERS)
@settings(max_examples=60, deadline=None)
def test_each_snapshot_reads_as_it_was(
    base_bytes: int, size_bytes: int, layers: list[tuple[list[Write], int | None]]
) -> None:
    with known_overlay(base_bytes, size_bytes, layers) as overlay:
        for number in range(len(layers)):
            assert content_at(overlay.folder, f"s{number}") == overlay.contents[f"s{number}"]
        assert content_at(overlay.folder) == overlay.content


@given(SIZES, SIZES, LAYERS, st.data())
@settings(max_examples=60, deadline=None)
def test_all_that_has_changed_is_told_and_makes_the_same_elsewhere(
    base_bytes: int, size_bytes: int, layers: list[tuple[list[Write], int | None]], data: st.DataObject
) -> None:
    with known_overlay(base_bytes, size_bytes, layers) as overlay:
        names = list(overlay.contents)
        first = data.draw(st.integers(0, len(names) - 2))
        since, to = names[first], names[data.draw(st.integers(first + 1, len(names) - 1))]
        old, new = overlay.contents[since], overlay.contents[to]
        patched = bytearray(old[: len(new)].ljust(len(new), b"\0"))
        for extent in changes(overlay, since, to):
            place = slice(extent.offset, extent.offset + extent.length)
            patched[place] = new[place]
        assert patched == new
        other = overlay.copy_of_base(overlay.folder.parent.parent / "two", size_bytes)
        way = [name for name in ("base", since, to) if name != "base"]
        for before, after in zip(["base", *way], way, strict=False):
            if before != after:
                import_delta(export(overlay, before, after, other.parent / "delta"), str(other), no_watch)
                assert content_at(other, after) == overlay.contents[after]
        assert content_at(other) == new


def two_snapshots() -> list[tuple[list[Write], int | None]]:
    return [([Write(1, 3), Write(7, 1, True)], None), ([Write(2, 4), Write(29, 2)], None)]


def refuse_import(delta: Path, other: Path, reason: str) -> None:
    """It says why, and nothing of the overlay has changed."""
    before = content_at(other), sorted(path.name for path in other.iterdir())
    with pytest.raises(ImageError, match=reason):
        import_delta(delta, str(other), no_watch)
    assert (content_at(other), sorted(path.name for path in other.iterdir())) == before


def test_a_wrong_base_is_refused(tmp_path: Path) -> None:
    with known_overlay(layers=two_snapshots()) as overlay:
        size_bytes = len(overlay.content)
        first = export(overlay, "base", "s0", tmp_path / "first")
        second = export(overlay, "s0", "s1", tmp_path / "second")
        other = overlay.copy_of_base(tmp_path / "two", size_bytes)
        refuse_import(second, other, "has no snapshot 's0' .*import what comes before it first")
        import_delta(first, str(other), no_watch)
        refuse_import(first, other, "has what this delta makes already")
        import_delta(second, str(other), no_watch)
        assert content_at(other) == overlay.content
        changed = overlay.copy_of_base(tmp_path / "three", size_bytes)
        shutil.rmtree(changed)
        with (changed.parent / "base").open("r+b") as base:
            base.write(b"another")
        assert run_image("create", changed, size_bytes, f"--base={changed.parent / 'base'}") == 0
        refuse_import(first, changed, "its base has not the content that the delta was made for")


def test_an_overlay_on_a_snapshot_of_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with known_overlay(layers=two_snapshots()) as overlay:
        clone, option = tmp_path / "clone", f"--base={overlay.folder}"
        assert run_image("create", clone, option) == 1
        assert (
            "say which snapshot of it is the base (--base-snapshot; it has s0, s1)" in capsys.readouterr().err
        )
        assert run_image("create", clone, option, "--base-snapshot=none") == 1
        assert "has no snapshot none: it has s0, s1" in capsys.readouterr().err
        assert run_image("create", clone, f"--base={overlay.base}", "--base-snapshot=s0") == 1
        assert "has no snapshots: it is no folder of an overlay" in capsys.readouterr().err
        assert run_image("create", clone, "1M", "--base-snapshot=s0") == 1
        assert "--base-snapshot goes with --base" in capsys.readouterr().err
        assert run_image("create", clone, option, "--base-snapshot=s0") == 0
        assert content_at(clone) == overlay.contents["s0"]
        found = read_overlay_info(str(clone))
        assert (found.own_blocks, found.shared_blocks) == (0, 13)  # the base has half of the last of them


def test_what_lies_on_nothing_shares_nothing() -> None:
    with known_overlay(layers=two_snapshots()) as overlay:
        before = read_overlay_info(str(overlay.folder))
        assert before.own_blocks > 0
        assert before.shared_blocks > 0
        assert run_image("flatten", overlay.folder) == 0
        after = read_overlay_info(str(overlay.folder))
        assert after.own_blocks >= before.own_blocks
        assert after.shared_blocks == 0


def test_what_is_beyond_the_base_is_not_shared(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.write_bytes(bytes(5 * 4096))
    assert run_image("create", tmp_path / "overlay", "1M", f"--base={base}") == 0
    assert read_overlay_info(str(tmp_path / "overlay")).shared_blocks == 5


def test_an_overlay_that_was_written_to_since_is_refused(tmp_path: Path) -> None:
    with known_overlay(layers=two_snapshots()) as overlay:
        first = export(overlay, "base", "s0", tmp_path / "first")
        other = KnownOverlay(tmp_path / "two", 100 * 512, len(overlay.content))
        other.snapshot("mine", [Write(3, 1)])
        refuse_import(first, other.folder, "does not lie on what the delta was made from")


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_delta_changes_nothing(tmp_path: Path, seed: int) -> None:
    with known_overlay(layers=two_snapshots()) as overlay:
        delta = export(overlay, "base", "s1", tmp_path / "delta")
        content = bytearray(delta.read_bytes())
        if seed % 4 == 3:
            content = content[: overlay.chance.randrange(len(content))]
        else:
            content[seed * len(content) // 40] ^= 1 << seed % 8
        delta.write_bytes(content)
        other = overlay.copy_of_base(tmp_path / "two", len(overlay.content))
        before = content_at(other)
        with pytest.raises(ImageError):
            import_delta(delta, str(other), no_watch)
        assert content_at(other) == before


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with known_overlay(layers=two_snapshots()) as overlay:
        folder = overlay.folder
        assert run_image("info", folder) == 0
        assert "snapshot s1     6 blocks, 0 of zeroes, 6 seen" in capsys.readouterr().out
        assert run_image("info", "--json", folder) == 0
        capsys.readouterr()
        assert run_image("diff", folder, "--since=s0") == 0
        assert capsys.readouterr().out.splitlines() == ["8192 16384", "118784 4608"]
        assert run_image("diff", folder, "--snapshot=s0", "--json") == 0
        assert capsys.readouterr().out == '[{"offset":4096,"length":12288},{"offset":28672,"length":4096}]\n'
        raw = tmp_path / "disk.raw"
        assert run_image("export", folder, raw, "--snapshot=s0", "--verify") == 0
        assert raw.read_bytes() == overlay.contents["s0"]
        other = overlay.copy_of_base(tmp_path / "two", len(overlay.content))
        delta = tmp_path / "delta"
        assert run_image("export", folder, delta, "--since=base") == 0
        assert run_image("import", delta, other) == 0
        assert content_at(other) == overlay.content
        capsys.readouterr()
        assert run_image("diff", folder, "--since=none") == 1
        assert capsys.readouterr().err == "ringblk image: there is no snapshot 'none'; there are: s0, s1\n"
        assert run_image("create", folder, f"--base={overlay.base}") == 1
        assert "has an overlay already" in capsys.readouterr().err
        assert run_image("diff", raw, "--since=s0") == 1
        assert "is no overlay, which is a folder" in capsys.readouterr().err
