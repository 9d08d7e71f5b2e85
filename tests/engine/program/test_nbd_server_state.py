"""What is told of the server that keeps a drive's bytes, and what follows when it says something else.

The fault model: the server goes away, and comes back with an export that is larger or smaller, or takes one
connection alone.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringblk import Frontend
from ringblk.engine.frontend.request import RequestFailed
from ringblk.workers.block.protocol import RequestStatus
from tests.rigs.engine_rig import DEADLINE_S, eventually
from tests.rigs.many_drives import ManyDrives
from tests.rigs.nbd_drive import submit_write
from tests.rigs.nbd_server import needs_nbd
from tests.rigs.scripted_nbd import ALL_FLAGS, CAN_MULTI, FLUSH, WRITE, NbdRequest, ScriptedNbd

pytestmark = needs_nbd()
BLOCK = 4096
SIZE_BYTES = 1 << 20


@contextlib.contextmanager
def served(
    tmp_path: Path, flags: int = ALL_FLAGS, **settings: object
) -> Iterator[tuple[ScriptedNbd, ManyDrives, Frontend]]:
    with ManyDrives({}) as engine:
        server = ScriptedNbd(tmp_path, SIZE_BYTES, flags)
        assert engine.put("vm1", uri=server.uri, format="raw", **settings)[0] == 201
        with engine.frontend("vm1", request_timeout_s=DEADLINE_S) as disk:
            disk.read(0, BLOCK)  # so that its connection stands
            yield server, engine, disk


def state_of(engine: ManyDrives) -> Any:
    return engine.control.get("/drives/vm1")["state"]


def metric(engine: ManyDrives, name: str) -> float:
    text = engine.control.ask_raw("GET", "/metrics")[1].decode()
    (line,) = [line for line in text.splitlines() if line.startswith(name + "{")]
    assert 'drive="vm1"' in line
    return float(line.rpartition(" ")[2])


def test_how_it_stands_with_the_server_is_told(tmp_path: Path) -> None:
    with served(tmp_path) as (server, engine, disk):
        disk.write(0, b"x" * BLOCK)
        told = state_of(engine)["server"]
        assert told["is_connected"]
        assert (told["connection_count"], told["connection_limit"], told["reconnect_count"]) == (1, 1, 0)
        assert told["abilities"] == ["flush", "fua", "trim", "zero"]
        assert (told["request_count"], told["last_error"], told["is_encrypted"]) == (0, "", False)
        assert metric(engine, "ringblk_server_connected") == 1
        server.close()
        token = submit_write(disk, 0, b"y" * BLOCK)
        eventually(lambda: state_of(engine)["server"]["request_count"] == 1, "the request waits")
        eventually(lambda: not state_of(engine)["server"]["is_connected"], "there is no connection")
        assert state_of(engine)["server"]["last_error"]
        assert metric(engine, "ringblk_server_connected") == 0
        assert metric(engine, "ringblk_server_requests") == 1
        with ScriptedNbd(tmp_path, SIZE_BYTES):
            assert disk.wait(token).status == RequestStatus.OK
            told = state_of(engine)["server"]
            assert told["is_connected"]
            assert told["reconnect_count"] == 1
            eventually(lambda: state_of(engine)["server"]["request_count"] == 0, "nothing waits")


def test_another_size_of_the_export_is_told_to_the_guest(tmp_path: Path) -> None:
    with served(tmp_path) as (server, engine, disk):
        server.close()
        with ScriptedNbd(tmp_path, 2 * SIZE_BYTES) as larger:
            eventually(lambda: state_of(engine)["size_bytes"] == 2 * SIZE_BYTES, "it is larger")
            disk.refresh_config()
            assert disk.capacity_bytes == 2 * SIZE_BYTES
            disk.write(2 * SIZE_BYTES - BLOCK, b"z" * BLOCK)
            assert larger.disk[-BLOCK:] == b"z" * BLOCK
            engine.kill_control_plane()
            engine.control.get("/drives")  # waits for the next one
            assert state_of(engine)["size_bytes"] == 2 * SIZE_BYTES
        with ScriptedNbd(tmp_path, SIZE_BYTES // 2):
            eventually(lambda: state_of(engine)["size_bytes"] == SIZE_BYTES // 2, "it is smaller")
            with pytest.raises(RequestFailed, match="IOERR"):
                disk.read(SIZE_BYTES // 2, BLOCK)
            disk.refresh_config()
            disk.write(SIZE_BYTES // 2 - BLOCK, b"w" * BLOCK)
        assert f"the drive has {SIZE_BYTES // 2} bytes" in engine.log()


def count_ready(engine: ManyDrives) -> int:
    return int(state_of(engine)["server"]["connection_count"])


def test_several_connections_where_the_server_allows_them(tmp_path: Path) -> None:
    """A flush goes through one of them, once what it is for was answered on all."""
    with served(tmp_path, ALL_FLAGS | CAN_MULTI, connections=3) as (server, engine, disk):
        eventually(lambda: count_ready(engine) == 3, "all connections stand")
        tokens = [submit_write(disk, place * BLOCK, bytes([place + 1]) * BLOCK) for place in range(100)]
        assert [disk.wait(token).status for token in tokens] == [RequestStatus.OK] * len(tokens)
        disk.flush()
        assert [bytes([place + 1]) for place in range(100)] == [
            bytes(server.disk[place * BLOCK : place * BLOCK + 1]) for place in range(100)
        ]
        assert server.count(FLUSH) == 1
        assert server.requests[-1].command == FLUSH
        assert state_of(engine)["server"]["connection_limit"] == 3
        engine.kill_dispatcher("vm1")
        assert disk.read(0, BLOCK) == b"\1" * BLOCK
        eventually(lambda: count_ready(engine) == 3, "all connections stand again")


def test_what_one_connection_had_is_done_by_another(tmp_path: Path) -> None:
    with served(tmp_path, ALL_FLAGS | CAN_MULTI, connections=2) as (server, engine, disk):
        eventually(lambda: count_ready(engine) == 2, "both connections stand")

        def answer(request: NbdRequest) -> bytes | None:
            if request.connection == lost and request.command == WRITE:
                server.connections[lost].close()
            return None

        lost = len(server.connections) - 1
        server.answer = answer
        tokens = [submit_write(disk, place * BLOCK, bytes([place + 1]) * BLOCK) for place in range(40)]
        assert [disk.wait(token).status for token in tokens] == [RequestStatus.OK] * len(tokens)
        for place in range(40):
            assert disk.read(place * BLOCK, BLOCK) == bytes([place + 1]) * BLOCK


def test_a_server_that_allows_one_connection_has_one(tmp_path: Path) -> None:
    with served(tmp_path, connections=4) as (_, engine, disk):
        assert disk.read(0, BLOCK) == bytes(BLOCK)
        told = state_of(engine)["server"]
        assert (told["connection_count"], told["connection_limit"]) == (1, 1)
        assert "its server allows one connection: there are not 4" in engine.log()


def test_a_server_that_allows_several_no_more_has_one(tmp_path: Path) -> None:
    with served(tmp_path, ALL_FLAGS | CAN_MULTI, connections=3) as (server, engine, disk):
        eventually(lambda: count_ready(engine) == 3, "all connections stand")
        server.close()
        with ScriptedNbd(tmp_path, SIZE_BYTES) as other:
            for place in range(30):
                disk.write(place * BLOCK, bytes([place + 1]) * BLOCK)
            # The others are tried, and let go of: nothing but one's requests has come.
            assert other.wait(lambda: len(other.connections) >= 3)
            disk.flush()
            assert len({request.connection for request in other.requests}) == 1
            assert count_ready(engine) == 1
