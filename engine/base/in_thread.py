"""Calls that wait for a disk, beside the event loop."""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


async def in_thread(call: Callable[[], Result]) -> Result:
    """Make a call in a thread of its own, which does not keep the process from ending; raises its errors."""
    return await begin_in_thread(call)


def begin_in_thread(call: Callable[[], Result]) -> "asyncio.Future[Result]":
    """The same, begun; who gives the future up does not end the call."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()
    context = contextvars.copy_context()

    def settle(result: Result | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        try:
            outcome = context.run(call), None
        except BaseException as error:
            outcome = None, error  # type: ignore[assignment]
        try:
            loop.call_soon_threadsafe(settle, *outcome)
        except RuntimeError:  # the loop is closed: nobody waits
            return

    threading.Thread(target=run, name="ringblk-disk", daemon=True).start()
    return done
