"""A snapshot of several drives at one instant."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

from ringblk.engine.drives.layers import DriveLayers
from ringblk.workers.backends.overlay_changes import OverlayChange


async def take_snapshots(drives: Sequence[DriveLayers], name: str) -> None:
    """Seal all of these drives at one instant: none of them has anything in flight then.

    Raises `ChangeRefused` and `DeviceError`. One of several that was killed meanwhile may have it, or not.
    """
    async with AsyncExitStack() as held:
        for each in drives:
            await held.enter_async_context(each.changing())
            each.check_name(name)
        former = [each.chain for each in drives]
        changes: list[OverlayChange] = []
        try:
            for each in drives:
                changes.append(await each.prepare_seal(name))
            for each, change in zip(drives, changes, strict=True):
                await each.commit(change)
        except BaseException:
            for each, chain in zip(drives, former, strict=True):
                if each.chain is not chain:
                    await each.undo(chain)
            for change in changes:
                change.abandon()
            raise
        try:
            await asyncio.gather(*(each.pause() for each in drives))
            await asyncio.gather(*(each.use(change) for each, change in zip(drives, changes, strict=True)))
        finally:
            await asyncio.gather(*(each.go_on() for each in drives))
        await asyncio.gather(*(each.settle() for each in drives))
