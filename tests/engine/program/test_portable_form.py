"""Programs of a build of the portable forms: what cannot be had is refused in one line, what is left serves.

The front end's wake-ups are a pipe's two ends, one for each side, as where no system has an eventfd.
"""

import json
import os
import select
from pathlib import Path

import pytest

from ringblk.shm.platform.form import LINUX
from tests.rigs.doctor import PROGRAM, run_doctor
from tests.rigs.engine_rig import (
    DEADLINE_S,
    MEMORY,
    Engine,
    RawFrontend,
    RawQueue,
    eventually,
    own_lines,
    run_program,
)
from tests.rigs.inline_device import IN, OK, OUT
from tests.rigs.many_drives import ManyDrives
from tests.rigs.mock_driver import MockDriver

pytestmark = pytest.mark.skipif(LINUX, reason="of the build with portable forms alone (test --portable)")
FORMS = "this build has portable forms alone (docs/portability.md)\n"


@pytest.mark.parametrize(
    ("options", "beginning"),
    [
        (["--kind=fs", "--shared-dir=/", "--tag=t"], "--shared-dir /: it takes"),
        (["--uri=nbd://localhost/disk"], "--uri nbd://localhost/disk: NBD"),
        ([*MEMORY, "--io-engine=io_uring"], "--io-engine io_uring: "),
        ([*MEMORY, "--io-engine=io_uring_inline"], "--io-engine io_uring_inline: "),
        ([*MEMORY, "--sandbox=on"], "--sandbox on: "),
    ],
)
def test_options_of_linux(tmp_path: Path, options: list[str], beginning: str) -> None:
    done = run_program(f"--socket-path={tmp_path / 's'}", *options)
    assert own_lines(done).startswith(f"vhost-user-ringblk: {beginning}")
    assert own_lines(done).endswith(FORMS)
    assert own_lines(done).count("\n") == 1
    assert done.returncode == 1
    file = tmp_path / "engine.json"
    named = dict(option.removeprefix("--").replace("-", "_").split("=", 1) for option in options)
    if "backend_arg" in named:
        named["backend_arg"] = dict([named["backend_arg"].split("=")])  # type: ignore[assignment]
    file.write_text(json.dumps({"drives": {"a": {"socket_path": str(tmp_path / "s"), **named}}}))
    listed = run_program(f"--config={file}")
    assert own_lines(listed).count("\n") == 1
    field = beginning.removeprefix("--").replace("io-engine", "io_engine").replace("shared-dir", "shared_dir")
    assert f"drive a: {field}" in own_lines(listed)
    assert listed.returncode == 1


def test_direct_io_is_refused_or_done_without(image: Path, tmp_path: Path) -> None:
    where = (f"--socket-path={tmp_path / 's'}", f"--blk-file={image}")
    done = run_program(*where, "--direct=on")
    assert own_lines(done) == (
        f"vhost-user-ringblk: --blk-file {image}: can't have direct I/O:"
        " no I/O past the page cache in this build\n"
    )
    with Engine(f"--blk-file={image}", "--direct=auto") as engine:
        assert "WARNING" not in engine.log()  # of what this build never has
        (line,) = (line for line in engine.log().splitlines() if f" {image}, " in line)
        assert "not direct (refused: no I/O past the page cache in this build)" in line
        assert line.endswith("sandbox off (none in this build)")


def test_the_program_for_shared_folders(tmp_path: Path) -> None:
    program = (str(Path(PROGRAM).with_name("vhost-user-ringblk-fs")),)
    options = (f"--socket-path={tmp_path / 's'}", f"--shared-dir={tmp_path}", "--tag=t")
    done = run_program(*options, program=program)
    assert own_lines(done).startswith(f"vhost-user-ringblk-fs: --shared-dir {tmp_path}: ")
    assert own_lines(done).count("\n") == 1
    assert done.returncode == 1


def test_a_control_group_that_is_none(tmp_path: Path) -> None:
    done = run_program(f"--socket-path={tmp_path / 's'}", *MEMORY, f"--cgroup={tmp_path}")
    assert own_lines(done) == (
        f"vhost-user-ringblk: --cgroup {tmp_path}: no folder of cgroup v2: it has no cgroup.procs\n"
    )


def test_a_drive_that_comes_later_and_an_upgrade() -> None:
    with ManyDrives({"a": {}}) as engine:
        asked = {"drive_id": "b", "socket_path": str(engine.folder / "b"), "blk_file": "x", "sandbox": "on"}
        status, answer = engine.control.ask("PUT", "/drives/b", asked)
        assert status == 400
        assert answer["error"].endswith(FORMS.rstrip())
        status, answer = engine.control.ask("POST", "/upgrade")
        assert status == 409
        assert "in the portable forms drives end with it" in answer["error"]


def test_the_doctor_asks_for_nothing_of_linux() -> None:
    status, found = run_doctor()
    assert status == 0
    states = {name: check.state for name, check in found[None].items()}
    assert states["system"] == "warning"
    assert {state for name, state in states.items() if name != "system"} == {"ok"}


class PipeQueue(RawQueue):
    """A queue whose wake-ups are pipes: the engine has the reading end of one, and the other of the other."""

    def __init__(self, driver: MockDriver) -> None:
        super().__init__(driver)
        for fd in (self.kick_fd, self.call_fd):
            os.close(fd)
        self.kick_fd, self._kicks = os.pipe()
        self._calls, self.call_fd = os.pipe()

    def kick(self) -> None:
        os.write(self._kicks, (1).to_bytes(8, "little"))

    def wait_used(self, count: int) -> list[tuple[int, int]]:
        used = self.driver.used()
        while len(used) < count:
            assert select.select([self._calls], [], [], DEADLINE_S)[0], f"{len(used)} of {count} came back"
            assert len(os.read(self._calls, 512)) % 8 == 0
            used += self.driver.used()
        return used

    def close(self) -> None:
        super().close()
        for fd in (self._kicks, self._calls):
            os.close(fd)


@pytest.mark.parametrize("io_engine", ["psync", "sync"])
def test_pipes_for_kicks_and_calls(image: Path, io_engine: str) -> None:
    data = bytes(range(256)) * 2
    with Engine(f"--blk-file={image}", f"--io-engine={io_engine}") as engine:
        for round_index in range(3):  # sessions, each with pipes of its own, which close with it
            with RawFrontend(engine) as frontend:
                frontend.queues[0].close()
                frontend.queues[0] = PipeQueue(frontend.queues[0].driver)
                queue = frontend.set_up().queues[0]
                for sector in range(100):
                    assert queue.request(OUT, sector, data=data)[0] == OK
                assert queue.request(IN, round_index, read_bytes=512) == (OK, data)


def test_a_call_to_nobody_is_no_fault(image: Path) -> None:
    """The front end has closed its end of the call's pipe: its requests are carried out all the same."""
    with Engine(f"--blk-file={image}") as engine, RawFrontend(engine) as frontend:
        frontend.queues[0].close()
        queue = PipeQueue(frontend.queues[0].driver)
        frontend.queues[0] = queue
        frontend.set_up()
        assert queue.request(OUT, 1, data=b"1" * 512)[0] == OK
        os.close(queue._calls)
        queue._calls = os.dup(queue._kicks)
        queue.offer(OUT, 2, data=b"2" * 512)
        eventually(lambda: queue.driver.used(), "the request")
