"""What a build of the portable forms lacks, and which tests are about that (docs/portability.md)."""

from pathlib import Path

import pytest

from tests.rigs.separate_build import ROOT

LACKING = {
    "no sandbox": (
        "tests/workers/sandbox/",
        "tests/engine/program/test_sandbox.py",
        "tests/engine/doctor/test_host_checks.py::test_a_sandbox_that",
    ),
    "no io_uring": (
        "tests/workers/uring/",
        "tests/crash/test_walk.py::test_a_death_over_io_uring",
        "tests/crash/test_walk.py::test_a_death_of_a_dispatcher_with_io_under_way",
        "tests/crash/test_slow_disk.py::test_a_killed_dispatchers_own_write",
        "tests/crash/test_slow_disk.py::test_what_fails_in_the_dispatchers_ring",
        "tests/engine/doctor/test_host_checks.py::test_io_uring_that",
        "tests/engine/doctor/test_host_checks.py::test_the_engine_says_the_same_of_io_uring",
    ),
    "no process descriptors and no sealed memory": (
        "tests/engine/doctor/test_host_checks.py::test_pidfd_open",
        "tests/engine/doctor/test_host_checks.py::test_memfd_create",
    ),
    "no file handles, of which a shared folder is made": (
        "tests/engine/devices/test_share.py",
        "tests/engine/devices/test_share_kills.py",
        "tests/engine/devices/test_share_options.py",
        "tests/engine/devices/test_share_window.py",
        "tests/engine/devices/test_hostile_share.py",
    ),
    "no sendmmsg and recvmmsg, of which an NBD client that survives kills is made": (
        "tests/workers/nbd/",
        "tests/engine/program/test_nbd_answers.py",
        "tests/engine/program/test_nbd_drives.py",
        "tests/engine/program/test_nbd_server_state.py",
        "tests/engine/program/test_nbd_takeover.py",
        "tests/engine/program/test_nbd_tls.py",
        "tests/crash/test_nbd_deaths.py",
    ),
    "no zygote: processes end with the control plane": (
        "tests/engine/zygote/",
        "tests/engine/supervisor/test_zygote_process.py",
        "tests/engine/supervisor/test_kept_parts.py",
        "tests/engine/dispatcher/test_control_line.py",
        "tests/engine/control/test_drives_outlive.py",
        "tests/engine/program/test_control_plane_dies.py",
        "tests/engine/program/test_not_adopted.py",
        "tests/engine/vhost_user/test_kept_socket.py",
        "tests/engine/vhost_user/test_session_marks.py",
        "tests/engine/vhost_user/test_session_machine.py",
        "tests/crash/test_kept_session.py",
        "tests/crash/test_walk_kept.py",
        "tests/crash/test_walk_control_plane.py",
    ),
    "no birth times of files": (
        "tests/engine/drives/test_settings_outlive.py::test_an_image_that_got_the_inode",
    ),
    "no I/O past the page cache": (
        "tests/workers/backends/test_file.py::test_file_system_that_refuses_direct_io",
        "tests/workers/backends/test_file.py::test_auto_goes_on_without",
        "tests/workers/backends/test_file.py::TestAlignment",
        "tests/workers/backends/test_file_sizes.py::test_size_that_direct_io",
        "tests/workers/backends/test_file_sizes.py::test_what_is_no_whole_block",
        "tests/workers/backends/test_file_sizes.py::test_blocks_of_a_file_whose",
        "tests/workers/backends/test_backends.py::test_loop_device",
        "tests/workers/block/test_requests.py::test_direct_io",
        "tests/crash/test_partial_blocks.py",
        "tests/crash/test_suspended_deaths.py::test_a_death_at_the_source[suspend: slot ended",
        "tests/engine/doctor/test_image_checks.py::test_an_image_that_can_be_served",
        "tests/engine/doctor/test_image_checks.py::test_a_folder_is_left_as_it_was",
    ),
    "no space of a file that is given before it is written": (
        "tests/workers/backends/test_overlay_costs.py::test_a_map_takes_64_bytes",
    ),
    "no holes, and gives no shared memory back": (
        "tests/workers/backends/test_file.py::test_file_system_that_is_full",
        "tests/workers/backends/test_file.py::test_discard_gives_space_back",
        "tests/workers/backends/test_overlay.py::test_blocks_that_are_in_no_layer",
        "tests/shm/state/test_segment.py::test_memory_comes",
        "tests/shm/state/test_segment.py::test_statistics_outlive",
    ),
}
"""What it lacks, and how the ids of the tests begin that are about it."""


def is_left_out(path: Path) -> bool:
    """Whether all tests of a file or folder are about what is lacking; they may import what is not there."""
    beginnings = [beginning for about in LACKING.values() for beginning in about]
    return f"{path.relative_to(ROOT)}{'/' if path.is_dir() else ''}" in beginnings


def what_is_lacking(item: pytest.Item) -> str | None:
    """What a test is about that is not there; None: it has all that it needs."""
    for what, beginnings in LACKING.items():
        if item.nodeid.startswith(beginnings):
            return what
    callspec = getattr(item, "callspec", None)
    parameters = () if callspec is None else callspec.params.values()
    engines = {str(value).removeprefix("--io-engine=") for value in parameters}
    return "no io_uring" if {"io_uring", "io_uring_inline"} & engines else None
