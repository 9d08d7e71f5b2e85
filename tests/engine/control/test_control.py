"""The control API of a real engine, with a front end at work."""

import contextlib
import os
import re
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringblk import Frontend, RequestStatus, engine_command
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.options.config import make_config
from ringblk.engine.program.serve import serve
from tests.rigs.child_process import ends_with_tests
from tests.rigs.control_client import (
    DISK_BYTES,
    ONE_IN_TEN_MINUTES,
    TIMEOUT_S,
    ControlClient,
    ControlledEngine,
    kill_and_reap,
    stop_process,
)
from tests.rigs.engine_rig import MEMORY, PROGRAM, Engine
from tests.rigs.metrics_text import read_metrics

OK, IOERR = int(RequestStatus.OK), int(RequestStatus.IOERR)


def test_the_engine_describes_itself(engine: ControlledEngine, control: ControlClient) -> None:
    assert stat.S_IMODE(control.socket_path.stat().st_mode) == 0o600
    description = control.get()
    assert description["device"] == "block"
    assert description["is_connected"]
    assert description["drive"]["name"] == str(engine.image)
    assert description["drive"]["size_bytes"] == DISK_BYTES
    assert set(description["processes"]) == {"supervisor", "dispatcher", "worker 0", "worker 1"}
    for pid in description["processes"].values():
        os.kill(pid, 0)


def test_statistics_and_metrics_agree(engine: ControlledEngine, control: ControlClient) -> None:
    engine.frontend.write(0, bytes(8192))
    engine.frontend.discard(0, 4096)
    engine.frontend.flush()
    assert (control.operation("write")["request_count"], control.operation("write")["byte_count"]) == (
        1,
        8192,
    )
    assert control.operation("discard")["byte_count"] == 4096
    assert control.operation("flush")["service"]["count"] == 1
    status, text = control.ask_raw("GET", "/metrics")
    assert status == 200
    samples = read_metrics(text.decode())["ringblk_request_bytes_total"].samples
    assert [s.value for s in samples if s.labels["operation"] == "write"] == [8192.0]


def test_two_engines_metrics_go_into_one_database(tmp_path: Path) -> None:
    """Two drives in memory have one name; every series says which engine's it is."""
    series = []
    for name in ("one.sock", "two.sock"):
        control = ControlClient(tmp_path / name)
        options = ("--backend=memory", "--backend-arg=size_bytes=1048576", f"--control={control.socket_path}")
        with Frontend(engine_command(*options)):
            _, text = control.ask_raw("GET", "/metrics")
        families = read_metrics(text.decode()).values()
        samples = [sample for family in families for sample in family.samples]
        assert {sample.labels["drive"] for sample in samples} == {"memory"}
        assert {sample.labels["engine"] for sample in samples} == {str(control.socket_path)}
        series += [sample.series for sample in samples]
    assert len(series) == len(set(series)) > 0


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/drive", {"size_bytes": "large"}, "size_bytes"),
        ("/drive", {"size_bytes": 1000}, "size_bytes"),
        ("/drive", {"size_bytes": 0}, "size_bytes"),
        ("/drive", {"size_bytes": 1 << 63}, "size_bytes"),
        ("/drive", {"cache": "fast"}, "cache"),
        ("/drive", {"colour": 1}, "colour"),
        ("/drive", {"bps": -1}, "bps"),
        ("/drive", {"burst": 100}, "burst"),
        ("/drive", {"bps": 1, "burst": 1 << 62}, "burst"),
        ("/drive", {"bps": 1, "rate_limiter": {}}, "bps"),
        ("/drive", {"rate_limiter": {"ops": {"size": 1}}}, "rate_limiter.ops.refill_time"),
        ("/drive", {"rate_limiter": {"ops": {"size": "1", "refill_time": 1}}}, "rate_limiter.ops.size"),
        ("/workers", {"count": 0}, "count"),
        ("/workers", {"count": 65}, "count"),
        ("/workers", {}, "count"),
        ("/workers", b"{count", ""),
        ("/workers", [], ""),
    ],
)
def test_a_wrong_body_names_the_field_and_changes_nothing(
    shared_engine: ControlledEngine, path: str, body: object, field: str
) -> None:
    before = shared_engine.control.get()
    status, answer = shared_engine.control.ask("PATCH", path, body)
    assert status == 400
    assert answer["field"] == field
    assert field in answer["error"]
    after = shared_engine.control.get()
    assert (after["drive"], after["processes"]) == (before["drive"], before["processes"])


@pytest.fixture(scope="module")
def shared_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlledEngine]:
    engine = ControlledEngine(tmp_path_factory.mktemp("shared"))
    yield engine
    engine.close()


