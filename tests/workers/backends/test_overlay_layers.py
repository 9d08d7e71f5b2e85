"""Layers of an overlay against a model: sealed, reset, grown, opened anew, read by several at once."""

import os
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.overlay_merge import MergeProgress, MergeStopped, merge
from ringblk.workers.layers.folder import DATA, MAP
from ringblk.workers.layers.overlay_folder import CHAIN
from tests.rigs.engine_rig import DEADLINE_S, eventually
from tests.rigs.layered_overlay import Layered

BLOCK_BYTES = 4096
BLOCKS = 3000


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base"
    path.write_bytes(random.Random(7).randbytes(BLOCKS * BLOCK_BYTES))
    return path


def test_each_snapshot_reads_as_the_drive_did(tmp_path: Path, base: Path) -> None:
    drive = Layered(tmp_path / "overlay", base=base)
    drive.snapshots[""] = bytes(drive.model)
    for number in range(12):
        drive.write()
        drive.seal(f"number {number}")
        drive.check()
        if number % 4 == 1:
            drive.close()
            drive.open()
            drive.check()
        drive.write()
        drive.check()
    for name in ("number 11", "number 3", "number 7", ""):
        drive.write()
        drive.reset(name)
        drive.check()
        drive.write()
        drive.check()
    drive.close()
    for name, content in drive.snapshots.items():
        if name:
            clone = Layered(tmp_path / f"clone {name}", base=drive.folder, snapshot=name)
            assert clone.model == content
            clone.write()
            clone.seal("own")
            clone.write()
            clone.check()
            clone.close()
            clone.open()
            clone.check()
            clone.close()
    drive.open()
    drive.check()
    drive.close()


def flatten(drive: Layered) -> None:
    """All that the drive lies on is in its lowest layer, and it lies on nothing."""
    drive.changer.settle()
    *_, lowest = drive.changer.chain.branch()
    merge(str(drive.folder), drive.changer.chain, lowest, None, "off", MergeProgress(bps=0))
    flat = msgspec.structs.replace(drive.changer.chain.layers[lowest.layer_id], has_no_base=True)
    drive.change(drive.changer.rebuilt(drive.changer.chain.changed(flat)))


@pytest.mark.parametrize("clone_depth", [0, 1, 3])
def test_what_still_lies_on_the_base_reads_so_once_the_drive_does_not(
    tmp_path: Path, base: Path, clone_depth: int
) -> None:
    """A drive is flattened, and then reset to its base, or to a snapshot that was not flattened with it."""
    drive = Layered(tmp_path / "overlay", base=base)
    for number in range(clone_depth):
        drive.write()
        drive.seal("base of a clone")
        drive.changer.settle()
        drive.close()
        drive = Layered(
            tmp_path / f"clone {number}", base=drive.folder, snapshot="base of a clone", seed=number
        )
    drive.snapshots[""] = bytes(drive.model)
    drive.write()
    drive.seal("other branch")
    drive.write()
    drive.reset("")
    drive.write()
    drive.seal("flattened")
    flatten(drive)
    drive.check()
    for name in ("other branch", "flattened", "", "flattened", "other branch"):
        drive.reset(name)
        drive.check()
        drive.write()
        drive.check()
    drive.close()
    drive.open()
    drive.check()
    drive.close()


def test_a_clone_goes_on_whose_base_s_layers_were_merged(tmp_path: Path, base: Path) -> None:
    """The clone has them open; what is made anew while it runs is made of what is there now."""
    source = Layered(tmp_path / "overlay", base=base)
    for name in "abc":
        source.write()
        source.seal(name)
    source.changer.settle()
    clone = Layered(tmp_path / "clone", base=source.folder, snapshot="c", seed=1)
    clone.snapshots[""] = bytes(clone.model)
    for name in "ab":
        layer = source.changer.chain.snapshot(name)
        assert layer is not None
        source.changer.write(source.changer.chain.changed(msgspec.structs.replace(layer, name="")))
        merge_next(source)
        clone.write()
        clone.seal(f"after {name}")
        clone.check()
    clone.reset("")
    clone.check()
    clone.reset("after a")
    clone.check()
    clone.write()
    clone.seal("top")
    clone.changer.settle()
    chain = clone.changer.chain
    named = [layer for layer in chain.layers.values() if layer.name.startswith("after")]
    clone.changer.write(chain.changed(*(msgspec.structs.replace(each, name="") for each in named)).pruned())
    merge_next(clone)
    clone.check()
    source.check()
    assert (source.folder / DATA).stat().st_size  # of the first layer, which the clone reads
    for drive in (clone, source):
        drive.close()
        drive.open()
        drive.check()
        drive.close()
    assert not (source.folder / DATA).stat().st_size


