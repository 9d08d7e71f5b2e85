"""Drives that come, change and go while others are served, by the control API."""

import json
import os
import re
import resource
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringblk import RequestStatus
from ringblk.engine.options.drive_names import NAME_RULE
from ringblk.shm.segments.shared_folder import shared_names
from tests.rigs.control_group import control_group
from tests.rigs.engine_rig import DEADLINE_S, Engine, Gate, eventually
from tests.rigs.many_drives import DISK_BYTES, ManyDrives
from tests.rigs.process_tree import has_ended
from tests.stress.drive_rounds import run_rounds


@pytest.fixture
def engine() -> Iterator[ManyDrives]:
    with ManyDrives({}) as engine:
        yield engine


def settings_of(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "state"}


def test_a_drive_comes_and_goes(engine: ManyDrives) -> None:
    assert engine.control.get("/drives") == {"drives": {}}
    status, answer = engine.put("vm1", workers=2, iops=5000)
    assert status == 201
    assert (answer["workers"], answer["iops"], answer["iops_burst"]) == (2, 5000, 500)
    assert answer["state"]["name"] == "vm1"
    assert answer["state"]["state"] == "running"
    assert answer["state"]["size_bytes"] == DISK_BYTES
    assert engine.control.get("/drives")["drives"]["vm1"]["socket_path"] == answer["socket_path"]
    with engine.frontend("vm1") as disk:
        disk.write(0, b"a" * 4096)
        assert engine.control.get("/drives/vm1")["state"]["is_connected"]
    processes = engine.processes("vm1")
    assert engine.delete("vm1") == (204, b"")
    assert not engine.socket_path("vm1").exists()
    assert (engine.segments(), engine.records(), engine.children()) == ([], [], set())
    assert all(map(has_ended, processes))
    assert engine.control.ask("GET", "/drives/vm1")[0] == 404
    assert engine.control.ask("DELETE", "/drives/vm1")[0] == 404
    assert engine.image("vm1").read_bytes()[:1] == b"a"
    assert engine.put("vm1")[0] == 201


