"""fio on the bare file: what the host gives without any virtio in between."""

import json
import shutil
import subprocess
from pathlib import Path

from ringblk.engine.load.cpu_clock import cpu_times
from ringblk.engine.load.load import Load, LoadFigures
from tests.bench.comparison import RunLoad, RunSettings

FIO_ENGINES = ("psync", "io_uring")


def fio_runner(io_engine: str, image: Path, settings: RunSettings, cpu: int) -> RunLoad | None:
    """What runs a load with fio on one CPU; None where it is not installed."""
    if shutil.which("fio") is None:
        return None

    def run(load: Load) -> LoadFigures:
        command = ["taskset", "-c", str(cpu), *_fio_command(load, io_engine, image, settings)]
        before = cpu_times()
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        after = cpu_times()
        job = json.loads(text[text.index("{") :])["jobs"][0]
        busy = (after.machine_s - before.machine_s) / (after.at_s - before.at_s) * 100
        return _figures(job, load, settings, busy)

    return run


def _fio_command(load: Load, io_engine: str, image: Path, settings: RunSettings) -> list[str]:
    kinds = {0: "write", 100: "read"}
    kind = kinds.get(load.read_percent, "rw")
    pattern = kind if load.pattern == "sequential" else "rand" + kind
    return [
        "fio",
        "--name=raw",
        f"--filename={image}",
        f"--ioengine={io_engine}",
        "--direct=1",
        f"--rw={pattern}",
        f"--rwmixread={load.read_percent}",
        f"--bs={load.block_bytes}",
        f"--iodepth={load.depth}",
        "--norandommap",
        "--randrepeat=0",
        "--time_based",
        f"--ramp_time={settings.warm_up_s}",
        f"--runtime={settings.seconds}",
        "--lat_percentiles=1",
        "--output-format=json",
    ]


def _figures(
    job: dict[str, dict[str, object]], load: Load, settings: RunSettings, busy: float
) -> LoadFigures:
    parts = [part for part in (job["read"], job["write"]) if part["total_ios"]]
    iops = sum(float(str(part["iops"])) for part in parts)
    main = max(parts, key=lambda part: float(str(part["iops"])))
    latency: dict[str, dict[str, float]] = main["lat_ns"]  # type: ignore[assignment]
    cpu_percent = float(str(job["usr_cpu"])) + float(str(job["sys_cpu"]))
    return LoadFigures(
        request_count=sum(int(str(part["total_ios"])) for part in parts),
        error_count=0,
        seconds=settings.seconds,
        iops=iops,
        mib_per_s=iops * load.block_bytes / (1 << 20),
        mean_us=latency["mean"] / 1e3,  # type: ignore[operator]
        p50_us=latency["percentile"]["50.000000"] / 1e3,
        p99_us=latency["percentile"]["99.000000"] / 1e3,
        p999_us=latency["percentile"]["99.900000"] / 1e3,
        driver_us_per_io=0.0,
        backend_us_per_io=cpu_percent * 1e4 / iops if iops else 0.0,
        other_percent=max(0.0, busy - cpu_percent),
    )