def merge_next(drive: Layered) -> None:
    """Merge what is to be merged."""
    found = drive.changer.chain.mergeable()
    assert found is not None
    lower, upper = found
    merge(str(drive.folder), drive.changer.chain, upper, lower, "off", MergeProgress(bps=0))
    merged = msgspec.structs.replace(upper, below=lower.below)
    after = drive.changer.chain.changed(merged, without=(lower.layer_id,))
    drive.change(drive.changer.rebuilt(after))
    drive.changer.remove_strays()


def test_a_merge_goes_by_the_rate_of_the_moment(tmp_path: Path, base: Path) -> None:
    """One that is made faster does not wait first for what the former rate asks for: here, weeks."""
    drive = Layered(tmp_path / "overlay", base=base)
    drive.write()
    drive.seal("a")
    drive.changer.settle()
    lowest = drive.changer.chain.snapshot("a")
    progress = MergeProgress(bps=1)
    arguments = (str(drive.folder), drive.changer.chain, lowest, None, "off", progress)
    merging = threading.Thread(target=merge, args=arguments, daemon=True)
    merging.start()
    eventually(lambda: progress.copied_bytes, "the first piece")
    assert progress.done_bytes < progress.total_bytes
    progress.bps = 1 << 40
    merging.join(DEADLINE_S)
    assert progress.done_bytes == progress.total_bytes
    drive.check()
    drive.close()


def test_a_base_that_was_moved_is_found_by_all_that_looks_for_it(tmp_path: Path, base: Path) -> None:
    """A drive may be started with its base's new path; what is done to its layers later goes by that."""
    drive = Layered(tmp_path / "overlay", base=base)
    drive.snapshots[""] = bytes(drive.model)
    drive.write()
    drive.close()
    drive.base = base.rename(tmp_path / "moved")
    drive.open()
    drive.check()
    drive.seal("flattened")
    flatten(drive)
    drive.check()
    drive.reset("")
    drive.check()
    drive.close()


def test_a_base_that_was_changed_is_not_lain_on_again(tmp_path: Path, base: Path) -> None:
    drive = Layered(tmp_path / "overlay", base=base)
    drive.snapshots[""] = bytes(drive.model)
    drive.write()
    drive.seal("flattened")
    flatten(drive)
    os.truncate(base, 4096)
    with pytest.raises(BackendError, match="is not as it was"):
        drive.reset("")
    drive.check()
    drive.close()


def test_a_kill_of_everything_after_a_snapshot_leaves_all_that_was_written(
    tmp_path: Path, base: Path
) -> None:
    """Nothing was flushed, and the snapshot is not settled: the next engine sees to that."""
    drive = Layered(tmp_path / "overlay", base=base)
    drive.write()
    drive.seal("first")
    drive.write()
    for backend in (drive.backend, drive.other):
        for name in backend.found.fd_names:
            os.close(backend.fd_of(name))
    left = drive.backend, drive.other  # whose descriptors are others' by now
    drive.folder.rename(tmp_path / "moved")
    drive.folder = tmp_path / "moved"
    drive.open()
    drive.check()
    assert drive.changer.chain.layers[drive.backend.found.below[0].layer_id].is_settled
    drive.reset("first")
    drive.check()
    drive.close()
    del left


