"""Drives whose base is fetched as it is read.

The fault model: any process (fetcher, worker, dispatcher, control plane) is killed at any moment, with reads
under way; the source answers late, short, wrongly, not at all, or is another one from some moment on; the
cache has no room. No guest ever reads a byte that is not the source's, and each piece is fetched once for all
drives.
"""

import random
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringblk import Frontend
from ringblk.engine.frontend.request import RequestFailed
from ringblk.workers.block.protocol import RequestStatus
from ringblk.workers.fetch.manifest import make_manifest
from tests.rigs.engine_process import EngineProcess
from tests.rigs.engine_rig import DEADLINE_S, Engine, eventually, run_program
from tests.rigs.fetchers import fetcher_of, kill_fetcher, wait_fetcher_gone
from tests.rigs.http_source import HttpSource
from tests.rigs.many_drives import ManyDrives
from tests.rigs.nbd_server import NbdServer, free_port, needs_nbd
from tests.rigs.process_tree import has_ended
from tests.rigs.small_disk import small_disk

PIECE = 1 << 16
BLOCK = 4096
SIZE_BYTES = 40 * PIECE + 3 * BLOCK + 512
CONTENT = random.Random(16).randbytes(SIZE_BYTES)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder whose path is short enough for sockets in it, whoever runs the tests."""
    with tempfile.TemporaryDirectory(prefix="ringblk-") as folder:
        yield Path(folder)


@pytest.fixture
def source() -> Iterator[HttpSource]:
    with HttpSource(CONTENT) as server:
        yield server


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    (tmp_path / "base.img").write_bytes(CONTENT)
    path = tmp_path / "base.manifest"
    path.write_bytes(make_manifest(str(tmp_path / "base.img"), PIECE))
    return path


def options(folder: Path, uri: str, *more: str) -> list[str]:
    return [f"--base={uri}", f"--base-cache={folder / 'cache'}", f"--overlay={folder / 'overlay'}", *more]


def read_all(disk: Frontend) -> bytes:
    return b"".join(disk.read(at, min(PIECE, SIZE_BYTES - at)) for at in range(0, SIZE_BYTES, PIECE))


@pytest.mark.parametrize("io_engine", ["auto", "psync", "io_uring", "io_uring_inline"])
def test_a_guest_reads_the_source_and_writes_its_own(
    tmp_path: Path, source: HttpSource, manifest: Path, io_engine: str
) -> None:
    way = options(tmp_path, source.uri, f"--base-manifest={manifest}", f"--io-engine={io_engine}")
    expected = bytearray(CONTENT)
    with Engine(*way) as engine, Frontend(engine.socket_path, request_timeout_s=DEADLINE_S) as disk:
        assert disk.capacity_bytes == SIZE_BYTES
        disk.write(5 * PIECE, b"w" * PIECE)
        expected[5 * PIECE : 6 * PIECE] = b"w" * PIECE
        disk.write(9 * PIECE + 512, b"p" * 512)
        expected[9 * PIECE + 512 : 9 * PIECE + 1024] = b"p" * 512
        assert disk.read(5 * PIECE, PIECE) == b"w" * PIECE
        assert (5 * PIECE, PIECE) not in source.asked  # what is written whole is not fetched
        assert read_all(disk) == expected
    asked = [each for each in source.asked if each[1] > 1]
    assert len(asked) == len(set(asked))
    with Engine(*way) as engine, Frontend(engine.socket_path, request_timeout_s=DEADLINE_S) as disk:
        assert read_all(disk) == expected
        log = engine.log()
    assert len([each for each in source.asked if each[1] > 1]) == len(asked)
    assert "Traceback" not in log
    assert "sandbox refuses" not in log


@needs_nbd("nbdkit")
@pytest.mark.parametrize("uses_tcp", [False, True])
def test_an_export_is_a_base(tmp_path: Path, uses_tcp: bool) -> None:
    image = tmp_path / "base.img"
    image.write_bytes(CONTENT)
    server = NbdServer(tmp_path, ["nbdkit", "-r", "file", str(image)], free_port() if uses_tcp else None)
    with (
        server,
        Engine(*options(tmp_path, server.uri)) as engine,
        Frontend(engine.socket_path, request_timeout_s=DEADLINE_S) as disk,
    ):
        assert read_all(disk) == CONTENT
        disk.write(0, b"x" * BLOCK)
        assert disk.read(0, 2 * BLOCK) == b"x" * BLOCK + CONTENT[BLOCK : 2 * BLOCK]


def test_many_drives_fetch_a_piece_once(tmp_path: Path, source: HttpSource, manifest: Path) -> None:
    names = [f"vm{number}" for number in range(4)]
    settings = {
        name: {
            "base": source.uri,
            "base_cache": str(tmp_path / "cache"),
            "base_manifest": str(manifest),
            "overlay": str(tmp_path / name),
        }
        for name in names
    }
    with ManyDrives(settings) as drives:
        source.open.clear()
        read: dict[str, bytes] = {}

        def boot(name: str) -> None:
            with drives.frontend(name) as disk:
                read[name] = read_all(disk)

        threads = [threading.Thread(target=boot, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        eventually(
            lambda: all(_status(drives, name)["waiting_count"] == len(names) for name in names),
            "all guests wait for the same piece",
        )
        source.open.set()
        for thread in threads:
            thread.join(DEADLINE_S)
        assert read == dict.fromkeys(names, CONTENT)
        asked = [each for each in source.asked if each[1] > 1]
        assert len(asked) == len(set(asked))
        eventually(lambda: _status(drives, "vm0")["missing_bytes"] == 0, "all is here")
        status = _status(drives, "vm0")
        assert status["source"] == source.uri
        assert 0 < status["miss_count"] <= status["read_count"]
        assert status["fetched_bytes"] == SIZE_BYTES
        _, metrics = drives.control.ask_raw("GET", "/metrics")
        assert b"ringblk_base_missing_bytes{" in metrics


def _status(drives: ManyDrives, name: str) -> dict[str, Any]:
    found: dict[str, Any] = drives.control.get(f"/drives/{name}")["state"]["base"]
    return found


def test_kills_lose_nothing(tmp_path: Path, source: HttpSource, manifest: Path) -> None:
    chosen = random.Random(7)
    way = options(tmp_path, source.uri, f"--base-manifest={manifest}", "--workers=2")
    with (
        EngineProcess(tmp_path / "socket", way) as engine,
        Frontend(engine.socket_path, request_timeout_s=DEADLINE_S) as disk,
    ):
        pieces = list(range(SIZE_BYTES // PIECE))
        chosen.shuffle(pieces)
        for number, piece in enumerate(pieces):
            source.open.clear()
            buffer = disk.allocate(PIECE)
            token = disk.submit_read(piece * PIECE, buffer)
            disk.submit()
            match number % 4:
                case 0:
                    kill_fetcher(tmp_path / "cache")
                case 1:
                    engine.kill("dispatcher")
                case 2:
                    engine.kill(f"worker-{chosen.randrange(2)}")
            source.open.set()
            assert disk.wait(token).status == RequestStatus.OK
            assert bytes(buffer.view) == CONTENT[piece * PIECE : (piece + 1) * PIECE]
        assert read_all(disk) == CONTENT
    assert "Traceback" not in engine.log


def test_a_drive_that_is_put_outlives_control_plane_and_fetcher(
    tmp_path: Path, source: HttpSource, manifest: Path
) -> None:
    with ManyDrives({}) as drives:
        status, answer = drives.put(
            "vm",
            base=source.uri,
            base_cache=str(tmp_path / "cache"),
            base_manifest=str(manifest),
            overlay=str(tmp_path / "vm"),
        )
        assert status == 201, answer
        with drives.frontend("vm") as disk:
            assert disk.read(PIECE, BLOCK) == CONTENT[PIECE : PIECE + BLOCK]
            drives.kill_control_plane()
            kill_fetcher(tmp_path / "cache")
            assert disk.read(3 * PIECE, BLOCK) == CONTENT[3 * PIECE : 3 * PIECE + BLOCK]
            drives.kill_dispatcher("vm")
            assert disk.read(5 * PIECE, BLOCK) == CONTENT[5 * PIECE : 5 * PIECE + BLOCK]
            eventually(lambda: _status(drives, "vm")["has_fetcher"], "another fetcher")
        assert "Traceback" not in drives.log()


def test_snapshots_clones_and_flattening(tmp_path: Path, source: HttpSource, manifest: Path) -> None:
    fetched = {"base": source.uri, "base_cache": str(tmp_path / "cache"), "base_manifest": str(manifest)}
    with (
        ManyDrives({"vm": {**fetched, "overlay": str(tmp_path / "vm")}}) as drives,
        drives.frontend("vm") as disk,
    ):
        disk.write(PIECE, b"1" * BLOCK)
        assert drives.control.ask("POST", "/drives/vm/snapshots", {"name": "ready"})[0] < 300
        disk.write(PIECE, b"2" * BLOCK)
        assert disk.read(2 * PIECE, BLOCK) == CONTENT[2 * PIECE : 2 * PIECE + BLOCK]
        status, answer = drives.put(
            "clone", base=str(tmp_path / "vm"), base_snapshot="ready", overlay=str(tmp_path / "clone")
        )
        assert status == 201, answer
        with drives.frontend("clone") as clone:
            assert clone.read(PIECE, 2 * BLOCK) == b"1" * BLOCK + CONTENT[PIECE + BLOCK : PIECE + 2 * BLOCK]
            assert clone.read(7 * PIECE, BLOCK) == CONTENT[7 * PIECE : 7 * PIECE + BLOCK]
        drives.delete("clone")
        assert drives.control.ask("POST", "/drives/vm/flatten")[0] < 300
        eventually(lambda: drives.control.get("/drives/vm")["state"].get("job") is None, "the drive is flat")
        source.refuses = 404
        expected = CONTENT[:PIECE] + b"2" * BLOCK + CONTENT[PIECE + BLOCK :]
        assert read_all(disk) == expected


def test_an_engine_that_was_killed_leaves_a_cache(tmp_path: Path, source: HttpSource, manifest: Path) -> None:
    way = options(tmp_path, source.uri, f"--base-manifest={manifest}")
    with Engine(*way) as engine, Frontend(engine.socket_path, request_timeout_s=DEADLINE_S) as disk:
        read_all(disk)
        engine.process.kill()
        engine.process.wait()
    kill_fetcher(tmp_path / "cache")
    source.refuses = 503  # all is here, so it is not needed
    with Engine(*way) as engine, Frontend(engine.socket_path, request_timeout_s=DEADLINE_S) as disk:
        assert read_all(disk) == CONTENT


def test_a_full_disk_is_passed_by(tmp_path: Path, source: HttpSource, manifest: Path) -> None:
    with small_disk(tmp_path / "cache", "1m") as cache:
        way = options(tmp_path, source.uri, f"--base-manifest={manifest}")
        with Engine(*way) as engine, Frontend(engine.socket_path, request_timeout_s=DEADLINE_S) as disk:
            assert read_all(disk) == CONTENT
            assert disk.read(1000 * 512, 123 * 512) == CONTENT[1000 * 512 : 1123 * 512]
            assert disk.read(SIZE_BYTES - 512, 512) == CONTENT[-512:]
            assert "cannot be kept: No space left" in engine.log()
            pid = fetcher_of(cache)
        eventually(lambda: pid is None or has_ended(pid), "the fetcher's end")


def test_a_lie_is_never_served(tmp_path: Path, source: HttpSource, manifest: Path) -> None:
    with (
        Engine(*options(tmp_path, source.uri, f"--base-manifest={manifest}", "--format=raw")) as engine,
        Frontend(engine.socket_path, request_timeout_s=DEADLINE_S) as disk,
    ):
        source.spoils = lambda data: b"\0" * len(data)
        with pytest.raises(RequestFailed):
            disk.read(0, BLOCK)
        source.spoils = lambda data: data
        assert disk.read(0, BLOCK) == CONTENT[:BLOCK]
        assert "is not what the manifest says" in engine.log()


def test_a_short_answer_is_fetched_again(tmp_path: Path, source: HttpSource) -> None:
    lacks = [True, True]
    with (
        Engine(*options(tmp_path, source.uri, "--format=raw")) as engine,
        Frontend(engine.socket_path, request_timeout_s=DEADLINE_S) as disk,
    ):
        source.spoils = lambda data: data[:-1] if lacks and lacks.pop() else data
        assert read_all(disk) == CONTENT
        assert "the source cannot be read" in engine.log()


@pytest.mark.parametrize("change", ["etag", "modified", "size"])
def test_a_source_that_changes_is_found(tmp_path: Path, change: str) -> None:
    with HttpSource(CONTENT, '"1"' if change == "etag" else None, "Tue, 01 Dec 2026 00:00:00 GMT") as source:
        way = options(tmp_path, source.uri, "--format=raw")
        with Engine(*way) as engine, Frontend(engine.socket_path, request_timeout_s=DEADLINE_S) as disk:
            first = disk.read(0, BLOCK)
            if change == "size":
                source.content = CONTENT + bytes(512)
            else:
                source.content = bytes(SIZE_BYTES)
                source.etag = source.etag and '"2"'
                source.modified = "Tue, 01 Dec 2026 00:00:01 GMT"
            with pytest.raises(RequestFailed):
                disk.read(SIZE_BYTES - BLOCK, BLOCK)
            assert disk.read(0, BLOCK) == first == CONTENT[:BLOCK]  # what is here is right still
            assert "is not what it was" in engine.log()


def test_a_source_that_is_away_is_waited_for(tmp_path: Path, source: HttpSource) -> None:
    with (
        Engine(*options(tmp_path, source.uri, "--format=raw")) as engine,
        Frontend(engine.socket_path, request_timeout_s=DEADLINE_S) as disk,
    ):
        source.refuses = 503
        buffer = disk.allocate(BLOCK)
        token = disk.submit_read(0, buffer)
        disk.submit()
        eventually(lambda: "the server says 503" in engine.log(), "a word of it")
        source.refuses = None
        assert disk.wait(token).status == RequestStatus.OK
        assert bytes(buffer.view) == CONTENT[:BLOCK]


def test_the_fetcher_ends_with_the_last_engine(tmp_path: Path, source: HttpSource) -> None:
    with Engine(*options(tmp_path, source.uri)):
        pid = fetcher_of(tmp_path / "cache")
        assert pid is not None
    eventually(lambda: has_ended(pid), "the fetcher's end")


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (["--base=gopher://x/y"], "can't be fetched: it is none of"),
        (["--base-snapshot=s"], "--base-snapshot: not with --base=URI"),
        (["--io-engine=sync"], "--io-engine sync: not with --base=URI"),
        (["--base-manifest=/nonexistent"], "/nonexistent: No such file"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    tmp_path: Path, source: HttpSource, wrong: list[str], text: str
) -> None:
    done = run_program(f"--socket-path={tmp_path / 's'}", *options(tmp_path, source.uri), *wrong)
    assert done.returncode != 0
    assert text in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("status", "text"),
    [(404, "the server says 404"), (200, "takes no range requests"), (302, "name the place")],
)
def test_a_source_that_is_none_is_refused_in_a_line(
    tmp_path: Path, source: HttpSource, status: int, text: str
) -> None:
    source.refuses = status
    done = run_program(f"--socket-path={tmp_path / 's'}", *options(tmp_path, source.uri))
    assert done.returncode != 0
    assert text in done.stderr
    assert source.uri in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cache_is_no_larger_than_it_may_be(tmp_path: Path) -> None:
    """What no drive uses gives way; of what is used nothing is removed, and the rest is not kept."""
    limit_bytes = SIZE_BYTES // 2
    cache = tmp_path / "cache"
    with HttpSource(CONTENT) as first, HttpSource(CONTENT[::-1]) as second:
        for source, content, overlay in ((first, CONTENT, "1"), (second, CONTENT[::-1], "2")):
            way = [f"--base={source.uri}", f"--base-cache={cache}", f"--overlay={tmp_path / overlay}"]
            with (
                Engine(*way, f"--base-cache-size={limit_bytes}") as engine,
                Frontend(engine.socket_path, request_timeout_s=DEADLINE_S) as disk,
            ):
                assert read_all(disk) == content
                assert "as large as it may be" in engine.log()
                assert read_all(disk) == content
            wait_fetcher_gone(cache, source.uri)
            kept = [path.stat().st_blocks * 512 for path in cache.glob("*/data")]
            assert len(kept) == 1
            assert limit_bytes // 2 < kept[0] <= limit_bytes
