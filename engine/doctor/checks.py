"""All checks: one table for the host, one for each image or folder, some for storage elsewhere."""

from collections.abc import Iterator, Sequence

import msgspec

from ringblk.engine.doctor.check import CheckResult
from ringblk.engine.doctor.host_checks import (
    HostCheck,
    Need,
    check_cores,
    check_engines,
    check_huge_pages,
    check_io_uring,
    check_locked_memory,
    check_memfd,
    check_open_files,
    check_pidfd,
    check_shared_memory,
)
from ringblk.engine.doctor.image_checks import check_path
from ringblk.engine.doctor.login_checks import check_remove_ipc
from ringblk.engine.doctor.sandbox_checks import check_landlock, check_sandbox, check_seccomp
from ringblk.engine.doctor.server_checks import check_server, is_uri
from ringblk.engine.doctor.source_checks import check_source, is_source_uri
from ringblk.engine.doctor.system_checks import check_forms, check_watching
from ringblk.shm.platform.abilities import HAS_ALL

ALL_CHECKS: tuple[HostCheck, ...] = (
    check_pidfd,
    check_memfd,
    check_shared_memory,
    check_open_files,
    check_io_uring,
    check_locked_memory,
    check_landlock,
    check_seccomp,
    check_sandbox,
    check_cores,
    check_huge_pages,
    check_remove_ipc,
    check_engines,
)
PORTABLE_CHECKS: tuple[HostCheck, ...] = (
    check_forms,
    check_watching,
    check_shared_memory,
    check_open_files,
    check_cores,
    check_engines,
)
HOST_CHECKS = ALL_CHECKS if HAS_ALL else PORTABLE_CHECKS


class Findings(msgspec.Struct, frozen=True):
    """What was found in one place: on the host (no path), or of an image or folder."""

    path: str | None
    checks: list[CheckResult]

    @property
    def has_failed(self) -> bool:
        """Whether a drive would not start."""
        return any(check.state == "failure" for check in self.checks)


def examine(need: Need, paths: Sequence[str], *, read_only: bool) -> Iterator[Findings]:
    """The host, then each path or URI."""
    yield Findings(None, [check(need) for check in HOST_CHECKS])
    for path in paths:
        if is_source_uri(path):
            yield Findings(path, check_source(path))
            continue
        check = check_server if is_uri(path) else check_path
        yield Findings(path, check(path, read_only=read_only))