def test_a_size_that_is_refused_leaves_the_limits_alone(shared_engine: ControlledEngine) -> None:
    status, answer = shared_engine.control.ask("PATCH", "/drive", {"bps": 1000, "size_bytes": 1000})
    assert (status, answer["field"]) == (400, "size_bytes")
    assert shared_engine.control.get()["drive"]["limits"] == []


def test_what_is_not_there_is_said_so(shared_engine: ControlledEngine) -> None:
    assert shared_engine.control.ask("GET", "/nothing")[0] == 404
    assert shared_engine.control.ask("DELETE", "/drive")[0] == 405
    assert shared_engine.control.ask("PATCH", "/drive", b" " * 100_000)[0] == 413


# Size


# Cache mode and limits


def test_an_unsafe_drive_answers_flushes_without_doing_them(
    engine: ControlledEngine, control: ControlClient
) -> None:
    assert control.change("/drive", cache="unsafe")["drive"]["cache"] == "unsafe"
    engine.frontend.flush()
    assert control.operation("flush")["request_count"] == 0
    control.change("/drive", cache="writeback")
    engine.frontend.flush()
    assert control.operation("flush")["request_count"] == 1


def test_a_limit_that_is_lifted_lets_go_what_waited(engine: ControlledEngine, control: ControlClient) -> None:
    control.change("/drive", rate_limiter=ONE_IN_TEN_MINUTES)
    assert control.get()["drive"]["limits"] == ["ops_total"]
    tokens = [engine.submit_write(0), engine.submit_write(4096)]
    assert engine.finish(tokens[0]) == [OK]
    control.change("/drive", iops=None)
    assert engine.finish(tokens[1]) == [OK]
    assert control.get()["drive"]["limits"] == []
    assert control.operation("write")["throttled_count"] == 1
    assert control.operation("write")["throttled_ns"] > 0


def test_limits_that_are_not_named_stay(engine: ControlledEngine, control: ControlClient) -> None:
    control.change("/drive", bps_read=1 << 30, iops=1 << 30)
    control.change("/drive", bps_write=1 << 30, burst=1 << 20)
    assert control.get()["drive"]["limits"] == ["bytes_read", "bytes_write", "ops_total"]
    control.change("/drive", bps_read=0)
    assert control.get()["drive"]["limits"] == ["bytes_write", "ops_total"]


# Workers


def test_workers_come_and_go_while_requests_run(engine: ControlledEngine, control: ControlClient) -> None:
    for count in (5, 1, 3, 2):
        tokens = [engine.submit_write(index * 4096) for index in range(64)]
        before = control.processes
        after = control.change("/workers", count=count)["processes"]
        assert {role for role in after if role.startswith("worker")} == {f"worker {i}" for i in range(count)}
        for role in before.keys() & after.keys():
            assert before[role] == after[role]
        for role in before.keys() - after.keys():
            assert not Path(f"/proc/{before[role]}").exists()
        assert engine.finish(*tokens) == [OK] * 64
    assert [worker["worker_index"] for worker in control.get("/stats")["workers"] if worker["pid"]] == [0, 1]


def test_a_worker_that_dies_instead_of_ending(engine: ControlledEngine, control: ControlClient) -> None:
    pid = control.processes["worker 1"]
    stop_process(pid)
    tokens = [engine.submit_write(index * 4096) for index in range(64)]
    answers: list[object] = []
    shrinking = threading.Thread(target=lambda: answers.append(control.change("/workers", count=1)))
    shrinking.start()
    control.wait_for(lambda description: not answers)  # served meanwhile
    kill_and_reap(pid)
    assert engine.finish(*tokens) == [OK] * 64
    shrinking.join(TIMEOUT_S)
    assert answers
    assert "worker 1" not in control.processes
    assert "worker 1" in control.change("/workers", count=2)["processes"]
    assert engine.finish(*(engine.submit_write(index * 4096) for index in range(64))) == [OK] * 64


def test_the_dispatcher_dies_while_a_worker_is_to_end(
    engine: ControlledEngine, control: ControlClient
) -> None:
    worker = control.processes["worker 1"]
    stop_process(worker)
    tokens = [engine.submit_write(index * 4096) for index in range(64)]
    answers: list[object] = []
    shrinking = threading.Thread(target=lambda: answers.append(control.change("/workers", count=1)))
    shrinking.start()
    kill_and_reap(dispatcher := control.processes["dispatcher"])
    control.wait_for(lambda description: description["processes"].get("dispatcher", dispatcher) != dispatcher)
    os.kill(worker, 18)  # SIGCONT
    shrinking.join(TIMEOUT_S)
    assert answers
    assert engine.finish(*tokens) == [OK] * 64