def test_put_of_what_get_gave_changes_nothing(engine: ManyDrives) -> None:
    engine.put("vm1", iops=5000, drive_id="x", cache="unsafe", workers=2, io_engine="psync")
    limit = {"tokens": 7, "period_ms": 3, "burst": 5}
    changes: dict[str, object] = {"bps_read": limit, "cache": "writethrough", "workers": 3}
    engine.control.change(
        "/drives/vm1", **changes, is_paused=True, partuuid="p-1", size_bytes=DISK_BYTES // 2
    )
    before = engine.control.get("/drives/vm1")
    assert (before["cache"], before["workers"], before["partuuid"]) == ("writethrough", 3, "p-1")
    assert (before["state"]["is_paused"], before["state"]["size_bytes"]) == (True, DISK_BYTES // 2)
    status, after = engine.control.ask("PUT", "/drives/vm1", before)
    assert status == 200
    for answer in (before, after):
        answer["state"].pop("uptime_s")
    assert after == before
    assert engine.control.ask("PUT", "/drives/vm1", settings_of(before))[0] == 200


def test_what_get_gave_makes_the_same_drive_anew(engine: ManyDrives) -> None:
    engine.put("vm1", cache="writeback")
    engine.control.change("/drives/vm1", cache="writethrough", iops={"tokens": 9, "period_ms": 10})
    before = engine.control.get("/drives/vm1")
    engine.delete("vm1")
    status, after = engine.control.ask("PUT", "/drives/vm1", before)
    assert status == 201
    assert settings_of(after) == settings_of(before)


def test_put_changes_what_can_be_changed(engine: ManyDrives) -> None:
    engine.put("vm1", iops=5000, workers=1, io_engine="psync")
    processes = engine.processes("vm1")
    status, answer = engine.put(
        "vm1", bps=1000, workers=2, cache="unsafe", is_root_device=True, io_engine="psync"
    )
    assert status == 200
    assert [answer[name] for name in ("iops", "bps", "workers", "cache", "is_root_device")] == [
        *(None, 1000, 2, "unsafe", True)
    ]
    assert processes < engine.processes("vm1")


@pytest.mark.parametrize(
    ("name", "value"), [("queue_size", 64), ("num_queues", 2), ("read_only", True), ("drive_id", "other")]
)
def test_what_cannot_be_changed_is_named_and_nothing_is(engine: ManyDrives, name: str, value: object) -> None:
    engine.put("vm1")
    before = settings_of(engine.control.get("/drives/vm1"))
    status, answer = engine.put("vm1", iops=5, **{name: value})
    assert status == 409
    assert answer["field"] == name
    assert f"{name} cannot be changed while it runs" in answer["error"]
    assert settings_of(engine.control.get("/drives/vm1")) == before


def test_patch_is_all_or_nothing(engine: ManyDrives) -> None:
    engine.put("vm1", workers=2, io_engine="psync")
    before = settings_of(engine.control.get("/drives/vm1"))
    for wrong in ({"size_bytes": 777}, {"iops_burst": 9}, {"cache": "none"}, {"wrokers": 1}):
        status, answer = engine.control.ask("PATCH", "/drives/vm1", {"workers": 3, "iops": None, **wrong})
        assert status == 400
        assert answer["field"] == next(iter(wrong))
        assert settings_of(engine.control.get("/drives/vm1")) == before
    answer = engine.control.change("/drives/vm1", workers=3, iops=5, is_paused=True)
    assert (answer["workers"], answer["iops"], answer["state"]["is_paused"]) == (3, 5, True)
    assert not engine.control.change("/drives/vm1", is_paused=False)["state"]["is_paused"]


@pytest.mark.parametrize(
    "name",
    ["%2e%2e", "%2Fetc%2Fpasswd", "a%2fb", "x" * 300, "a%0ab", "a%00", ".x", "-x", "a%20b", "%c3%a9", "%ff"],
)
def test_names_that_are_refused(engine: ManyDrives, name: str) -> None:
    status, answer = engine.control.ask("PUT", f"/drives/{name}", engine.settings("vm1"))
    assert status == 400
    assert NAME_RULE in answer["error"]
    assert "\n" not in answer["error"]
    assert engine.control.get("/drives") == {"drives": {}}


REFUSED: dict[str, tuple[dict[str, object], int, str]] = {
    "image": ({"blk_file": "/nowhere/disk"}, 400, "blk_file"),
    "socket": ({"socket_path": "/nowhere/s"}, 400, "socket_path"),
    "class": ({"blk_file": None, "backend": "no_such_module:Disk"}, 400, "backend"),
    "unknown": ({"wrokers": 5}, 400, "wrokers"),
    "type": ({"workers": "x"}, 400, "workers"),
    "range": ({"workers": 65}, 400, "workers"),
    "fd": ({"fd": 3, "socket_path": None}, 400, "fd"),
    "queue size": ({"queue_size": 100}, 400, "queue_size"),
    "limit": ({"iops_burst": 5}, 400, "iops_burst"),
    "user": ({"user": "nobody-of-this-name"}, 400, "user"),
}


@pytest.mark.parametrize(("settings", "status", "field"), REFUSED.values(), ids=REFUSED)
def test_a_drive_that_is_refused_leaves_nothing(
    engine: ManyDrives, settings: dict[str, object], status: int, field: str
) -> None:
    engine.put("other")
    left = engine.holdings()
    found, answer = engine.put("vm1", **settings)
    assert (found, answer["field"]) == (status, field)
    eventually(lambda: engine.holdings() == left, "nothing more than before")
    assert list(engine.control.get("/drives")["drives"]) == ["other"]
    assert engine.put("vm1")[0] == 201


def test_what_another_drive_has_is_refused_naming_both(engine: ManyDrives) -> None:
    engine.put("vm1")
    status, answer = engine.put("vm2", socket_path=str(engine.socket_path("vm1")))
    assert (status, answer["field"]) == (409, "socket_path")
    assert "drive vm2: " in answer["error"]
    assert "is drive vm1's, too" in answer["error"]
    status, answer = engine.put("vm2", blk_file=str(engine.image("vm1")))
    assert (status, answer["field"]) == (409, "blk_file")
    status, answer = engine.put("vm2", socket_path=str(engine.control.socket_path))
    assert (status, answer["field"]) == (409, "socket_path")


def test_the_neighbour_keeps_its_data_and_its_session(engine: ManyDrives) -> None:
    engine.put("neighbour")
    with engine.frontend("neighbour") as disk:
        is_over = threading.Event()
        faults: list[str] = []

        def load() -> None:
            number = 0
            while not is_over.is_set():
                number += 1
                data = number.to_bytes(4, "little") * 1024
                disk.write(number % 16 * 4096, data)
                if disk.read(number % 16 * 4096, 4096) != data:
                    faults.append(f"write {number} is not what was read")

        thread = threading.Thread(target=load)
        thread.start()
        for _ in range(5):
            assert engine.put("vm1")[0] == 201
            with engine.frontend("vm1") as other:
                other.write(0, b"v" * 4096)
                assert other.read(0, 4096) == b"v" * 4096
            assert engine.delete("vm1")[0] == 204
        is_over.set()
        thread.join()
    assert faults == []
    assert "neighbour: the dispatcher" not in engine.log()


def delete_slow(engine: ManyDrives, query: str, found: list[int]) -> None:
    found.append(engine.delete("slow", query)[0])


def test_delete_drains_and_force_does_not(engine: ManyDrives, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    slow = {
        "backend": "gated_disk:GatedDisk",
        "backend_arg": {"size_bytes": str(DISK_BYTES), "gate": str(gate.path)},
        "sandbox_allow": [str(tmp_path)],
    }
    for query, statuses in (("", {int(RequestStatus.OK)}), ("?force=true", set())):
        assert engine.put("slow", **slow)[0] == 201
        begun_count = gate.begun_count
        disk = engine.frontend("slow")
        token = disk.submit_read(0, disk.allocate(512))
        disk.submit()
        gate.wait_for_requests(begun_count + 1)
        found: list[int] = []
        deleting = threading.Thread(target=delete_slow, args=(engine, query, found))
        deleting.start()
        if statuses:
            while engine.control.get("/drives/slow")["state"]["state"] != "ending":
                assert not found
            gate.open()
            assert {int(disk.wait(token, DEADLINE_S).status)} == statuses
        deleting.join()
        assert found == [204]
        disk.close()
        assert engine.segments() == []


def test_bodies_that_nobody_expects(engine: ManyDrives) -> None:
    wrong: list[tuple[object, str, str]] = [
        (b"[" * 60_000, "nested too deeply", ""),
        (b'{"a":' * 9000 + b"1" + b"}" * 9000, "nested too deeply", ""),
        (engine.settings("vm1", blk_file="/a\0b"), "no path has a NUL in it", "blk_file"),
        (engine.settings("vm1", socket_path="/a\0b"), "no path has a NUL in it", "socket_path"),
        (engine.settings("vm1", sandbox_allow=["\0"]), "no path has a NUL in it", "sandbox_allow"),
        (engine.settings("vm1", blk_file="x" * 65_000), "no path has more than 4095 bytes", "blk_file"),
    ]
    for body, text, field in wrong:
        status, answer = engine.control.ask("PUT", "/drives/vm1", body)
        assert (status, answer["field"]) == (400, field), answer
        assert text in answer["error"]
    assert engine.control.get("/drives") == {"drives": {}}
    assert "Traceback" not in engine.log()


def test_an_engine_for_one_drive_has_no_list_and_the_other_way_round(
    engine: ManyDrives, tmp_path: Path
) -> None:
    for method, path in (
        ("GET", "/"),
        ("PATCH", "/drive"),
        ("PATCH", "/workers"),
        ("POST", "/pause"),
        ("POST", "/resume"),
    ):
        body = {"count": 1} if path == "/workers" else {}
        status, answer = engine.control.ask(method, path, body)
        assert status == 409
        assert "/drives/{id}" in answer["error"]
    socket_path = tmp_path / "control.sock"
    with Engine("--backend=null", "--backend-arg=size_bytes=512", f"--control={socket_path}"):
        control = type(engine.control)(socket_path)
        for method, path in (("GET", "/drives"), ("GET", "/drives/x"), ("DELETE", "/drives/x")):
            status, answer = control.ask(method, path)
            assert status == 409
            assert "for one drive" in answer["error"]


def test_statistics_and_metrics_are_of_all_drives(engine: ManyDrives) -> None:
    engine.put("vm1")
    engine.put("vm2")
    assert set(engine.control.get("/stats")["drives"]) == {"vm1", "vm2"}
    assert engine.control.get("/drives/vm2/stats")["drive"] == "vm2"
    status, text = engine.control.ask_raw("GET", "/metrics")
    assert status == 200
    for name in ("vm1", "vm2"):
        assert f'ringblk_capacity_bytes{{drive="{name}",' in text.decode()


def test_a_class_of_ones_own_comes_later(engine: ManyDrives) -> None:
    status, _ = engine.put("own", backend="ram_disk:RamDisk", backend_arg={"size_bytes": str(DISK_BYTES)})
    assert status == 201
    with engine.frontend("own") as disk:
        disk.write(0, b"o" * 512)
        assert disk.read(0, 512) == b"o" * 512


def test_a_failed_drive_is_listed_and_begun_anew_by_put(engine: ManyDrives) -> None:
    engine.put("vm1", io_engine="sync")
    engine.put("other")
    while engine.control.get("/drives/vm1")["state"]["state"] == "running":
        engine.kill_dispatcher("vm1")
    answer = engine.control.get("/drives/vm1")
    assert answer["state"]["state"] == "failed"
    assert "dies again and again" in answer["state"]["reason"]
    assert engine.control.ask("PATCH", "/drives/vm1", {"iops": 5})[0] == 409
    status, answer = engine.put("vm1", io_engine="sync", blk_file="/nowhere/disk")
    assert status == 400
    assert engine.control.get("/drives/vm1")["state"]["state"] == "failed"
    status, answer = engine.put("vm1", io_engine="sync")
    assert (status, answer["state"]["state"]) == (200, "running")
    with engine.frontend("vm1") as disk:
        disk.write(0, b"f" * 512)


def test_a_drive_that_could_need_too_many_files_is_refused_with_the_figure(engine: ManyDrives) -> None:
    assert engine.put("vm1", workers=1)[0] == 201
    resource.prlimit(engine.process.pid, resource.RLIMIT_NOFILE, (300, 400))
    status, answer = engine.put("vm2", workers=64)
    assert status == 400
    assert re.search(
        r"only 400 files may be open, 2 drives with 65 workers and 2 queues need at least \d+",
        answer["error"],
    )
    status, answer = engine.control.ask("PATCH", "/drives/vm1", {"workers": 64, "iops": 5})
    assert (status, answer["field"]) == (400, "workers")
    assert engine.control.get("/drives/vm1")["iops"] is None
    assert list(engine.control.get("/drives")["drives"]) == ["vm1"]


def test_drives_of_one_engine_share_a_rate_group(engine: ManyDrives) -> None:
    group = f"test-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    for name in ("vm1", "vm2"):
        assert engine.put(name, rate_group=group, bps=1 << 30)[0] == 201
    engine.control.change("/drives/vm1", bps=1 << 29)
    answer = engine.control.get("/drives/vm2")
    assert (answer["bps"], answer["rate_group"]) == (1 << 29, group)
    assert engine.control.ask("PUT", "/drives/vm2", answer)[0] == 200
    assert engine.delete("vm1")[0] == 204
    with engine.frontend("vm2") as disk:
        disk.write(0, b"g" * 512)
    assert engine.delete("vm2")[0] == 204
    assert not shared_names(f"ringblk-rate-{group}")


def test_rounds_of_put_and_delete_leave_nothing() -> None:
    run_rounds(20)


def test_rounds_leave_nothing_in_a_control_group() -> None:
    with control_group() as group:
        run_rounds(10, group)


def test_user(engine: ManyDrives) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root starts processes as another user")
    os.chmod(engine.folder, 0o777)
    assert engine.put("vm1", user="nobody")[0] == 201
    with engine.frontend("vm1"):  # one that was told of no guest has not begun
        for pid in engine.processes("vm1"):
            status = Path(f"/proc/{pid}/status")
            eventually(lambda: status.read_text().partition("Uid:")[2].split()[0] != "0", "a user")  # noqa: B023
    assert os.stat(f"/proc/{engine.process.pid}").st_uid == 0
    assert engine.socket_path("vm1").stat().st_uid != 0
    assert engine.put("vm2")[0] == 201
    assert engine.delete("vm1")[0] == 204
    assert json.loads(engine.control.ask_raw("GET", "/drives/vm2")[1])["user"] is None
