"""Children of the supervisor, as it watches them."""

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

from ringblk.engine.child import Child, fork_child
from ringblk.shm.channel import Channel

from .engine_rig import DEADLINE_S


async def lived(body: Callable[[Channel[Any]], None]) -> tuple[list[int], int]:
    """What a child that does this has sent, and how it ended."""
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    heard: list[int] = []
    child: Child[int] = fork_child("rb-test", body, int, int, ())
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
    assert os.WTERMSIG(status) == signal.SIGKILL


def test_a_child_may_end_before_it_is_killed_for_what_it_sent() -> None:
    heard, status = asyncio.run(lived(lambda channel: channel.send("no number")))
    assert heard == []
    assert status in (0, signal.SIGKILL)
