"""What is wrong with a command line or a configuration file is one line and a status."""

import json
from pathlib import Path

import pytest

from ringblk.engine.statistics.statistics import take_snapshot
from ringblk.shm.state.segment import StateSegment
from tests.rigs.engine_rig import (
    MEMORY,
    MEMORY_BYTES,
    Engine,
    RawFrontend,
    run_program,
)


def with_socket(*options: str) -> list[str]:
    return ["--socket-path=/tmp/ringblk-test-never", *options]


USAGE_ERRORS = {
    "nothing": ([], "--socket-path"),
    "no way in": (list(MEMORY), "--socket-path"),
    "two ways in": (with_socket("--fd=3", *MEMORY), "--fd"),
    "no image": (with_socket(), "--blk-file"),
    "two images": (with_socket("--blk-file=x", *MEMORY), "--backend"),
    "unknown option": (with_socket("--wrokers=3", *MEMORY), "--wrokers"),
    "no worker": (with_socket("--workers=0", *MEMORY), "--workers"),
    "65 workers": (with_socket("--workers=65", *MEMORY), "--workers"),
    "workers as a word": (with_socket("--workers=many", *MEMORY), "--workers"),
    "65 queues": (with_socket("--num-queues=65", *MEMORY), "--num-queues"),
    "part of an option": (with_socket("--socket=/tmp/ringblk-test-other", *MEMORY), "--socket"),
    "no name for the socket": (["--socket-path=", *MEMORY], "--socket-path"),
    "direct without a file": (with_socket("--direct=on", *MEMORY), "--direct"),
    "queue of 100": (with_socket("--queue-size=100", *MEMORY), "--queue-size"),
    "queue of 65536": (with_socket("--queue-size=65536", *MEMORY), "--queue-size"),
    "unknown cache": (with_socket("--cache=maybe", *MEMORY), "--cache: maybe is none of writeback, unsafe"),
    "unknown direct": (with_socket("--direct=perhaps", *MEMORY), "--direct"),
    "unknown engine": (with_socket("--io-engine=steam", *MEMORY), "--io-engine"),
    "block of 1000": (with_socket("--logical-block-size=1000", *MEMORY), "--logical-block-size"),
    "block of 8192": (with_socket("--logical-block-size=8192", *MEMORY), "--logical-block-size"),
    "physical block of 1000": (with_socket("--physical-block-size=1000", *MEMORY), "--physical-block-size"),
    "physical block of 65536": (with_socket("--physical-block-size=65536", *MEMORY), "--physical-block-size"),
    "physical block below the logical": (
        with_socket("--physical-block-size=512", "--logical-block-size=4096", *MEMORY),
        "--physical-block-size",
    ),
    "argument without value": (with_socket("--backend=memory", "--backend-arg=size_bytes"), "--backend-arg"),
    "argument without backend": (with_socket("--blk-file=x", "--backend-arg=a=b"), "--backend-arg"),
    "burst of years": (
        with_socket("--iops=5", "--iops-burst=99999999999999999", *MEMORY),
        "--iops-burst: 99999999999999999 is years' worth",
    ),
    "burst of nothing": (
        with_socket("--iops-burst=9", *MEMORY),
        "--iops-burst: is given without --iops or --iops-read or --iops-write",
    ),
    "limit too slow": (
        with_socket('--rate-limiter={"ops": {"size": 1, "refill_time": 9999999}}', *MEMORY),
        "--rate-limiter: ops.size: slower than one token",
    ),
    "limit without its time": (
        with_socket('--rate-limiter={"ops": {"size": 1}}', *MEMORY),
        "--rate-limiter: ops: Object missing required field `refill_time`",
    ),
    "limits in two forms": (
        with_socket("--rate-limiter={}", "--iops-read=9", *MEMORY),
        "give one of --rate-limiter and --iops-read",
    ),
    "missing value": (with_socket("--workers"), "--workers"),
}


@pytest.mark.parametrize(("options", "named"), USAGE_ERRORS.values(), ids=USAGE_ERRORS)
def test_a_wrong_command_line(options: list[str], named: str) -> None:
    done = run_program(*options)
    assert done.returncode == 2
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--blk-file=/nowhere/disk.img"], "--blk-file /nowhere/disk.img: can't open it: No such file"),
        (["--blk-file=/dev/shm"], "--blk-file /dev/shm"),
        (["--backend=no_such_module:Disk"], "no_such_module"),
        (["--backend=gated_disk:NoSuchDisk"], "NoSuchDisk"),
        (["--backend=gated_disk:FailingDisk"], "size_bytes is missing"),
        (["--backend=gated_disk:FailingDisk", "--backend-arg=size_bytes=many"], "size_bytes=many"),
        (["--backend=memory", "--backend-arg=size_bytes=1000"], "size_bytes is 1000"),
    ],
)
def test_what_the_system_refuses(options: list[str], named: str) -> None:
    done = run_program(*with_socket(*options))
    assert done.returncode == 1
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_configuration_file_and_options_over_it(tmp_path: Path) -> None:
    config = tmp_path / "engine.json"
    fields = {
        "backend": "memory",
        "backend_arg": {"size_bytes": str(MEMORY_BYTES)},
        "workers": 3,
        "num_queues": 5,
    }
    config.write_text(json.dumps(fields))
    with Engine(f"--config={config}", "--workers=1") as engine:
        state = StateSegment.attach(engine.segment_name)
        assert take_snapshot(state).worker_limit == 1
        state.close()
        with RawFrontend(engine) as frontend:
            frontend.negotiate()
            assert frontend.connection.get_queue_num() == 5


@pytest.mark.parametrize(
    ("text", "status", "named"),
    [
        ('{"wrokers": 3}', 2, "wrokers"),
        ('{"workers": "three"}', 2, "workers"),
        ('{"workers": 99}', 2, "workers"),
        ('{"backend_arg": {"size_bytes": 5}}', 2, "backend_arg"),
        ("[1, 2]", 2, "not a JSON object"),
        ("{", 2, "engine.json"),
        (None, 1, "engine.json"),
        ('{"drive-id": "x"}', 2, "`drive-id` is written `drive_id` here"),
        ('{"--read-only": true}', 2, "`--read-only` is written `read_only` here"),
    ],
)
def test_a_wrong_configuration_file(tmp_path: Path, text: str | None, status: int, named: str) -> None:
    config = tmp_path / "engine.json"
    if text is not None:
        config.write_text(text)
    done = run_program(f"--config={config}", *with_socket(*MEMORY))
    assert done.returncode == status
    assert done.stderr.startswith(f"vhost-user-ringblk: --config {config}: ")
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 1
