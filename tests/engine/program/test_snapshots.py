"""Snapshots, resets and clones of drives that run, by the control API."""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rigs.engine_rig import eventually
from tests.rigs.many_drives import ManyDrives

SIZE_BYTES = 1 << 20
BASE = bytes(range(1, 129)) * (SIZE_BYTES // 128)


def block(letter: str) -> bytes:
    return letter.encode() * 4096


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.img"
    path.write_bytes(BASE)
    return path


@pytest.fixture
def drives(base: Path) -> Iterator[ManyDrives]:
    settings = {"base": str(base), "overlay": str(base.with_name("vm1"))}
    with ManyDrives({"vm1": settings}) as engine:
        yield engine


def snapshot(drives: ManyDrives, name: str, drive: str = "vm1") -> None:
    status, answer = drives.control.ask("POST", f"/drives/{drive}/snapshots", {"name": name})
    assert (status, answer.get("name")) == (201, name), answer


def reset(drives: ManyDrives, name: str | None, *, force: bool = False, drive: str = "vm1") -> None:
    status, answer = drives.control.ask("POST", f"/drives/{drive}/reset", {"snapshot": name, "force": force})
    assert status == 200, answer


def test_snapshot_reset_and_clone(drives: ManyDrives, base: Path) -> None:
    with drives.frontend("vm1") as disk:
        for number, letter in enumerate("abc"):
            disk.write(number * 4096, block(letter))
            snapshot(drives, letter)
            disk.write(8 * 4096, block(letter.upper()))
        assert disk.read(0, SIZE_BYTES) == (
            block("a") + block("b") + block("c") + BASE[12288:32768] + block("C") + BASE[36864:]
        )
        assert [each["name"] for each in drives.control.get("/drives/vm1/snapshots")["snapshots"]] == list(
            "abc"
        )
        status, _ = drives.put(
            "clone", base=str(base.with_name("vm1")), base_snapshot="b", overlay=str(base.with_name("clone"))
        )
        assert status == 201
        with drives.frontend("clone") as clone:
            expected = block("a") + block("b") + BASE[8192:32768] + block("A") + BASE[36864:]
            assert clone.read(0, SIZE_BYTES) == expected
            clone.write(0, block("x"))
            assert disk.read(0, 4096) == block("a")
            assert clone.read(0, SIZE_BYTES) == block("x") + expected[4096:]
        status, answer = drives.control.ask("POST", "/drives/vm1/reset", {"snapshot": "a"})
        assert (status, "force" in answer["error"]) == (409, True)
        reset(drives, "a", force=True)
        assert disk.read(0, SIZE_BYTES) == block("a") + BASE[4096:]
        reset(drives, None, force=True)
        assert disk.read(0, SIZE_BYTES) == BASE
        disk.write(0, block("z"))
        disk.flush()
        assert disk.read(0, 8192) == block("z") + BASE[4096:8192]


def test_layers_outlive_every_process(drives: ManyDrives, base: Path) -> None:
    """The control plane, the dispatcher, the engine: the next one has the layers that there were."""
    with drives.frontend("vm1") as disk:
        disk.write(0, block("a"))
        snapshot(drives, "a")
        disk.write(4096, block("b"))
        drives.kill_control_plane()
        drives.control.get("/drives")  # waits for the next one
        assert disk.read(0, 12288) == block("a") + block("b") + BASE[8192:12288]
        snapshot(drives, "b")
        drives.kill_dispatcher("vm1")
        disk.write(8192, block("c"))
        assert disk.read(0, 12288) == block("a") + block("b") + block("c")
        disk.flush()
        reset(drives, "a", force=True)
        assert disk.read(0, 8192) == block("a") + BASE[4096:8192]
        disk.write(8192, block("d"))
    drives.kill()
    settings = {"base": str(base), "overlay": str(base.with_name("vm1"))}
    with ManyDrives({"vm1": settings}) as engine, engine.frontend("vm1") as disk:
        assert disk.read(0, 12288) == block("a") + BASE[4096:8192] + block("d")
        reset(engine, "b", force=True)
        assert disk.read(0, 12288) == block("a") + block("b") + BASE[8192:12288]


def test_several_drives_at_one_instant(drives: ManyDrives, base: Path) -> None:
    drives.put("vm2", base=str(base), overlay=str(base.with_name("vm2")))
    with drives.frontend("vm1") as first, drives.frontend("vm2") as second:
        first.write(0, block("a"))
        second.write(0, block("b"))
        status, answer = drives.control.ask("POST", "/snapshots", {"name": "now", "drives": ["vm1", "vm2"]})
        assert (status, [each["name"] for each in answer["snapshots"]]) == (201, ["now", "now"])
        status, answer = drives.control.ask("POST", "/snapshots", {"name": "now", "drives": ["vm2", "vm1"]})
        assert (status, answer["field"]) == (400, "name")
        first.write(0, block("x"))
        second.write(0, block("y"))
        reset(drives, "now", force=True)
        reset(drives, "now", force=True, drive="vm2")
        assert (first.read(0, 4096), second.read(0, 4096)) == (block("a"), block("b"))


def merged(drives: ManyDrives, name: str = "vm1") -> None:
    """Returns once nothing is to be merged."""
    while (job := drives.control.get(f"/drives/{name}")["state"].get("job")) is not None:
        assert not job["error"], job
        os.sched_yield()


def test_snapshots_are_merged_away(drives: ManyDrives, base: Path) -> None:
    """A delete in the middle, of the newest, a commit, a flatten: what is read stays what it was."""
    with drives.frontend("vm1") as disk:
        for number, letter in enumerate("abcd"):
            disk.write(number * 4096, block(letter) * 2)
            snapshot(drives, letter)
        disk.write(5 * 4096, block("e"))
        expected = block("a") + block("b") + block("c") + block("d") * 2 + block("e") + BASE[24576:]
        for name in ("b", "d"):
            assert drives.control.ask_raw("DELETE", f"/drives/vm1/snapshots/{name}")[0] == 204
            merged(drives)
            assert disk.read(0, SIZE_BYTES) == expected
        assert len(list(base.with_name("vm1").glob("layer-*"))) == 3  # c, what d was and what came then, top
        status, answer = drives.control.ask("GET", "/drives/vm1/changed?since=a")
        assert (status, answer["extents"]) == (200, [{"offset": 4096, "length": 5 * 4096}])
        disk.write(6 * 4096, block("f"))
        snapshot(drives, "now")
        disk.write(7 * 4096, block("g"))
        assert drives.control.ask("POST", "/drives/vm1/commit")[0] == 200
        merged(drives)
        expected = expected[: 6 * 4096] + block("f") + block("g") + BASE[8 * 4096 :]
        assert disk.read(0, SIZE_BYTES) == expected
        assert drives.control.ask("POST", "/drives/vm1/flatten")[0] == 200
        merged(drives)
        assert disk.read(0, SIZE_BYTES) == expected
        disk.write(8 * 4096, block("h"))
    drives.end()
    base.unlink()
    settings = {"base": str(base), "overlay": str(base.with_name("vm1"))}
    with ManyDrives({"vm1": settings}) as engine, engine.frontend("vm1") as disk:
        assert disk.read(0, SIZE_BYTES) == expected[: 8 * 4096] + block("h") + BASE[9 * 4096 :]
        reset(engine, "now", force=True)
        assert disk.read(0, SIZE_BYTES) == expected
        reset(engine, "a", force=True)
        assert disk.read(0, SIZE_BYTES) == block("a") * 2 + BASE[8192:]


def test_a_snapshot_that_is_a_base_is_not_deleted(drives: ManyDrives, base: Path) -> None:
    with drives.frontend("vm1") as disk:
        disk.write(0, block("a"))
        snapshot(drives, "a")
    drives.put(
        "clone", base=str(base.with_name("vm1")), base_snapshot="a", overlay=str(base.with_name("clone"))
    )
    status, answer = drives.control.ask("DELETE", "/drives/vm1/snapshots/a")
    assert (status, "the base of another drive" in answer["error"]) == (400, True)
    with drives.frontend("clone") as clone:
        assert drives.control.ask("POST", "/drives/clone/flatten")[0] == 200
        merged(drives, "clone")
        assert clone.read(0, SIZE_BYTES) == block("a") + BASE[4096:]
    assert drives.control.ask_raw("DELETE", "/drives/vm1/snapshots/a")[0] == 204


def test_a_drive_grows(drives: ManyDrives, base: Path) -> None:
    """What is added are zeroes, whatever the base has there, for this engine and the next."""
    drives.put("small", base=str(base), overlay=str(base.with_name("small")), overlay_size=8192 + 512)
    with drives.frontend("small") as disk:
        disk.write(0, block("a"))
        assert drives.control.ask("PATCH", "/drives/small", {"size_bytes": 4096})[0] == 400
        assert drives.control.change("/drives/small", size_bytes=65536)["state"]["size_bytes"] == 65536
    expected = (block("a") + BASE[4096:8704]).ljust(65536, b"\0")
    with drives.frontend("small") as disk:
        assert disk.read(0, 65536) == expected
        disk.write(61440, block("z"))
    drives.delete("small")
    drives.put("small", base=str(base), overlay=str(base.with_name("small")), overlay_size=8192 + 512)
    with drives.frontend("small") as disk:
        assert disk.read(0, 65536) == expected[:61440] + block("z")


def test_a_merge_is_slowed_down_and_stopped(drives: ManyDrives, tmp_path: Path) -> None:
    """What was stopped goes on only where it is asked for; the drive reads the same all the time."""
    base, content = tmp_path / "large", random.Random(1).randbytes(8 << 20)
    base.write_bytes(content)
    drives.put("large", base=str(base), overlay=str(tmp_path / "layers"))
    assert drives.control.change("/drives/large/job", bps=1 << 20)
    assert drives.control.ask("POST", "/drives/large/flatten")[0] == 200
    while not (job := drives.control.get("/drives/large")["state"]["job"])["copied_bytes"] > 0:
        os.sched_yield()
    assert (job["kind"], job["bps"], job["done_bytes"] < job["total_bytes"]) == ("flatten", 1 << 20, True)
    assert drives.control.ask_raw("DELETE", "/drives/large/job")[0] == 204
    assert "job" not in drives.control.get("/drives/large")["state"]
    drives.delete("large")
    drives.put("large", base=str(base), overlay=str(tmp_path / "layers"))
    assert "job" not in drives.control.get("/drives/large")["state"]
    assert drives.control.ask("POST", "/drives/large/flatten")[0] == 200
    merged(drives, "large")
    drives.delete("large")
    base.write_bytes(b"x")
    drives.put("large", base=str(base), overlay=str(tmp_path / "layers"))
    with drives.frontend("large", memory_size_bytes=16 << 20) as disk:
        assert disk.read(0, len(content)) == content


def test_the_rate_of_merges_outlives_control_plane_and_engine(drives: ManyDrives, base: Path) -> None:
    drives.control.change("/drives/vm1/job", bps=1 << 16)
    assert drives.control.ask("POST", "/drives/vm1/flatten")[0] == 200
    drives.kill_control_plane()
    assert job(drives)["bps"] == 1 << 16
    drives.kill()
    settings = {"base": str(base), "overlay": str(base.with_name("vm1"))}
    with ManyDrives({"vm1": settings}, after=drives) as successor:
        assert "layers merged at 64.0 KiB/s" in successor.log()
        assert job(successor)["bps"] == 1 << 16
        successor.control.change("/drives/vm1/job", bps=0)
        wait_merged(successor)


def job(drives: ManyDrives) -> Any:
    return drives.control.get("/drives/vm1")["state"]["job"]


def wait_merged(drives: ManyDrives) -> None:
    eventually(lambda: "job" not in drives.control.get("/drives/vm1")["state"], "the merge's end")
