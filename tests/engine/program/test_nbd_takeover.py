"""An engine goes on with another's drive on an NBD server (`--takeover`).

The fault model: the server holds a write back while its engine is told to end.
"""

import threading
from pathlib import Path

from ringblk import Frontend
from ringblk.workers.block.protocol import RequestStatus
from tests.rigs.engine_process import EngineProcess
from tests.rigs.engine_rig import DEADLINE_S
from tests.rigs.nbd_drive import submit_write
from tests.rigs.nbd_server import needs_nbd
from tests.rigs.scripted_nbd import WRITE, NbdRequest, ScriptedNbd

pytestmark = needs_nbd()
BLOCK = 4096


def test_another_engine_goes_on_once_the_server_has_answered(tmp_path: Path) -> None:
    may_go = threading.Event()

    def answer(request: NbdRequest) -> bytes | None:
        if request.command == WRITE and request.data[:1] == b"A":
            may_go.wait(DEADLINE_S)
        return None

    with ScriptedNbd(tmp_path, answer=answer) as server:
        options = [f"--uri={server.uri}", "--format=raw"]
        with (
            EngineProcess(tmp_path / "socket", options) as first,
            Frontend(str(tmp_path / "socket"), request_timeout_s=DEADLINE_S) as disk,
        ):
            token = submit_write(disk, 0, b"A" * BLOCK)
            assert server.wait(lambda: server.count(WRITE) == 1)
            second = EngineProcess(tmp_path / "socket", [*options, "--takeover"])
            second.wait_log("taking over from the engine")
            assert first.process.poll() is None, "it waits for the server"
            may_go.set()
            assert disk.wait(token).status == RequestStatus.OK
            first.process.wait(DEADLINE_S)
            with second:
                disk.reconnect()
                assert disk.read(0, BLOCK) == b"A" * BLOCK
                disk.write(0, b"B" * BLOCK)
                assert server.count(WRITE) == 2
