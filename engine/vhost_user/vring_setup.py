"""One ring as a front end sets it up, piece by piece (vhost-user, "Ring states")."""

from typing import Literal, TypeAlias

from ringblk.engine.devices.vring import Vring
from ringblk.engine.vhost_user.codes import VRING_F_LOG
from ringblk.engine.vhost_user.fd_set import HeldFd, close_held, handle_of
from ringblk.engine.vhost_user.messages import VringAddress
from ringblk.engine.vhost_user.session_keeper import FdsByHandle, KeptVring, take_held

# Alignment of the three parts of a split ring in bytes (virtio 1.2, 2.7).
_DESC_ALIGN_BYTES = 16
_AVAIL_ALIGN_BYTES = 2
_USED_ALIGN_BYTES = 4


def address_fault(address: VringAddress) -> str | None:
    """What is wrong with a ring's addresses, or None."""
    if address.flags & ~VRING_F_LOG:
        return f"vring flags {address.flags:#x} are not on offer"
    for name, uva, align_bytes in (
        ("descriptor table", address.desc_uva, _DESC_ALIGN_BYTES),
        ("available ring", address.avail_uva, _AVAIL_ALIGN_BYTES),
        ("used ring", address.used_uva, _USED_ALIGN_BYTES),
    ):
        if uva % align_bytes:
            return f"{name} at {uva:#x} is not aligned to {align_bytes} bytes"
    return None


FdKind: TypeAlias = Literal["kick", "call", "err"]


class VringSetup:
    """What the front end has said about one ring so far. Owns the ring's fds."""

    def __init__(self, queue_index: int) -> None:
        self.queue_index = queue_index
        self.queue_size: int | None = None
        self.address: VringAddress | None = None
        self.base = 0
        self.has_kick = False  # a kick fd, or the word that the ring is to be polled
        self.enabled = False
        self.running = False
        self._fds: dict[FdKind, HeldFd | None] = {"kick": None, "call": None, "err": None}

    @classmethod
    def resume(cls, queue_index: int, kept: KeptVring, fds: FdsByHandle) -> "VringSetup":
        """The set-up as it was kept, with its descriptors out of `fds`."""
        setup = cls(queue_index)
        setup.queue_size, setup.address, setup.base = kept.queue_size, kept.address, kept.base
        setup.has_kick, setup.enabled, setup.running = kept.has_kick, kept.enabled, kept.running
        handles: dict[FdKind, int | None] = {"kick": kept.kick, "call": kept.call, "err": kept.err}
        setup._fds = {kind: take_held(fds, handle) for kind, handle in handles.items()}
        return setup

    def kept(self) -> KeptVring:
        """What is to be kept of it."""
        return KeptVring(
            self.queue_size,
            self.address,
            self.base,
            self.has_kick,
            self.enabled,
            self.running,
            *map(handle_of, self._fds.values()),
        )

    @property
    def is_ready(self) -> bool:
        """It has size, addresses and kick, and is enabled."""
        return self.queue_size is not None and self.address is not None and self.has_kick and self.enabled

    def is_at(self, address: VringAddress) -> bool:
        """Whether its parts lie there."""
        return self.address is not None and (
            (address.desc_uva, address.avail_uva, address.used_uva)
            == (self.address.desc_uva, self.address.avail_uva, self.address.used_uva)
        )

    def replace_fd(self, kind: FdKind, fd: HeldFd | None) -> HeldFd | None:
        """Put `fd` in place; the old one is the caller's to close."""
        old_fd, self._fds[kind] = self._fds[kind], fd
        return old_fd

    def describe(self) -> Vring:
        """The ring as a device wants it; only a ring that is ready or runs can be described."""
        assert self.queue_size is not None
        assert self.address is not None
        return Vring(
            queue_index=self.queue_index,
            queue_size=self.queue_size,
            desc_uva=self.address.desc_uva,
            avail_uva=self.address.avail_uva,
            used_uva=self.address.used_uva,
            base=self.base,
            kick_fd=self._fd("kick"),
            call_fd=self._fd("call"),
            err_fd=self._fd("err"),
            log_gpa=self.address.log_gpa if self.address.flags & VRING_F_LOG else None,
        )

    def _fd(self, kind: FdKind) -> int | None:
        held = self._fds[kind]
        return None if held is None else held.fd

    def mark_stopped(self, next_avail: int) -> None:
        """The device has stopped it: only a new kick starts it again, from where it was."""
        self.running = False
        self.base = next_avail
        self.has_kick = False
        close_held(self.replace_fd("kick", None))

    def clear(self) -> None:
        """Back to the initial state, but for call and err fd: front ends do not send those again."""
        self.mark_stopped(0)
        self.queue_size = None
        self.address = None
        self.enabled = False

    def close(self) -> None:
        """Close the ring's fds. May be called again."""
        for kind in self._fds:
            close_held(self.replace_fd(kind, None))
