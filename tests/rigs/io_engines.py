"""The I/O engines that the build has: the portable forms have no io_uring (docs/portability.md)."""

from ringblk.shm.platform.form import LINUX


def of_this_build(*names: str) -> tuple[str, ...]:
    """Those of these values of `--io-engine` that are served; one that is repeated is so often drawn."""
    return names if LINUX else tuple(name for name in names if not name.startswith("io_uring"))
