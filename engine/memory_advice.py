"""Why a ring cannot be reached in the memory that a front end shares, in words that say what to do."""

from collections.abc import Sequence

from ringblk.engine.device import DeviceError
from ringblk.engine.vring import Vring
from ringblk.shm.region import MemoryRegion

_SHARED = "-object memory-backend-memfd,id=mem,size=SIZE,share=on -machine memory-backend=mem"


class MemoryAdvice:
    """Refuses rings outside of the regions. The same reason counts as told until a ring starts."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def check(self, vring: Vring, regions: Sequence[MemoryRegion]) -> None:
        """Raise `DeviceError` unless each part of the ring lies within one region."""
        if not regions:
            raise self._refusal(
                "the front end shares no guest memory with this engine; to QEMU's command line add "
                f"{_SHARED} (SIZE is that of -m)"
            )
        for name, uva, size_bytes in ring_parts(vring):
            end = uva + size_bytes
            if not any(each.uva <= uva and end <= each.uva + each.size_bytes for each in regions):
                raise self._refusal(
                    f"queue {vring.queue_index}: its {name} is not within one memory region; on QEMU's "
                    "command line each memory backend needs share=on"
                )

    def forget(self) -> None:
        """A ring has started: what is refused from now on is news."""
        self._told.clear()

    def _refusal(self, reason: str) -> DeviceError:
        error = DeviceError(reason)
        error.is_told = reason in self._told
        self._told.add(reason)
        return error


def ring_parts(vring: Vring) -> tuple[tuple[str, int, int], ...]:
    """Name, address and bytes of a ring's parts, with the event words at their ends (virtio 1.2, 2.7)."""
    size = vring.queue_size
    return (
        ("descriptor table", vring.desc_uva, 16 * size),
        ("avail ring", vring.avail_uva, 6 + 2 * size),
        ("used ring", vring.used_uva, 6 + 8 * size),
    )