def test_an_engine_without_workers_gets_none(tmp_path: Path) -> None:
    engine = ControlledEngine(tmp_path, "--io-engine=sync")
    status, answer = engine.control.ask("PATCH", "/workers", {"count": 2})
    engine.close()
    assert (status, answer["field"]) == (400, "count")


# Pause


# Life


def test_counters_go_on_over_restarts(engine: ControlledEngine, control: ControlClient) -> None:
    assert engine.finish(*(engine.submit_write(index * 4096) for index in range(10))) == [OK] * 10
    for role in ("dispatcher", "worker 0"):
        kill_and_reap(pid := control.processes[role])
        control.wait_for(lambda description: description["processes"].get(role, pid) != pid)  # noqa: B023
    assert engine.finish(*(engine.submit_write(index * 4096) for index in range(10))) == [OK] * 10
    assert control.operation("write")["request_count"] == 20
    assert control.get("/stats")["dispatcher_restart_count"] == 1
    assert control.get("/stats")["workers"][0]["restart_count"] == 1


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "control.sock"))
    engine = ControlledEngine(tmp_path)
    assert engine.control.get()["device"] == "block"
    engine.close()
    assert not engine.control.socket_path.exists()


def test_a_path_that_is_something_else_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    (tmp_path / "disk.img").write_bytes(bytes(DISK_BYTES))
    program = engine_command()[0]
    options = [f"--socket-path={tmp_path / 's'}", f"--blk-file={tmp_path / 'disk.img'}", f"--control={path}"]
    ended = subprocess.run([program, *options], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert ended.returncode == 1
    assert f"--control {path}: " in ended.stderr
    assert path.read_text() == "precious"


def test_a_queue_counts_each_request_once(engine: ControlledEngine, control: ControlClient) -> None:
    for _ in range(3):
        engine.frontend.write(0, bytes(4096))
    queue = control.get("/stats")["queues"][0]
    assert (queue["popped_count"], queue["used_count"]) == (3, 3)


def test_stat_and_top_find_the_engine(engine: ControlledEngine, control: ControlClient) -> None:
    engine.frontend.write(0, bytes(4096))
    program = str(Path(engine_command()[0]).with_name("ringblk"))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        wide = {**os.environ, "COLUMNS": "200"}  # the image's path on one line
        return subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, env=wide
        )

    pid = str(control.processes["supervisor"])
    for name in (pid, f"ringblk-engine-{pid}", str(engine.image)):
        shown = run("stat", name)
        assert shown.returncode == 0
        assert str(engine.image) in shown.stdout
        assert "write" in shown.stdout
    assert f'"drive":"{engine.image}"' in run("stat", "--json").stdout
    assert str(engine.image) in run("top", pid, "--frames=1", "--interval=0.05").stdout
    missing = run("stat", "no-such-engine")
    assert missing.returncode == 1
    assert missing.stderr == "ringblk: no engine no-such-engine runs here\n"


def test_logs_as_json(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    program = engine_command()[0]
    options = [
        "--backend=null",
        "--backend-arg=size_bytes=512",
        f"--control={tmp_path / 'c'}",
        "--log-format=json",
    ]
    process = subprocess.Popen(
        ends_with_tests([program, f"--socket-path={tmp_path / 's'}", *options]),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while True:
        assert process.poll() is None
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):  # a name, before it listens
            ControlClient(tmp_path / "c").change("/drive", size_bytes=1024)
            break
        os.sched_yield()
    process.terminate()
    text = process.communicate(timeout=TIMEOUT_S)[1]
    assert '"message":"the drive has 1024 bytes; the driver is not told"' in text
    assert all(line.startswith("{") for line in text.splitlines())


def test_an_engine_without_control_loads_none_of_it(tmp_path: Path) -> None:
    program = (sys.executable, "-X", "importtime", PROGRAM)

    def imported(*options: str) -> set[str]:
        with Engine(*MEMORY, *options, program=program) as engine:
            return {line.split("|")[-1].strip() for line in engine.log().splitlines()}

    assert {"h11", "ringblk.engine.control"} <= imported(f"--control={tmp_path / 'control.sock'}")
    assert not {"h11", "ringblk.engine.control"} & imported()


def test_control_says_which_packages_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ringblk.engine.control.server", None)
    config = make_config(
        {
            "backend": "null",
            "backend_arg": {"size_bytes": "512"},
            "socket_path": str(tmp_path / "s"),
            "control": str(tmp_path / "c"),
        }
    )
    with pytest.raises(ProgramError, match=re.escape("pip install 'ringblk[control]'")):
        serve(config)
    assert not list(tmp_path.iterdir())
