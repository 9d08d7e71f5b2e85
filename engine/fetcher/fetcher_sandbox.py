"""What the fetcher may do: the files of its host's cache, and the port of its source."""

import logging
from collections.abc import Sequence

from ringblk.shm.platform.abilities import HAS_SANDBOX
from ringblk.workers.sandbox.sandbox import Sandbox

_log = logging.getLogger(__name__)

NETWORK_CALLS = "socket connect accept4 bind listen"


def confine(folder: str, ports: Sequence[int]) -> None:
    """Hold this process to that, for good, as far as the kernel can. It has one thread. Raises `OSError`."""
    sandbox = Sandbox(
        confines=True,
        runs_user_code=True,  # an interpreter in full, and its libraries
        storage_calls=NETWORK_CALLS,
        allowed_paths=[folder],
        allowed_ports=ports,
    )
    if sandbox.missing and HAS_SANDBOX:
        _log.warning("sandbox: this kernel has no %s; going on without", " and no ".join(sandbox.missing))
    confinement = sandbox.confinement()
    confinement.privileges.drop()
    confinement.confine(sandbox.ruleset_fd)
