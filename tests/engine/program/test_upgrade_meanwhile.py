"""Upgrades of an engine that has something in hand.

Fault model: a merge, snapshots and resets, and a write that hangs, while it is upgraded; a service manager.
"""

import contextlib
import random
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.rigs.engine_rig import DEADLINE_S, PROGRAM, eventually
from tests.rigs.many_drives import DISK_BYTES, ManyDrives, Settings
from tests.rigs.stalling_file import stalling_file

BLOCK = b"w" * 4096
RINGBLK = str(Path(PROGRAM).with_name("ringblk"))
LARGE_BYTES = 4 << 20


def upgrade(engine: ManyDrives, *options: str) -> subprocess.CompletedProcess[str]:
    command = [RINGBLK, "upgrade", f"--control={engine.control.socket_path}", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_merge_goes_on_in_the_next_program(tmp_path: Path) -> None:
    """It is begun anew there, at the rate that was set, and its drive reads the same all the time."""
    base, content = tmp_path / "base", random.Random(4).randbytes(LARGE_BYTES)
    base.write_bytes(content)
    drives = {"vm1": {"base": str(base), "overlay": str(tmp_path / "layers")}}
    with ManyDrives(drives) as engine, engine.frontend("vm1", memory_size_bytes=16 << 20) as disk:
        disk.write(0, BLOCK)

        def job() -> Any:
            return engine.control.get("/drives/vm1")["state"].get("job")

        engine.control.change("/drives/vm1/job", bps=1 << 16)
        assert engine.control.ask("POST", "/drives/vm1/flatten")[0] == 200
        eventually(lambda: job()["copied_bytes"] > 0, "its beginning")
        done = upgrade(engine)
        assert (done.returncode, done.stderr) == (0, "")
        assert (job()["kind"], job()["bps"], job()["error"]) == ("flatten", 1 << 16, "")
        disk.write(4096, BLOCK)
        engine.control.change("/drives/vm1/job", bps=0)
        eventually(lambda: job() is None, "its end")
        base.write_bytes(b"nothing of this is read any more")
        assert disk.read(0, LARGE_BYTES) == BLOCK * 2 + content[8192:]
        assert "Traceback" not in engine.log()


def test_snapshots_and_resets_are_answered(tmp_path: Path) -> None:
    """Each is carried out as a whole before the upgrade or behind it, while a front end is served."""
    base = tmp_path / "base"
    base.write_bytes(bytes(1 << 16))
    drives = {"vm1": {"base": str(base), "overlay": str(tmp_path / "layers")}}
    with ManyDrives(drives) as engine, engine.frontend("vm1") as disk:
        upgraded = threading.Event()
        answers: list[int] = []

        def change() -> None:
            for number in range(60):
                if upgraded.is_set():
                    return
                body: dict[str, object] = {"name": f"s{number}"}
                answers.append(engine.control.ask("POST", "/drives/vm1/snapshots", body)[0])
                body = {"snapshot": f"s{number}", "force": True}
                answers.append(engine.control.ask("POST", "/drives/vm1/reset", body)[0])
                disk.write(0, number.to_bytes(2, "little") * 256)

        with ThreadPoolExecutor(1) as threads:
            changing = threads.submit(change)
            try:
                done = upgrade(engine)
                assert (done.returncode, done.stderr) == (0, "")
            finally:
                upgraded.set()
            changing.result()
        assert set(answers) <= {200, 201}
        assert "Traceback" not in engine.log()


def test_the_service_manager_is_told_again(tmp_path: Path) -> None:
    """The process stays its main one: what it hears is that the next program is ready."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(DEADLINE_S)
        program = ("env", f"NOTIFY_SOCKET={tmp_path / 'notify'}", PROGRAM)
        with ManyDrives({"vm1": {}}, program=program) as engine, engine.frontend("vm1") as disk:
            heard = [manager.recv(4096).decode()]
            while heard[-1].startswith("FDSTORE=1"):  # its sockets
                heard.append(manager.recv(4096).decode())
            assert heard[-1] == "READY=1\nSTATUS=1 drive, 0 front ends"
            disk.write(0, BLOCK)
            pid = engine.pid
            heard = []
            assert upgrade(engine).returncode == 0
            while not heard or not heard[-1].startswith("READY=1"):
                heard.append(manager.recv(4096).decode())
            assert not any("STOPPING" in each for each in heard)
            assert engine.find_control_plane()
            assert engine.pid == pid
            assert disk.read(0, 4096) == BLOCK
            disk.close()
            assert engine.end() == 0
            while not heard[-1].startswith("STOPPING=1"):
                heard.append(manager.recv(4096).decode())


IMPATIENT = """
from ringblk.engine.program.cli import backend_program
from ringblk.engine.supervisor import drive_processes
drive_processes.RENEW_S = 0.1
backend_program()
"""


def test_a_drive_whose_disk_hangs_is_named_and_the_rest_done_later(tmp_path: Path) -> None:
    """Fault: a write hangs in a worker. Drives before it are done, those behind were not tried."""
    names = ("vm1", "vm2", "vm3")
    with stalling_file(tmp_path, DISK_BYTES) as file:
        drives: dict[str, Settings] = {name: {} for name in names}
        drives["vm2"] = {"blk_file": str(file.path), "io_engine": "psync"}
        program = [sys.executable, "-c", IMPATIENT]
        with ManyDrives(drives, program=program) as engine, contextlib.ExitStack() as stack:
            disks = [stack.enter_context(engine.frontend(name)) for name in names]
            for disk in disks:
                disk.write(0, BLOCK)
            assert upgrade(engine, "--control-plane-only").returncode == 0
            file.stall()
            token = disks[1].submit_write(4096, disks[1].allocate(4096, 4096))
            disks[1].submit()
            eventually(lambda: file.held_offsets == [4096], "the write that hangs")
            done = upgrade(engine, "--drives-only", "--at-once=1")
            assert (done.returncode, done.stdout) == (1, "vm1: upgraded\n")
            assert "vm2: its workers hold requests that have not ended in 0.1 s" in done.stderr
            assert "1 of 3 drives upgraded, 1 not tried" in done.stderr
            file.go_on()
            (completion,) = disks[1].poll(1, DEADLINE_S)
            assert (completion.token, completion.status) == (token, 0)
            done = upgrade(engine, "--drives-only")
            assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "2 drives upgraded")
            for disk in disks:
                assert disk.read(0, 4096) == BLOCK
            assert "Traceback" not in engine.log()
