"""Children of the supervisor, as it watches them."""

import asyncio
import errno
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from ringblk.engine.supervisor import process_parent
from ringblk.engine.supervisor.child import Child
from ringblk.engine.supervisor.own_forks import OwnProcess, fork_from_here
from ringblk.shm.platform.descriptors import open_descriptors
from ringblk.shm.sync.channel import Channel
from tests.rigs.engine_rig import DEADLINE_S


def forked(body: Callable[[Channel[Any]], None]) -> Child[int]:
    """A child that does this and ends well."""
    ours, theirs = Channel.socketpair()

    def live() -> None:
        body(Channel(theirs, int))
        os._exit(0)

    try:
        process: OwnProcess = fork_from_here("rb-test", live, {theirs.fileno()})
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return Child("rb-test", process, Channel(ours, int))


async def lived(body: Callable[[Channel[Any]], None]) -> tuple[list[int], int | None]:
    """What a child that does this has sent, and how it ended."""
    ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
    heard: list[int] = []
    child = forked(body)
    child.watch(lambda _, status: ended.set_result(status), heard.append)
    return heard, await asyncio.wait_for(ended, DEADLINE_S)


def test_all_that_a_child_sent_is_heard_before_its_end() -> None:
    def body(channel: Channel[Any]) -> None:
        for number in range(3):
            channel.send(number)

    assert asyncio.run(lived(body)) == ([0, 1, 2], 0)


def test_a_child_that_sends_what_is_no_message_is_killed() -> None:
    def body(channel: Channel[Any]) -> None:
        channel.send(1)
        channel.send("no number")
        while True:
            signal.pause()

    heard, status = asyncio.run(lived(body))
    assert heard == [1]
    assert status is not None
    assert os.WTERMSIG(status) == signal.SIGKILL


def test_a_child_that_cannot_be_watched_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    pids: list[int] = []

    def no_more(pid: int) -> int:
        pids.append(pid)
        raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))

    monkeypatch.setattr(process_parent, "watch_process", no_more)
    before = open_descriptors()
    with pytest.raises(OSError, match="Too many open files in system"):
        forked(lambda channel: signal.pause())
    assert open_descriptors() == before
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_a_child_may_end_before_it_is_killed_for_what_it_sent() -> None:
    heard, status = asyncio.run(lived(lambda channel: channel.send("no number")))
    assert heard == []
    assert status in (0, signal.SIGKILL)
