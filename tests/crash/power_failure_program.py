"""As many states that a power failure may leave of an overlay as one likes: scripts/power_failure."""

import argparse
import random
import tempfile
from pathlib import Path

from ringblk.crashes import RecordedFolder
from ringblk.engine.crashes.history import SECTOR_BYTES
from tests.crash.engine_power_failures import engine_power_failures
from tests.crash.layers_power_failures import layers_power_failures
from tests.crash.power_failures import MIB, power_failures
from tests.rigs.io_engines import of_this_build
from tests.rigs.power_load import Load

IO_ENGINES = of_this_build("io_uring", "psync", "io_uring_inline", "sync")


def engine_states(seed: int, states: int) -> None:
    """Those of a whole engine."""
    io_engine = IO_ENGINES[seed % len(IO_ENGINES)]
    print(f"seed {seed}: an engine with {io_engine}", flush=True)
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="ringblk-test-") as name:
        record = Path(name) / "record"
        engine_power_failures(lambda folder: RecordedFolder(folder, record), io_engine, seed, 60, states)


def layers_states(seed: int, states: int) -> None:
    """Those of a drive whose layers are sealed and merged."""
    print(f"seed {seed}: an engine whose layers change", flush=True)
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="ringblk-test-") as name:
        record = Path(name) / "record"
        layers_power_failures(lambda folder: RecordedFolder(folder, record), seed, 40, states)


def main() -> None:
    """Make states of one engine or load after the other, each from a seed that is said first."""
    parser = argparse.ArgumentParser(description="power failures under a load on an overlay")
    parser.add_argument("--seed", type=int, default=1, help="of the first load (default: 1)")
    parser.add_argument(
        "--loads", type=int, default=20, help="how many loads, each with the next seed (default: 20)"
    )
    parser.add_argument(
        "--states", type=int, default=100, help="states of each life of a load (default: 100)"
    )
    parser.add_argument(
        "--engines", type=int, default=0, help="whole engines besides, each with another seed (default: 0)"
    )
    parser.add_argument(
        "--layers", type=int, default=0, help="engines whose layers change besides (default: 0)"
    )
    arguments = parser.parse_args()
    for seed in range(arguments.seed, arguments.seed + arguments.layers):
        layers_states(seed, arguments.states)
    for seed in range(arguments.seed, arguments.seed + arguments.engines):
        engine_states(seed, arguments.states)
    for seed in range(arguments.seed, arguments.seed + arguments.loads):
        chance = random.Random(seed)
        process_count = chance.choice([1, 1, 3])
        wide = chance.choice([0.0, 0.0, 0.1]) if process_count == 1 else 0.0
        size_bytes = 8192 * MIB if wide else chance.randrange(1, 140 * MIB // SECTOR_BYTES) * SECTOR_BYTES
        base_bytes = max(
            SECTOR_BYTES, min(size_bytes, chance.choice([size_bytes, size_bytes // 3])) // 512 * 512
        )
        load = Load("", "", seed, chance.randrange(50, 600), process_count, chance.uniform(0.02, 0.6), wide)
        print(f"seed {seed}: {size_bytes} bytes on {base_bytes}, {process_count} processes", flush=True)
        power_failures(load, size_bytes, base_bytes, arguments.states, lives=3)
    count = arguments.loads * 3 + arguments.engines + arguments.layers
    print(f"{count * arguments.states} states, all as they may be")


if __name__ == "__main__":
    main()
