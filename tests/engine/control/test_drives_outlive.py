"""Drives that came or went by the control API are so in the next engine with the same control socket."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringblk.engine.drives import list_record
from ringblk.engine.drives.list_record import ListRecord
from ringblk.shm.segments.shared_folder import shared_names
from tests.rigs.engine_rig import DEADLINE_S
from tests.rigs.many_drives import ManyDrives


@pytest.fixture
def engine() -> Iterator[ManyDrives]:
    with ManyDrives({}) as engine:
        yield engine


def test_drives_that_came_outlive_the_engine(engine: ManyDrives) -> None:
    engine.put("vm1", iops=5000, drive_id="d" * 3000)
    engine.put("gone")
    engine.delete("gone")
    engine.control.change("/drives/vm1", cache="unsafe")
    disk = engine.frontend("vm1")
    disk.write(0, b"x" * 512)
    engine.kill()
    with ManyDrives({}, after=engine) as after:
        answer = after.control.get("/drives")["drives"]
        assert list(answer) == ["vm1"]
        assert (answer["vm1"]["iops"], answer["vm1"]["cache"]) == (5000, "unsafe")
        disk.reconnect()
        assert disk.read(0, 512) == b"x" * 512
        disk.close()
        assert after.end() == 0
        with ManyDrives({}, "--forget-changes", after=after) as anew:
            assert anew.control.get("/drives")["drives"] == {}


def test_a_drive_of_the_file_that_was_removed_stays_so() -> None:
    with ManyDrives({"vm1": {}, "vm2": {}}) as engine:
        assert engine.delete("vm1")[0] == 204
        engine.kill()
        with ManyDrives({"vm1": {}, "vm2": {}}, after=engine, gone=("vm1",)) as after:
            assert list(after.control.get("/drives")["drives"]) == ["vm2"]
            assert "vm1" in after.log()
            assert after.put("vm1")[0] == 201
            after.end()
            with ManyDrives({"vm1": {}, "vm2": {}}, after=after) as last:
                assert set(last.control.get("/drives")["drives"]) == {"vm1", "vm2"}
                assert last.delete("vm1")[0] == 204
                last.end()
                with ManyDrives({"vm1": {}, "vm2": {}}, "--forget-changes", after=last) as anew:
                    assert set(anew.control.get("/drives")["drives"]) == {"vm1", "vm2"}


def test_a_drive_that_came_and_cannot_be_had_any_more_is_listed_as_failed(engine: ManyDrives) -> None:
    engine.put("vm1")
    engine.put("vm2")
    engine.end()
    engine.image("vm1").unlink()
    with ManyDrives({}, after=engine) as after:
        drives = after.control.get("/drives")["drives"]
        assert {name: drive["state"]["state"] for name, drive in drives.items()} == {
            "vm1": "failed",
            "vm2": "running",
        }
        assert "blk_file" in drives["vm1"]["state"]["reason"]
        assert after.put("vm1")[0] == 200
        for name in ("vm1", "vm2"):
            assert after.delete(name)[0] == 204


def test_takeover_of_drives_that_came(engine: ManyDrives) -> None:
    engine.put("vm1")
    with engine.frontend("vm1") as disk:
        disk.write(0, b"t" * 512)
        with ManyDrives({}, "--takeover", after=engine) as new:
            assert engine.process.wait(DEADLINE_S) == 0
            disk.reconnect()
            assert disk.read(0, 512) == b"t" * 512
            assert list(new.control.get("/drives")["drives"]) == ["vm1"]
            assert new.delete("vm1")[0] == 204


def test_a_drive_that_is_as_the_file_has_it_leaves_no_record() -> None:
    with ManyDrives({"vm1": {}}) as engine:
        assert engine.lists() == []
        assert engine.delete("vm1")[0] == 204
        assert len(engine.lists()) == 1
        assert engine.put("vm1", iops=5)[0] == 201
        assert len(engine.lists()) == 1
        assert engine.delete("vm1")[0] == 204
        assert engine.put("vm1")[0] == 201
        assert engine.lists() == []


def test_very_many_records_that_were_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are removed; those of engines that run are not."""
    monkeypatch.setattr(list_record, "PREFIX", f"ringblk-test-{os.getpid()}-")
    monkeypatch.setattr(list_record, "MAX_LEFT", 1)

    def carried(name: str) -> set[str]:
        return set(ListRecord(str(tmp_path / name), forgets=False).carried)

    held = ListRecord(str(tmp_path / "held"), forgets=False)
    held.note("vm-held", None)
    for name in ("oldest", "older", "newest"):
        record = ListRecord(str(tmp_path / name), forgets=False)
        record.note(f"vm-{name}", None)
        record.close()
    ListRecord(str(tmp_path / "another"), forgets=False).begin()
    names = ("held", "oldest", "older", "newest")
    assert [carried(name) for name in names] == [{"vm-held"}, set(), set(), {"vm-newest"}]
    held.forget("vm-held")
    anew = ListRecord(str(tmp_path / "newest"), forgets=True)
    anew.begin()
    assert not shared_names(list_record.PREFIX)
