"""Drives whose bytes a Ceph cluster keeps.

Those that need a cluster run where CEPH_CONF names one with a pool "rbd"; each makes an image of its own.
The fault model: the worker, which is the image's client, is killed with requests under way; what it had sent
lands when the cluster likes, unless the cluster does not take it any more.
"""

import importlib.util
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringblk import Frontend
from ringblk.engine.load.verified_load import LoadSettings, VerifiedLoad
from tests.crash.crash_plan import CrashPlan
from tests.crash.walk_points import RBD_POINTS
from tests.rigs.engine_process import EngineProcess
from tests.rigs.engine_rig import run_program

HAS_LIBRBD = importlib.util.find_spec("ringblk.workers.rbd.client") is not None
pytestmark = pytest.mark.skipif(not HAS_LIBRBD, reason="built without librbd (scripts/setup-remote)")
needs_cluster = pytest.mark.skipif("CEPH_CONF" not in os.environ, reason="CEPH_CONF names no Ceph cluster")
SIZE_BYTES = 16 << 20
BLOCK = 4096
TIMEOUT_S = 60.0


def rbd(*arguments: str) -> None:
    subprocess.run(["rbd", *arguments], check=True, capture_output=True, timeout=TIMEOUT_S)


@pytest.fixture
def image() -> Iterator[str]:
    name = f"rbd/ringblk-test-{os.getpid()}"
    rbd("create", name, f"--size={SIZE_BYTES}B")
    yield name
    rbd("rm", "--no-progress", name)


def frontend(engine: EngineProcess) -> Frontend:
    return Frontend(str(engine.socket_path), request_timeout_s=TIMEOUT_S)


@needs_cluster
def test_a_verified_load_with_deaths(tmp_path: Path, image: str) -> None:
    chosen = random.Random(3)
    with EngineProcess(tmp_path / "socket", [f"--uri=rbd:{image}"]) as engine, frontend(engine) as disk:
        assert disk.capacity_bytes == SIZE_BYTES
        load = VerifiedLoad(disk, LoadSettings(max_blocks=16))
        for role in ("worker-0", "dispatcher", "worker-0"):
            wanted = load.request_count + chosen.randrange(50, 100)
            while load.request_count < wanted:
                load.step()
            engine.kill(role)
        load.drain()
        load.verify_all()
        assert load.fault_count == 0, load.faults


@needs_cluster
@pytest.mark.parametrize("point", RBD_POINTS)
def test_a_death_while_the_lock_is_taken(tmp_path: Path, image: str, point: str) -> None:
    plan = CrashPlan(tmp_path / "plan")
    plan.arm((point, 1))
    with (
        EngineProcess(tmp_path / "socket", [f"--uri=rbd:{image}"], plan.path) as engine,
        frontend(engine) as disk,
    ):
        disk.write(0, b"x" * BLOCK)
        assert plan.deaths == 1
        plan.disarm()
        assert disk.read(0, 2 * BLOCK) == b"x" * BLOCK + bytes(BLOCK)


@needs_cluster
def test_all_kinds_of_requests(tmp_path: Path, image: str) -> None:
    with EngineProcess(tmp_path / "socket", [f"--uri=rbd:{image}"]) as engine, frontend(engine) as disk:
        disk.write(0, b"x" * (1 << 20))
        disk.write_zeroes(BLOCK, BLOCK)
        disk.discard(1 << 19, 1 << 19)
        disk.flush()
        expected = b"x" * BLOCK + bytes(BLOCK) + b"x" * ((1 << 19) - 2 * BLOCK)
        assert disk.read(0, 1 << 19) == expected
        done = run_program(f"--socket-path={tmp_path / 'other'}", f"--uri=rbd:{image}")
        assert done.returncode == 1
        assert "the image's exclusive lock" in done.stderr


@needs_cluster
def test_a_snapshot_is_a_read_only_drive(tmp_path: Path, image: str) -> None:
    rbd("snap", "create", "--no-progress", f"{image}@s")
    try:
        options = [f"--uri=rbd:{image}@s"]
        with EngineProcess(tmp_path / "socket", options) as engine, frontend(engine) as disk:
            assert disk.read(0, BLOCK) == bytes(BLOCK)
            with pytest.raises(Exception, match="IOERR"):
                disk.write(0, b"x" * BLOCK)
    finally:
        rbd("snap", "rm", "--no-progress", f"{image}@s")


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--uri=rbd:disk"], "names an image"),
        (["--uri=rbd:pool/disk", "--rbd-conf=/nowhere"], "the cluster's configuration: No such file"),
        (["--uri=rbd:pool/disk", "--io-engine=sync"], "which has a worker"),
        (["--uri=rbd:pool/disk", "--reconnect-s=1"], "--reconnect-s needs --uri=nbd"),
        (["--uri=nbd://host/", "--rbd-user=vm"], "--rbd-user needs --uri=rbd"),
    ],
)
def test_what_cannot_be_had_is_one_line(tmp_path: Path, options: list[str], fault: str) -> None:
    done = run_program(f"--socket-path={tmp_path / 'socket'}", *options)
    assert done.returncode in (1, 2)
    (line,) = done.stderr.splitlines()
    assert fault in line
