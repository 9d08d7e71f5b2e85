"""An engine that is paused, and one that goes on."""

import os
import threading
from pathlib import Path

from ringblk import RequestStatus
from tests.rigs.control_client import (
    DISK_BYTES,
    TIMEOUT_S,
    ControlClient,
    ControlledEngine,
    kill_and_reap,
    stop_process,
)

OK, IOERR = int(RequestStatus.OK), int(RequestStatus.IOERR)


def test_a_paused_engine_begins_nothing(engine: ControlledEngine, control: ControlClient) -> None:
    assert control.post("/pause")["is_paused"]
    token = engine.submit_write(0)
    control.change("/workers", count=3)  # the dispatcher has been through its loop
    control.change("/workers", count=2)
    assert control.get("/stats")["queues"][0]["popped_count"] == 0
    assert control.get("/stats")["is_paused"]
    assert not control.post("/resume")["is_paused"]
    assert engine.finish(token) == [OK]


def test_a_pause_outlives_the_dispatcher(engine: ControlledEngine, control: ControlClient) -> None:
    control.post("/pause")
    token = engine.submit_write(0)
    kill_and_reap(dispatcher := control.processes["dispatcher"])
    control.wait_for(lambda description: description["processes"].get("dispatcher", dispatcher) != dispatcher)
    control.change("/workers", count=1)  # answered by the new one, after its recovery
    control.post("/pause")
    assert control.get("/stats")["queues"][0]["popped_count"] == 0
    assert control.get("/stats")["dispatcher_restart_count"] == 1
    control.post("/resume")
    assert engine.finish(token) == [OK]


def test_shrinking_does_not_end_a_pause(engine: ControlledEngine, control: ControlClient) -> None:
    control.post("/pause")
    assert control.change("/drive", size_bytes=DISK_BYTES // 2)["is_paused"]
    token = engine.submit_write(0)
    control.change("/workers", count=1)
    assert control.get("/stats")["queues"][0]["popped_count"] == 0
    control.post("/resume")
    assert engine.finish(token) == [OK]


def test_a_pause_that_is_resumed_before_it_is_complete(tmp_path: Path) -> None:
    engine = ControlledEngine(tmp_path, "--workers=1", "--io-engine=psync")
    control = engine.control
    worker = control.processes["worker 0"]
    stop_process(worker)
    token = engine.submit_write(0)
    while not control.get("/stats")["queues"][0]["depth"]:
        os.sched_yield()
    answers: list[int] = []
    pausing = threading.Thread(target=lambda: answers.append(control.ask("POST", "/pause")[0]))
    pausing.start()
    control.wait_for(lambda description: bool(description["is_paused"]))
    assert control.get("/stats")["oldest_request_ns"] > 0
    control.post("/resume")
    pausing.join(TIMEOUT_S)
    assert answers == [409]
    os.kill(worker, 18)  # SIGCONT
    assert engine.finish(token) == [OK]
    engine.close()
