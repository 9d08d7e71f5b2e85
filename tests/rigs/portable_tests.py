"""What a build of the portable forms lacks, and which tests are about that (docs/portability.md)."""

import pytest

_NO_DIRECT = "no I/O past the page cache"
_NO_HOLES = "no holes, and gives no shared memory back"
_LATE = "no zygote: a drive's segment is let go of when the garbage collector comes by"
_NO_BIRTH = "no birth times of files"
_NO_SANDBOX = "no sandbox"
_NO_URING = "no io_uring"
_NO_ZYGOTE = "no zygote: processes end with the control plane"
LACKING = {
    "tests/workers/sandbox/": _NO_SANDBOX,
    "tests/engine/program/test_sandbox.py": _NO_SANDBOX,
    "tests/engine/doctor/": "checks of a Linux host",
    "tests/workers/uring/": _NO_URING,
    "tests/workers/fs/": "no file handles, of which a shared folder is made",
    "tests/engine/zygote/": _NO_ZYGOTE,
    "tests/engine/supervisor/test_zygote_process.py": _NO_ZYGOTE,
    "tests/engine/supervisor/test_kept_parts.py": _NO_ZYGOTE,
    "tests/engine/dispatcher/test_control_line.py": _NO_ZYGOTE,
    "tests/engine/control/test_drives_outlive.py": _NO_ZYGOTE,
    "tests/engine/program/test_control_plane_dies.py": _NO_ZYGOTE,
    "tests/engine/program/test_not_adopted.py": _NO_ZYGOTE,
    "tests/engine/vhost_user/test_kept_socket.py": _NO_ZYGOTE,
    "tests/engine/vhost_user/test_session_marks.py": _NO_ZYGOTE,
    "tests/engine/vhost_user/test_session_machine.py": _NO_ZYGOTE,
    "tests/crash/test_kept_session.py": _NO_ZYGOTE,
    "tests/crash/test_walk_kept.py": _NO_ZYGOTE,
    "tests/crash/test_walk_control_plane.py": _NO_ZYGOTE,
    "tests/engine/control/test_drives.py::test_a_drive_that_is_refused_leaves_nothing[socket]": _LATE,
    "tests/engine/control/test_drives.py::test_rounds_": _LATE,
    "tests/engine/drives/test_settings_outlive.py::test_an_image_that_got_the_inode": _NO_BIRTH,
    "tests/workers/backends/test_file.py::test_file_system_that_refuses_direct_io": _NO_DIRECT,
    "tests/workers/backends/test_file.py::TestAlignment": _NO_DIRECT,
    "tests/workers/backends/test_file_sizes.py::test_size_that_direct_io": _NO_DIRECT,
    "tests/workers/backends/test_file_sizes.py::test_what_is_no_whole_block": _NO_DIRECT,
    "tests/workers/backends/test_file_sizes.py::test_blocks_of_a_file_whose": _NO_DIRECT,
    "tests/workers/backends/test_backends.py::test_loop_device": _NO_DIRECT,
    "tests/workers/block/test_requests.py::test_direct_io": _NO_DIRECT,
    "tests/workers/backends/test_file.py::test_file_system_that_is_full": _NO_HOLES,
    "tests/workers/backends/test_file.py::test_discard_gives_space_back": _NO_HOLES,
    "tests/workers/backends/test_overlay.py::test_blocks_that_are_in_no_layer": _NO_HOLES,
    "tests/shm/state/test_segment.py::test_memory_comes": _NO_HOLES,
    "tests/shm/state/test_segment.py::test_statistics_outlive": _NO_HOLES,
}
"""The beginning of tests' ids: what they are about."""


def what_is_lacking(item: pytest.Item) -> str | None:
    """What a test is about that is not there; None: it has all that it needs."""
    for beginning, what in LACKING.items():
        if item.nodeid.startswith(beginning):
            return what
    callspec = getattr(item, "callspec", None)
    parameters = () if callspec is None else callspec.params.values()
    return _NO_URING if {"io_uring", "io_uring_inline"} & {str(value) for value in parameters} else None
