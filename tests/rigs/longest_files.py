"""The order in which the files of tests begin."""

LONGEST = (
    "scripts/test_wheel.py",
    "fuzz/test_fuzz.py",
    "guest/test_moving_guest.py",
    "guest/test_guest.py",
    "guest/test_guest_share.py",
    "guest/test_guest_window.py",
    "guest/test_guest_share_kills.py",
    "guest/test_guest_kills.py",
    "crash/test_invariants.py",
    "shm/platform/test_macos.py",
    "crash/test_machine.py",
    "stress/test_guest_machine.py",
    "guest/test_hostile_neighbour.py",
    "guest/test_guest_power_failure.py",
    "stress/test_drives_storm.py",
    "stress/test_limit_machine.py",
    "engine/control/test_drives_machine.py",
    "engine/control/test_machine.py",
)
"""Files that take some ten seconds and more, themselves or because they compile; longest first.

Of two processes one takes one file while the other takes another: a long one in the end is waited for.
"""
