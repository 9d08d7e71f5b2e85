"""Figures of scripts/bench_layers: things that were measured some times, in turn."""

import statistics

import msgspec

from tests.bench.report import Machine


class Figure(msgspec.Struct, frozen=True):
    """One thing that was measured, some times."""

    what: str
    unit: str
    median: float
    best: float
    worst: float


class LayerReport(msgspec.Struct):
    """What is printed as JSON."""

    machine: Machine
    arguments: list[str]
    figures: list[Figure] = []

    def add(self, what: str, unit: str, values: list[float]) -> None:
        """Note it, and print a line. IOPS and ratios of them are better the larger they are."""
        larger_is_better = unit in ("IOPS", "ratio")
        best, worst = (max(values), min(values)) if larger_is_better else (min(values), max(values))
        figure = Figure(what, unit, statistics.median(values), best, worst)
        self.figures.append(figure)
        digits = 2 if statistics.median(values) < 10 else 1
        spread = f"(best {best:.{digits}f}, worst {worst:.{digits}f})"
        print(f"{what:<56} {figure.median:>10.{digits}f} {unit:<5} {spread}", flush=True)

    def compare(self, what: str, values: dict[str, list[float]], reference: str, unit: str = "IOPS") -> None:
        """Note each, and beside it what it is of the reference in the same round."""
        for name, each in values.items():
            self.add(f"{what}: {name}", unit, each)
            if name != reference:
                pairs = zip(each, values[reference], strict=True)
                ratios = [
                    one / other for one, other in pairs if other
                ]  # a crowded machine may give it nothing
                self.add(f"{what}: {name}, of {reference}", "ratio", ratios)