def test_merges_change_nothing_that_is_read(tmp_path: Path, base: Path) -> None:
    """At no moment: those who read keep their layers open, and others open what is half merged."""
    drive = Layered(tmp_path / "overlay", base=base)
    for number in range(5):
        drive.write()
        drive.seal(f"number {number}")
    drive.changer.settle()
    drive.write()
    folder = str(drive.folder)
    for name in ("number 1", "number 2", "number 0"):
        layer = drive.changer.chain.snapshot(name)
        assert layer is not None
        drive.changer.write(drive.changer.chain.changed(msgspec.structs.replace(layer, name="")))
        found = drive.changer.chain.mergeable()
        assert found is not None
        lower, upper = found
        stopped = MergeProgress(bps=0, is_stopped=True)
        with pytest.raises(MergeStopped):
            merge(folder, drive.changer.chain, upper, lower, "off", stopped)
        drive.check()
        merge(folder, drive.changer.chain, upper, lower, "off", MergeProgress(bps=0))
        drive.check()
        merged = msgspec.structs.replace(upper, below=lower.below)
        drive.change(drive.changer.rebuilt(drive.changer.chain.changed(merged, without=(lower.layer_id,))))
        drive.changer.remove_strays()
        drive.write()
        drive.check()
    assert len(list(drive.changer.chain.branch())) == 3
    drive.close()
    for name in ("number 3", "number 4"):
        clone = Layered(tmp_path / name, base=drive.folder, snapshot=name)
        assert clone.model == drive.snapshots[name]
        clone.close()


def lose(folder: Path, layers: list[Path]) -> None:
    shutil.rmtree(layers[0])


def swap(folder: Path, layers: list[Path]) -> None:
    first, second = layers[:2]
    first.rename(folder / "aside")
    second.rename(first)
    (folder / "aside").rename(second)


def swap_maps(folder: Path, layers: list[Path]) -> None:
    shutil.copyfile(layers[0] / MAP, layers[1] / MAP)


def damage_chain(folder: Path, layers: list[Path]) -> None:
    content = bytearray((folder / CHAIN).read_bytes())
    content[300] ^= 1
    (folder / CHAIN).write_bytes(content)


def cut_data_off(folder: Path, layers: list[Path]) -> None:
    os.truncate(layers[0] / DATA, 4096)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lose, "has lost layer-"),
        (swap, "belongs"),
        (swap_maps, "belongs"),
        (damage_chain, "its chain is damaged: the checksum is wrong"),
        (cut_data_off, "its data has only 4096 bytes"),
    ],
)
def test_what_is_not_as_it_was_is_refused(
    tmp_path: Path, base: Path, harm: Callable[[Path, list[Path]], None], reason: str
) -> None:
    """A layer is lost or damaged: the drive is refused, and the message says what is wrong."""
    drive = Layered(tmp_path / "overlay", base=base)
    for number in range(3):
        drive.write(3)
        drive.seal(f"number {number}")
    drive.changer.settle()
    drive.close()
    harm(drive.folder, sorted(drive.folder.glob("layer-*")))
    with pytest.raises(BackendError, match=reason):
        drive.open()


@pytest.mark.parametrize("is_near", [True, False])
def test_a_damaged_map_is_never_a_wrong_byte(tmp_path: Path, base: Path, is_near: bool) -> None:
    """Of the layer right below it is found by the read that needs it, of others when the index is made."""
    drive = Layered(tmp_path / "overlay", base=base)
    drive.backend.write_at(0, b"x" * BLOCK_BYTES)
    drive.seal("first")
    if not is_near:
        drive.changer.settle()
        drive.seal("second")
    drive.changer.settle()
    drive.close()
    with (drive.folder / MAP).open("r+b") as file:
        file.seek(528384 + 100)
        file.write(b"\x01")
    if not is_near:
        with pytest.raises(BackendError, match="unit 0 of its map is damaged"):
            drive.open()
        return
    drive.open()
    with pytest.raises(OSError, match="Input/output error"):
        drive.backend.read_at(0, bytearray(BLOCK_BYTES))
    with pytest.raises(OSError, match="Input/output error"):
        drive.other.write_at(512, b"y" * 512)
    drive.close()
