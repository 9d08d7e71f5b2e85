"""What happened to each drive between two looks at it, in a row of numbers."""

from collections.abc import Iterable, Mapping

import msgspec

from ringblk.engine.statistics.statistics import DriveState, StatisticsSnapshot
from ringblk.shm.layout.histogram import Histogram


class DriveLook(msgspec.Struct, frozen=True):
    """What a row is made from: of hundreds of drives, two looks at each are kept."""

    name: str
    drive: str
    state: DriveState
    supervisor_pid: int
    capacity_bytes: int
    taken_ns: int
    uptime_ns: int
    depth: int
    oldest_request_ns: int
    request_count: int
    read_bytes: int
    write_bytes: int
    service: Histogram
    """Of all operations."""

    @classmethod
    def at(cls, snapshot: StatisticsSnapshot) -> "DriveLook":
        """What a snapshot says."""
        byte_counts = {operation.operation: operation.byte_count for operation in snapshot.operations}
        return cls(
            name=snapshot.name,
            drive=snapshot.drive,
            state=snapshot.state,
            supervisor_pid=snapshot.supervisor_pid,
            capacity_bytes=snapshot.capacity_bytes,
            taken_ns=snapshot.taken_ns,
            uptime_ns=snapshot.uptime_ns,
            depth=snapshot.depth,
            oldest_request_ns=snapshot.oldest_request_ns,
            request_count=sum(operation.request_count for operation in snapshot.operations),
            read_bytes=byte_counts.get("read", 0),
            write_bytes=byte_counts.get("write", 0),
            service=merged(operation.service for operation in snapshot.operations),
        )

    def is_of(self, other: "DriveLook") -> bool:
        """Whether both are of one drive: of another by the same name the counters begin anew."""
        return (
            (self.drive, self.supervisor_pid) == (other.drive, other.supervisor_pid)
            and self.request_count >= other.request_count
            and self.service.count >= other.service.count
        )


class DriveRow(msgspec.Struct, frozen=True):
    """A drive now, and its rates and times since the look before."""

    drive: str
    state: DriveState
    supervisor_pid: int
    capacity_bytes: int
    uptime_ns: int
    depth: int
    oldest_request_ns: int
    iops: float
    read_bytes_per_s: float
    write_bytes_per_s: float
    p50_ns: int
    p99_ns: int
    p999_ns: int


def rows_between(before: Mapping[str, DriveLook], after: Mapping[str, DriveLook]) -> list[DriveRow]:
    """A row for each drive that was there both times."""
    return [
        row_between(before[name], look)
        for name, look in after.items()
        if name in before and look.is_of(before[name])
    ]


def row_between(before: DriveLook, after: DriveLook) -> DriveRow:
    """What happened between two looks at one drive."""
    interval_s = max(after.taken_ns - before.taken_ns, 1) / 1e9
    service = after.service.since(before.service)
    return DriveRow(
        drive=after.drive,
        state=after.state,
        supervisor_pid=after.supervisor_pid,
        capacity_bytes=after.capacity_bytes,
        uptime_ns=after.uptime_ns,
        depth=after.depth,
        oldest_request_ns=after.oldest_request_ns,
        iops=(after.request_count - before.request_count) / interval_s,
        read_bytes_per_s=max(0, after.read_bytes - before.read_bytes) / interval_s,
        write_bytes_per_s=max(0, after.write_bytes - before.write_bytes) / interval_s,
        p50_ns=service.percentile(50),
        p99_ns=service.percentile(99),
        p999_ns=service.percentile(99.9),
    )


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """All values in one."""
    whole = Histogram()
    for histogram in histograms:
        whole.merge(histogram)
    return whole
