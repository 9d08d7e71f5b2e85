"""scripts/stress: the state machines and the storm, in turn, for as long as asked."""

import argparse
import logging
import os
import random
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis import seed as with_seed
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from scripts.guest_machine import missing_parts
from tests.crash.storm import storm
from tests.rigs.control_group import control_group
from tests.rigs.io_engines import of_this_build
from tests.rigs.session_lives import SessionLives
from tests.stress.control_machine import ControlMachine
from tests.stress.counts import counts
from tests.stress.direct_io_machine import DirectIoMachine
from tests.stress.drive_rounds import run_rounds
from tests.stress.drives_machine import DrivesMachine
from tests.stress.drives_storm import storm_over_drives
from tests.stress.engine_life import EngineLife
from tests.stress.engine_machine import EngineMachine, engines_in
from tests.stress.guest_machine import GuestMachine, first_failure
from tests.stress.kept_session_rounds import disturb
from tests.stress.limit_machine import LimitMachine
from tests.stress.many_files import know_many_files
from tests.stress.session_machine import SessionMachine
from tests.stress.share_guest_storm import storm_over_guest
from tests.stress.share_machine import ShareMachine, shared_folder

LINE_S = 60.0
STORM_S = 4.0
GUEST_STORM_S = 30.0
DRIVE_ROUNDS = 1000
KEPT_SESSIONS = 20
MANY_FILES = 1_000_000


def run_machine(machine: type[RuleBasedStateMachine], max_examples: int, seed: int, *phases: Phase) -> None:
    """Run so many examples of a state machine; raises what its failure raises, in its shortest form."""
    chosen = settings(
        machine.TestCase.settings,
        max_examples=max_examples,
        phases=phases,
        print_blob=False,
        derandomize=False,
    )
    run_state_machine_as_test(with_seed(seed)(machine), settings=chosen)


def run_guest(seed: int) -> None:
    """A hostile guest and front end, an operator, a killer."""
    run_machine(GuestMachine, 10, seed, Phase.generate, Phase.shrink)


def run_frontend(seed: int) -> None:
    """The package's own front end, on engines that nobody kills."""
    with tempfile.TemporaryDirectory(prefix="ringblk-") as folder, engines_in(Path(folder)):
        run_machine(EngineMachine, 40, seed, Phase.generate, Phase.shrink)


def run_direct_io(seed: int) -> None:
    """The file that image copies are written through, with failing and short writes."""
    logging.getLogger("ringblk.engine.images.direct_io_file").setLevel(
        logging.ERROR
    )  # each refused write is a line
    run_machine(DirectIoMachine, 200, seed, Phase.generate, Phase.shrink)


def run_share(seed: int) -> None:
    """A guest's file system, a killer, and front ends that come and go."""
    if os.geteuid() != 0:
        print("share: left out, files are opened by their handles: root only", flush=True)
        time.sleep(1)  # the only machine of a round, maybe
        return
    with shared_folder():
        run_machine(ShareMachine, 40, seed, Phase.generate, Phase.shrink)


def run_many_files(seed: int) -> None:
    """A guest that looks a million files up, and a killer."""
    if os.geteuid() != 0:
        print("many_files: left out, files are opened by their handles: root only", flush=True)
        time.sleep(1)
        return
    with tempfile.TemporaryDirectory(prefix="ringblk-share-", dir="/dev/shm") as folder:
        know_many_files(Path(folder), MANY_FILES, seed)


def run_share_guest(seed: int) -> None:
    """A real guest on a shared folder, and a killer."""
    missing = missing_parts()
    if missing or os.geteuid() != 0:
        print(f"share_guest: left out, it takes root, and {', '.join(missing) or 'nothing more'}", flush=True)
        time.sleep(1)  # the only machine of a round, maybe
        return
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm", prefix="ringblk-") as folder,
        tempfile.TemporaryDirectory(prefix="ringblk-") as logs,
    ):
        storm_over_guest(Path(folder), Path(logs), seed, GUEST_STORM_S)


def run_session(seed: int) -> None:
    """The vhost-user messages of a front end in any order."""
    run_machine(SessionMachine, 10, seed, Phase.generate, Phase.shrink)


