"""The zygote in an engine: killed, stopped, and where the kernel lets nobody share an io_uring."""

import asyncio
import errno
import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from ringblk import Frontend
from ringblk.engine.supervisor import zygote_process
from ringblk.engine.supervisor.zygote_process import Zygote
from ringblk.engine.zygote.messages import WorkerRole
from ringblk.engine.zygote.restart import Restart
from ringblk.engine.zygote.zygote import ZygoteEnd, fork_zygote
from ringblk.shm.sync.channel import Channel
from ringblk.workers.backends.null import NullBackend
from ringblk.workers.sandbox.sandbox import Sandbox
from tests.rigs.engine_rig import DEADLINE_S, MEMORY, Engine, EngineWithWorkers, eventually
from tests.rigs.lacking_kernel import a_kernel_without
from tests.rigs.process_tree import ZYGOTE, children_of, parent_of, process_name, zygotes_of
from tests.rigs.zygote_rig import fork_message

BLOCK = b"z" * 4096


@pytest.mark.parametrize("io_engine", ["psync", "io_uring", "io_uring_inline", "sync"])
def test_a_guest_sees_a_pause_where_the_zygote_dies(image: Path, io_engine: str) -> None:
    """Again and again; all processes are others then."""
    options = [f"--blk-file={image}", f"--io-engine={io_engine}", "--workers=2"]
    with EngineWithWorkers(*options) as engine, Frontend(str(engine.socket_path)) as disk:
        for number in range(4):
            disk.write(number * 4096, BLOCK)
            before, zygote = engine.children(), engine.zygote()
            os.kill(zygote, signal.SIGKILL)
            assert disk.read(number * 4096, 4096) == BLOCK
            eventually(lambda: len(engine.children() - before) == len(before), "successors of all")  # noqa: B023
            assert engine.zygote() != zygote
        assert engine.log().count("the zygote died: killed by SIGKILL") == 4
        assert "the dispatcher died: nobody can say how" in engine.log()
        assert engine.end() == 0


def test_a_zygote_that_dies_of_nothing_to_do_is_replaced_when_it_is_needed() -> None:
    with Engine(*MEMORY, "--workers=1") as engine:
        children = engine.children()
        os.kill(engine.zygote(), signal.SIGKILL)
        eventually(lambda: len(engine.children() - children) == len(children), "successors")
        with Frontend(str(engine.socket_path)) as disk:
            disk.write(0, BLOCK)
            assert disk.read(0, 4096) == BLOCK
        children = engine.children()
        assert engine.end() == 0
        engine.assert_nothing_left(children)


def test_memory_outlives_the_zygote() -> None:
    """The supervisor has the drive's memory open as well."""
    with Engine(*MEMORY) as engine, Frontend(str(engine.socket_path)) as disk:
        disk.write(8192, BLOCK)
        os.kill(engine.zygote(), signal.SIGKILL)
        assert disk.read(8192, 4096) == BLOCK


@pytest.mark.parametrize("io_engine", ["io_uring", "io_uring_inline"])
def test_without_pidfd_getfd_the_supervisor_forks_what_has_an_io_uring(image: Path, io_engine: str) -> None:
    options = [f"--blk-file={image}", f"--io-engine={io_engine}", "--workers=1"]
    lacking = a_kernel_without("pidfd_getfd", error=errno.EPERM)
    with EngineWithWorkers(*options, prepare=lacking) as engine, Frontend(str(engine.socket_path)) as disk:
        assert "is forked from the supervisor: pidfd_getfd(2): Operation not permitted" in engine.log()
        disk.write(0, BLOCK)
        for pid in engine.children():
            os.kill(pid, signal.SIGKILL)
        assert disk.read(0, 4096) == BLOCK
        assert engine.end() == 0


# The supervisor's side alone.


def running(body: Callable[[Zygote], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        zygote = Zygote()
        try:
            await body(zygote)
        finally:
            zygote.close()

    asyncio.run(run())
    assert ZYGOTE not in map(process_name, children_of(os.getpid()))  # nor one that nobody has reaped


def ask(zygote: Zygote) -> tuple[zygote_process.ZygoteChild, Channel[Any]]:
    """Have a process forked that never begins; its other end."""
    ours, theirs = Channel.socketpair()
    message = fork_message(WorkerRole(worker_index=0), NullBackend(4096), Sandbox(confines=False))
    child = zygote.fork(message, [theirs.fileno()], ())
    theirs.close()
    return child, Channel(ours, None)


async def end_of(child: zygote_process.ZygoteChild) -> int | None:
    """Its wait status, once its pidfd says that it has ended."""
    loop = asyncio.get_running_loop()
    readable, status = asyncio.Event(), loop.create_future()
    loop.add_reader(child.pidfd, readable.set)
    await asyncio.wait_for(readable.wait(), DEADLINE_S)
    loop.remove_reader(child.pidfd)
    child.when_reaped(status.set_result)
    result: int | None = await asyncio.wait_for(status, DEADLINE_S)
    os.close(child.pidfd)
    return result


def test_it_tells_how_each_child_has_ended() -> None:
    async def body(zygote: Zygote) -> None:
        children = [ask(zygote) for _ in range(3)]
        for number, (child, channel) in zip((signal.SIGKILL, signal.SIGUSR1, 0), children, strict=True):
            if number:
                os.kill(child.pid, number)
            channel.close()  # the third has nobody any more who would tell it something
            assert await end_of(child) == number

    running(body)


def test_a_child_of_another_supervisor_is_adopted() -> None:
    """One that lives is watched as any; one that has ended is over, whether its end was told of or not."""

    async def body(zygote: Zygote) -> None:
        living, ended = ask(zygote), ask(zygote)
        os.kill(ended[0].pid, signal.SIGKILL)
        assert await end_of(ended[0]) == signal.SIGKILL
        pidfd = os.dup(living[0].pidfd)
        zygote.left_pid = parent_of(living[0].pid)
        following = zygote.adopt(living[0].pid, pidfd, None, -1)
        os.kill(following.pid, signal.SIGKILL)
        assert await end_of(following) == signal.SIGKILL
        over = zygote.adopt(following.pid, living[0].pidfd, None, -1)
        assert await end_of(over) is None
        for _, channel in (living, ended):
            channel.close()
        child, channel = ask(zygote)
        zygote._living.clear()  # as where a supervisor before this one has asked for it
        os.kill(child.pid, signal.SIGKILL)
        another, other_channel = ask(zygote)  # the end of one that nobody knows is passed over
        for each in (channel, other_channel):
            each.close()
        assert await end_of(another) == 0

    running(body)


def test_a_zygote_that_does_not_run_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zygote_process, "ANSWER_TIMEOUT_S", 3.0)

    async def body(zygote: Zygote) -> None:
        first, channel = ask(zygote)
        (pid,) = zygotes_of(os.getpid())
        os.kill(pid, signal.SIGSTOP)
        second, other_channel = ask(zygote)
        assert zygotes_of(os.getpid()) != [pid]
        assert await end_of(first) is None
        other_channel.close()
        assert await end_of(second) == 0
        channel.close()

    running(body)


def test_zygotes_that_die_each_time_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def fork_dying(restart: Restart | None) -> ZygoteEnd:
        end = fork_zygote(restart)
        os.kill(end.pid, signal.SIGKILL)
        return end

    monkeypatch.setattr(zygote_process, "fork_zygote", fork_dying)

    async def body(zygote: Zygote) -> None:
        with pytest.raises(OSError, match="dies each time"):
            ask(zygote)

    running(body)
