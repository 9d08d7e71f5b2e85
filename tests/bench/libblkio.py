"""The same load by an independent client: a program on libblkio that prints one line of figures.

It is called `blkbench [--poll] [--pid P]... SOCKET RW BLOCKSIZE DEPTH SECONDS` and prints
IOPS, MiB/s, average, p50, p99, p99.9 (us), driver and back end CPU (us for each request), other CPU
(percent), errors.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from ringblk.engine.load.load import Load, LoadFigures
from tests.bench.backends import BackendFailed, BackendSpec, RunningBackend
from tests.bench.comparison import RunLoad, RunSettings
from tests.bench.processes import descendants


def libblkio_runner(client: Sequence[str], spec: BackendSpec, image: Path, settings: RunSettings) -> RunLoad:
    """What runs a load on the back end with this client command."""

    def run(load: Load) -> LoadFigures:
        if load.num_queues != 1 or load.read_percent not in (0, 100):
            raise ValueError("the client has one queue, and reads or writes")
        order = "seq" if load.pattern == "sequential" else "rand"
        kind = "read" if load.read_percent else "write"
        with RunningBackend(spec, image) as backend:
            options = ["--poll"] if settings.polling else []
            for pid in descendants(backend.pid):
                options += ["--pid", str(pid)]
            arguments = [backend.socket_path, order + kind, load.block_bytes, load.depth, settings.seconds]
            command = [*client, *options, *(str(argument) for argument in arguments)]
            ended = subprocess.run(command, capture_output=True, text=True)
        if not ended.stdout:
            raise BackendFailed(f"status {ended.returncode}: {ended.stderr.strip()}")
        return _figures([float(word) for word in ended.stdout.split()], settings.seconds)

    return run


def _figures(values: Sequence[float], seconds: float) -> LoadFigures:
    iops, mib_per_s, mean, p50, p99, p999, driver, backend, other, errors = values
    return LoadFigures(
        request_count=round(iops * seconds),
        error_count=int(errors),
        seconds=seconds,
        iops=iops,
        mib_per_s=mib_per_s,
        mean_us=mean,
        p50_us=p50,
        p99_us=p99,
        p999_us=p999,
        driver_us_per_io=driver,
        backend_us_per_io=backend,
        other_percent=other,
    )