def run_kept_session(seed: int) -> None:
    """A session that goes from process to process as each is killed."""
    lives = SessionLives()
    try:
        for part in range(KEPT_SESSIONS):
            disturb(lives, seed * KEPT_SESSIONS + part)
    finally:
        lives.close()


def run_control(seed: int) -> None:
    """An operator at the control API, and a guest's I/O."""
    run_machine(ControlMachine, 10, seed, Phase.generate, Phase.shrink)


def run_drives(seed: int) -> None:
    """Drives that come and go, their guests, a killer; then many that come and go and leave nothing."""
    run_machine(DrivesMachine, 6, seed, Phase.generate, Phase.shrink)
    try:
        with control_group() as group:
            run_rounds(DRIVE_ROUNDS, group)
    except pytest.skip.Exception:  # no cgroup v2, or it may not be written
        run_rounds(DRIVE_ROUNDS)


def run_life(seed: int) -> None:
    """Kills at every step, stalls, upgrades, under a load; what came of a race is not made smaller."""
    run_machine(EngineLife, 4, seed, Phase.generate)


def run_storm(seed: int) -> None:
    """SIGKILLs under a load."""
    with tempfile.TemporaryDirectory(prefix="ringblk-") as folder:
        storm(Path(folder), random.Random(seed).choice(of_this_build("psync", "io_uring")), STORM_S, seed)


def run_drives_storm(seed: int) -> None:
    """SIGKILLs over twenty drives of one engine, each under a load of its own."""
    storm_over_drives(20, 200, seed)


def run_limits(seed: int) -> None:
    """Drives of a rate group, each a process, on a clock of the machine's own."""
    run_machine(LimitMachine, 40, seed, Phase.generate, Phase.shrink)


MACHINES: dict[str, Callable[[int], None]] = {
    "guest": run_guest,
    "frontend": run_frontend,
    "direct_io": run_direct_io,
    "session": run_session,
    "kept_session": run_kept_session,
    "control": run_control,
    "drives": run_drives,
    "life": run_life,
    "storm": run_storm,
    "drives_storm": run_drives_storm,
    "limits": run_limits,
    "share": run_share,
    "many_files": run_many_files,
    "share_guest": run_share_guest,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; returns 1 when something failed."""
    parser = argparse.ArgumentParser(prog="stress", description="State machines against real engines.")
    parser.add_argument("--minutes", type=float, default=10, help="how long (default: 10)")
    parser.add_argument("--seed", type=int, default=1, help="where to begin; each round takes the next one")
    parser.add_argument("--machine", choices=sorted(MACHINES), help="only this one (default: all in turn)")
    options = parser.parse_args(arguments)
    names = [options.machine] if options.machine else list(MACHINES)
    started_s = time.monotonic()
    seed = options.seed

    def say() -> None:
        """One line of what was done so far."""
        names = ("requests", "rules", "examples", "kills", "faults")
        done = ", ".join(f"{counts[name]} {name}" for name in names)
        print(f"{(time.monotonic() - started_s) / 60:6.1f} min: {done}, seed {seed}", flush=True)

    stopped = threading.Event()
    speaker = threading.Thread(target=speak, args=(say, stopped), daemon=True)
    speaker.start()
    try:
        while True:
            for name in names:
                if time.monotonic() - started_s >= options.minutes * 60:
                    return 0
                if not runs(name, seed):
                    return 1
            seed += 1
    except KeyboardInterrupt:
        return 130
    finally:
        stopped.set()
        speaker.join()
        say()


def runs(name: str, seed: int) -> bool:
    """Run one machine for one round; False when it failed, which is printed with the way to see it again."""
    try:
        MACHINES[name](seed)
    except Exception:
        traceback.print_exc()
        print(*first_failure, sep="\n")
        print(f"FAILED: seed {seed}; again: ./scripts/stress --seed={seed} --machine={name}", flush=True)
        return False
    return True


def speak(say: Callable[[], None], stopped: threading.Event) -> None:
    """A line a minute."""
    while not stopped.wait(LINE_S):
        say()


if __name__ == "__main__":
    sys.exit(main())
