"""The text for Prometheus: what a strict reader takes, and what the counters say."""

import msgspec
import pytest

from ringblk.engine.dispatcher.request_recorder import RequestRecorder
from ringblk.engine.statistics.metrics import Exposition
from ringblk.engine.statistics.statistics import StatisticsSnapshot, take_snapshot
from ringblk.shm.state.segment import StateSegment
from tests.rigs.metrics_text import Family, read_metrics
from tests.rigs.recorded_requests import DRIVE, record

ENGINE = "/run/a.sock"


@pytest.fixture
def snapshot(state: StateSegment, recorder: RequestRecorder) -> StatisticsSnapshot:
    """Three reads of 100 us, one of 30 ms that failed, and a worker that has died."""
    state.set_worker(0, 4242, True)
    record(recorder, 3, service_us=100)
    record(recorder, 1, service_us=30_000, status=1)
    return take_snapshot(state)


def text_of(*drives: tuple[StatisticsSnapshot, str]) -> str:
    exposition = Exposition()
    for snapshot, engine in drives:
        exposition.add(msgspec.structs.replace(snapshot, engine=engine))
    return exposition.encoded().decode()


def metrics_of(*drives: tuple[StatisticsSnapshot, str]) -> dict[str, Family]:
    return read_metrics(text_of(*drives))


def test_metrics_are_what_was_counted(snapshot: StatisticsSnapshot) -> None:
    families = metrics_of((snapshot, ENGINE))
    values = {
        (sample.name, *sorted(set(sample.labels.values()) - {DRIVE, ENGINE})): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert values["ringblk_requests_total", "read"] == 4
    assert values["ringblk_request_errors_total", "read"] == 1
    assert values["ringblk_request_bytes_total", "read"] == 3 * 4096
    assert values["ringblk_worker_restarts_total", "0"] == 1
    assert values["ringblk_queue_depth", "1"] == 0
    assert values["ringblk_service_seconds_sum", "read"] == pytest.approx(0.0303, rel=1e-3)
    assert values["ringblk_uptime_seconds",] == snapshot.uptime_ns / 1e9
    assert {family.kind for family in families.values()} == {"counter", "gauge", "histogram"}


def test_no_series_of_two_engines_is_the_same(snapshot: StatisticsSnapshot) -> None:
    """Not even where both drives have one name; each says which drive and engine it is of."""
    families = metrics_of((snapshot, "/run/a.sock"), (snapshot, "/run/b.sock"))
    for family in families.values():
        engines = [sample.labels["engine"] for sample in family.samples]
        assert engines.count("/run/a.sock") == engines.count("/run/b.sock") > 0
        assert {sample.labels["drive"] for sample in family.samples} == {DRIVE}


def test_histograms_have_the_counts_below_their_bounds(snapshot: StatisticsSnapshot) -> None:
    buckets = [
        sample
        for sample in metrics_of((snapshot, ENGINE))["ringblk_service_seconds"].samples
        if sample.name.endswith("_bucket") and sample.labels["operation"] == "read"
    ]
    for sample in buckets:
        bound_s = float(sample.labels["le"])
        assert sample.value == 3 * (bound_s > 100e-6) + (bound_s > 30e-3)


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", '\\n"', "#", "{}", "", "ü\t "])
def test_a_name_is_what_it_was(snapshot: StatisticsSnapshot, name: str) -> None:
    named = msgspec.structs.replace(snapshot, drive=name)
    for family in metrics_of((named, name)).values():
        assert {(sample.labels["drive"], sample.labels["engine"]) for sample in family.samples} == {
            (name,) * 2
        }


def test_large_counters_are_exact(snapshot: StatisticsSnapshot) -> None:
    text = text_of((msgspec.structs.replace(snapshot, capacity_bytes=(1 << 60) + 1), ENGINE))
    assert f" {(1 << 60) + 1}\n" in text


def test_no_drives_are_no_series() -> None:
    families = metrics_of()
    assert families
    assert not any(family.samples for family in families.values())
