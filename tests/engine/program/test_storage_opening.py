"""Storage that hangs when it is opened, while others are served: nobody waits for it but who has asked.

Fault model: a file system takes the request to open an image, or an overlay's base, and does not answer it,
so that who opens it cannot even be killed; a process that opens an image, or waits for the next, is killed; a
disk does not take what is written to it at a drive's end.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.drives.drives import DriveBusy
from ringblk.engine.drives.storage import save_storage
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.engine.program import opener
from ringblk.engine.program.opener import Opener
from ringblk.engine.program.storage_opening import OPENER_LIMIT, StorageOpeners
from ringblk.shm.platform.process import signal_process
from ringblk.workers.backends.memory import MemoryBackend
from tests.rigs.engine_rig import DEADLINE_S
from tests.rigs.many_drives import DISK_BYTES, ManyDrives
from tests.rigs.stalling_file import StallingFile, stalling_file


@pytest.fixture
def hung(tmp_path: Path) -> Iterator[StallingFile]:
    with stalling_file(tmp_path, DISK_BYTES) as file:
        file.stall_opening()
        yield file


class Putting(threading.Thread):
    """PUTs a drive; `answer` is what came of it, None where the connection was closed."""

    def __init__(self, engine: ManyDrives, name: str, **settings: object) -> None:
        super().__init__()
        self._engine, self._name, self._settings = engine, name, settings
        self.answer: tuple[int, Any] | None = None
        self.start()

    def run(self) -> None:
        try:
            self.answer = self._engine.put(self._name, **self._settings)
        except OSError:
            self.answer = None


@pytest.fixture(params=["image", "base"])
def settings(request: pytest.FixtureRequest, hung: StallingFile, tmp_path: Path) -> dict[str, str]:
    """Of a drive that hangs when it is opened."""
    if request.param == "image":
        return {"blk_file": str(hung.path)}
    return {"base": str(hung.path), "overlay": str(tmp_path / "overlay")}


def test_the_others_are_served_meanwhile(hung: StallingFile, settings: dict[str, str]) -> None:
    with ManyDrives({}) as engine:
        putting = Putting(engine, "hangs", **settings)
        hung.wait_for(lambda: hung.held_opening_count > 0)
        assert engine.put("vm1")[0] == 201
        with engine.frontend("vm1") as disk:
            disk.write(0, b"a" * 512)
        drives = engine.control.get("/drives")["drives"]
        assert {name: drive["state"]["state"] for name, drive in drives.items()} == {
            "hangs": "starting",
            "vm1": "running",
        }
        status, answer = engine.delete("hangs")
        assert (status, b"is being started" in answer) == (409, True)
        assert engine.put("hangs", **settings)[0] == 409
        assert engine.delete("vm1")[0] == 204
        hung.go_on()
        putting.join()
        assert putting.answer is not None
        assert putting.answer[0] == 201, putting.answer
        with engine.frontend("hangs") as disk:
            disk.write(0, b"h" * 512)
            assert disk.read(0, 512) == b"h" * 512
        assert engine.delete("hangs")[0] == 204
        assert engine.end() == 0


def test_an_engine_ends_without_what_hangs(hung: StallingFile, settings: dict[str, str]) -> None:
    with ManyDrives({"vm1": {}}) as engine:
        putting = Putting(engine, "hangs", **settings)
        hung.wait_for(lambda: hung.held_opening_count > 0)
        os.kill(engine.pid, signal.SIGTERM)
        assert engine.process.wait(DEADLINE_S) == 0
        putting.join()
        assert putting.answer is None or (putting.answer[0], putting.answer[1]["error"]) == (
            409,
            "the engine ends",
        )
        assert engine.segments() == []
        with ManyDrives({"vm1": {}}, after=engine, gone=["hangs"]) as successor:
            assert list(successor.control.get("/drives")["drives"]) == ["vm1"]
            hung.go_on()  # who hangs cannot be killed, and the rigs wait for all processes' ends


def config_of(path: Path) -> DriveConfig:
    return DriveConfig(socket_path="/nowhere", blk_file=str(path))


def test_it_is_given_up_and_not_tried_again_until_it_has_ended(hung: StallingFile, tmp_path: Path) -> None:
    other = tmp_path / "other.img"
    other.write_bytes(bytes(DISK_BYTES))

    async def run() -> None:
        openers = StorageOpeners(open_s=0.2)
        with pytest.raises(ProgramError, match=rf"{hung.path}: cannot be opened within 0\.2 s"):
            await openers.open(config_of(hung.path))
        with pytest.raises(ProgramError, match=rf"{hung.path}: process \d+, .* hangs still"):
            await openers.open(config_of(hung.path))
        (await openers.open(config_of(other))).backend.close()
        hung.go_on()
        while hung_pids(openers):
            await asyncio.sleep(0)
        opened = await openers.open(config_of(hung.path))
        assert opened.backend.size_bytes == DISK_BYTES
        opened.backend.close()

    asyncio.run(run())


def hung_pids(openers: StorageOpeners) -> list[int]:
    return list(openers._hanging.values())


def test_a_wait_that_is_cancelled_ends_the_process(hung: StallingFile) -> None:
    async def run() -> None:
        openers = StorageOpeners()
        opening = asyncio.get_running_loop().create_task(openers.open(config_of(hung.path)))
        while not hung.held_opening_count:
            await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        (pid,) = hung_pids(openers)
        hung.go_on()
        while hung_pids(openers):
            await asyncio.sleep(0)
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)

    asyncio.run(run())


def test_only_so_many_at_once(hung: StallingFile) -> None:
    async def run() -> None:
        openers = StorageOpeners()
        loop = asyncio.get_running_loop()
        openings = [
            loop.create_task(openers.open(config_of(hung.path.parent / ("./" * count) / hung.path.name)))
            for count in range(OPENER_LIMIT)
        ]
        while len(openers._waited_for) < OPENER_LIMIT:
            await asyncio.sleep(0)
        with pytest.raises(DriveBusy, match=f"{OPENER_LIMIT} drives are being opened"):
            await openers.open(config_of(hung.path))
        hung.go_on()
        for opened in await asyncio.gather(*openings):
            opened.backend.close()

    asyncio.run(run())


def test_a_process_that_ends_before_it_has_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opener, "open_here", lambda config, is_sole: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(ProgramError, match="was to open the storage ended killed by SIGKILL"):
        asyncio.run(StorageOpeners().open(config_of(tmp_path / "disk.img")))


def test_one_process_opens_one_after_the_other(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(DISK_BYTES))
    layered = DriveConfig(socket_path="/nowhere", base=str(image), overlay=str(tmp_path / "overlay"))

    async def run() -> None:
        openers = StorageOpeners()
        assert (await idle_opener(openers, config_of(image), None)) == DISK_BYTES
        first = openers._idle
        assert first is not None
        for config in (layered, layered, config_of(image)):
            assert (await idle_opener(openers, config, first)) == DISK_BYTES
        with pytest.raises(ProgramError, match="No such file or directory"):
            await openers.open(config_of(tmp_path / "none.img"))
        await until(lambda: openers._idle is first)
        signal_process(first.process.pidfd, first.process.pid, signal.SIGKILL)
        assert (await idle_opener(openers, config_of(image), None)) == DISK_BYTES
        second = openers._idle
        assert second is not None
        assert second is not first
        openers.end_idle()
        for each in (first, second):
            with pytest.raises(ChildProcessError):
                os.waitpid(each.process.pid, os.WNOHANG)

    asyncio.run(run())


async def idle_opener(openers: StorageOpeners, config: DriveConfig, expected: Opener | None) -> int:
    """Open and claim it, and wait until its process is ready for the next: the size."""
    opened = await openers.open(config)
    if (lock := opened.backend.image_lock()) is not None:
        lock.lock()
    await until(lambda: openers._idle is expected if expected else openers._idle is not None)
    size_bytes = opened.backend.size_bytes
    opened.backend.close()
    return size_bytes


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.001)


def test_one_that_has_nothing_to_do_ends(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(DISK_BYTES))

    async def run() -> None:
        openers = StorageOpeners(idle_s=0.0)
        (await openers.open(config_of(image))).backend.close()
        await until(lambda: not openers._ended)

    asyncio.run(run())


class SlowToSave(MemoryBackend):
    """What closing it waits for takes as long as it is told to."""

    def __init__(self) -> None:
        super().__init__(DISK_BYTES)
        self.is_to_go_on = threading.Event()

    @property
    def saves_at_close(self) -> bool:
        return True

    def save(self) -> None:
        self.is_to_go_on.wait()


def test_a_disk_that_hangs_at_a_drives_end_holds_up_nobody() -> None:
    async def run() -> None:
        backend = SlowToSave()
        assert not await save_storage(backend, save_s=0.01)
        backend.is_to_go_on.set()
        assert await save_storage(backend)

    asyncio.run(run())


def test_what_is_wrong_with_an_image_is_said_as_at_the_start(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"

    async def refusal() -> str:
        with pytest.raises(ProgramError) as refused:
            await StorageOpeners().open(config_of(image))
        assert refused.value.exit_status == 1
        return str(refused.value)

    assert asyncio.run(refusal()) == f"--blk-file {image}: can't open it: No such file or directory"
    image.write_bytes(b"")
    assert asyncio.run(refusal()) == f"--blk-file {image}: is empty"
    image.write_bytes(b"QFI\xfb" + bytes(DISK_BYTES))
    assert "this is a qcow2 file" in asyncio.run(refusal())
