"""What a build of the portable forms lacks, and which tests are about that (docs/portability.md)."""

from pathlib import Path

import pytest

from tests.rigs.separate_build import ROOT

LACKING = {
    "no sandbox": (
        "tests/workers/sandbox/",
        "tests/engine/program/test_sandbox.py",
        "tests/engine/devices/test_python_share.py::test_a_class_is_held",
        "tests/engine/doctor/test_host_checks.py::test_a_sandbox_that",
    ),
    "no io_uring": (
        "tests/workers/uring/",
        "tests/crash/test_walk.py::test_a_death_over_io_uring",
        "tests/crash/test_walk.py::test_a_death_of_a_dispatcher_with_io_under_way",
        "tests/crash/test_slow_disk.py::test_a_killed_dispatchers_own_write",
        "tests/crash/test_slow_disk.py::test_what_fails_in_the_dispatchers_ring",
        "tests/engine/dispatcher/test_idle_dispatcher.py",
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
        "tests/engine/devices/test_share_machine.py",
        "tests/engine/devices/test_share_options.py",
        "tests/engine/devices/test_share_window.py",
        "tests/engine/devices/test_hostile_share.py",
        "tests/engine/program/test_share_outlives.py",
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
        "tests/engine/control/test_drives_machine.py",
        "tests/engine/control/test_openapi.py::test_what_an_engine_with_a_list",
        "tests/engine/drives/test_suspended_queues.py::test_a_control_plane_that_dies",
        "tests/engine/program/test_both_die.py",
        "tests/engine/program/test_control_plane_dies.py",
        "tests/engine/program/test_descriptor_store.py::test_who_comes_while_nothing_runs",
        "tests/engine/program/test_few_files.py::test_a_front_end_too_many",
        "tests/engine/program/test_many_layers.py",
        "tests/engine/program/test_not_adopted.py",
        "tests/engine/program/test_overlay_drives.py::test_the_next_control_plane",
        "tests/engine/program/test_pairs_of_deaths.py",
        "tests/engine/program/test_service_manager.py::test_the_next_control_plane",
        "tests/engine/program/test_service_manager.py::test_a_manager_starts_the_next",
        "tests/engine/program/test_service_manager.py::test_a_socket_is_closed_with_its_drive",
        "tests/engine/program/test_snapshots.py::test_layers_outlive",
        "tests/engine/program/test_snapshots.py::test_the_rate_of_merges_outlives",
        "tests/engine/program/test_sockets_outlive.py",
        "tests/engine/program/test_systemd.py",
        "tests/engine/program/test_upgrade.py",
        "tests/engine/program/test_upgrade_meanwhile.py",
        "tests/engine/program/test_zygote_begins.py",
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
        "tests/engine/devices/test_block_sizes.py::test_a_file_whose_direct_io_is_coarse",
        "tests/engine/devices/test_io_plan.py::test_a_disk_in_user_space",
        "tests/engine/images/test_direct_io_async.py::test_flush_and_a_descriptor",
        "tests/engine/images/test_direct_io_file.py::test_the_background_stops",
        "tests/engine/images/test_direct_io_file.py::test_bytes_synced",
        "tests/engine/images/test_direct_io_file.py::test_refused_direct_writes",
        "tests/engine/images/test_direct_io_file.py::test_a_refused_flag",
        "tests/engine/images/test_direct_io_file.py::test_whole_blocks",
        "tests/engine/images/test_direct_io_file.py::test_what_comes_while",
        "tests/engine/images/test_direct_io_file.py::test_flush_writes",
        "tests/engine/images/test_page_cache.py::test_an_import_leaves",
        "tests/engine/drives/test_first_line.py::test_the_first_line_says_what_the_engine_is[options2",
        "tests/engine/drives/test_suspended_queues.py::test_what_waits_for_its_block",
    ),
    "no signal at the parent's death: a process that stands still does not end with it": (
        "tests/engine/dispatcher/test_long_chains.py::test_an_engine_takes_over_more",
    ),
    "no edge-triggered wait, and pipes are taken where eventfds are": (
        "tests/engine/vhost_user/test_eventfds.py::test_only_an_eventfd",
        "tests/engine/vhost_user/test_eventfds.py::test_a_file_whose_name",
        "tests/engine/vhost_user/test_eventfds.py::test_a_kick_that_stays_readable",
    ),
    "no process that is held to a core": (
        "tests/engine/dispatcher/test_cpu_placement.py::test_it_stays",
        "tests/engine/dispatcher/test_cpu_placement.py::test_it_leaves",
        "tests/engine/dispatcher/test_cpu_placement.py::test_it_follows",
        "tests/engine/dispatcher/test_cpu_placement.py::test_it_tries_again",
    ),
    "no space of a file that is given before it is written": (
        "tests/workers/backends/test_overlay_costs.py::test_a_map_takes_64_bytes",
    ),
    "no holes, and gives no shared memory back": (
        "tests/workers/backends/test_file.py::test_file_system_that_is_full",
        "tests/workers/backends/test_file.py::test_discard_gives_space_back",
        "tests/workers/backends/test_overlay.py::test_blocks_that_are_in_no_layer",
        "tests/engine/program/test_host_limits.py::test_a_full_file_system_that_the_guest",
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
