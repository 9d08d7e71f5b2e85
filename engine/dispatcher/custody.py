"""What a dispatcher keeps for its control plane, so that another can go on should that one die.

A dispatcher understands nothing of it: descriptors by handle, and bytes, in parts. A part changes with one
message, so it is as it was before that message or after it, never in between.
"""

import os
from collections.abc import Sequence
from typing import Any

from ringblk.engine.dispatcher.messages import AllKept, KeptFds, KeptState
from ringblk.shm.sync.channel import Channel, in_messages


class Custody:
    """Parts by name."""

    def __init__(self) -> None:
        self._fds: dict[str, dict[int, int]] = {}  # part -> handle -> descriptor
        self._states: dict[str, bytes] = {}
        self._lifelines: dict[str, int] = {}  # handles

    def has(self, part: str) -> bool:
        """Whether there is this part."""
        return part in self._states

    def keep_fds(self, part: str, handles: Sequence[int], fds: Sequence[int]) -> None:
        """Have these besides, which are the custody's from then on. A handle that is known is told again."""
        kept = self._fds.setdefault(part, {})
        for handle, fd in zip(handles, fds, strict=True):
            if handle in kept:
                os.close(kept[handle])
            kept[handle] = fd

    def lifeline_fd(self, part: str) -> int:
        """The connection that the part is kept for; -1: there is none."""
        return self._fds.get(part, {}).get(self._lifelines.get(part, 0), -1)

    def keep_state(self, part: str, data: bytes, handles: Sequence[int], lifeline: int = 0) -> None:
        """Have this as the part's state, and let go of all its descriptors but these (`KeepState`).

        Without data there is no such part any more.
        """
        self._lifelines[part] = lifeline
        kept = self._fds.get(part, {})
        for handle in kept.keys() - set(handles):
            os.close(kept.pop(handle))
        if data:
            self._states[part] = data
        else:
            self._states.pop(part, None)

    def hand_over(self, channel: Channel[Any]) -> None:
        """Tell all of it, with copies of the descriptors. Raises `ChannelClosed` and `OSError`."""
        for part, data in self._states.items():
            for few in in_messages(list(self._fds.get(part, {}).items())):
                channel.send(KeptFds([handle for handle, _ in few]), [fd for _, fd in few])
            channel.send(KeptState(part, data))
        channel.send(AllKept())
