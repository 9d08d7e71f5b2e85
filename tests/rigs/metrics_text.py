"""A strict reader of Prometheus's text format 0.0.4: what it takes, every reader takes.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

import re
from dataclasses import dataclass, field

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\n"])*)"')
KINDS = ("counter", "gauge", "histogram", "summary", "untyped")
ESCAPED = {r"\\": "\\", r"\n": "\n", r"\"": '"'}


@dataclass
class Sample:
    name: str
    labels: dict[str, str]
    value: float

    @property
    def series(self) -> tuple[str, frozenset[tuple[str, str]]]:
        return self.name, frozenset(self.labels.items())


@dataclass
class Family:
    name: str
    text: str
    kind: str
    samples: list[Sample] = field(default_factory=list)


def read_metrics(text: str) -> dict[str, Family]:
    """The families by name. Fails for anything that some reader might not take."""
    assert text.endswith("\n")
    families: dict[str, Family] = {}
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("# HELP "):
            family = read_header(line, next(lines))
            assert family.name not in families, f"{family.name} stands in two places"
            families[family.name] = family
        else:
            sample = read_sample(line)
            assert is_of(sample, family), f"{line} stands among the lines of {family.name}"
            family.samples.append(sample)
    series = [sample.series for family in families.values() for sample in family.samples]
    assert len(series) == len(set(series)), "a series stands there twice"
    for family in families.values():
        check_family(family)
    return families


def read_header(help_line: str, type_line: str) -> Family:
    name, _, text = help_line.removeprefix("# HELP ").partition(" ")
    assert NAME.fullmatch(name), help_line
    assert text, help_line
    assert not re.search(r"\\[^\\n]", text), help_line
    begin = f"# TYPE {name} "
    assert type_line.startswith(begin), type_line
    kind = type_line.removeprefix(begin)
    assert kind in KINDS, type_line
    return Family(name, text, kind)


def read_sample(line: str) -> Sample:
    name, _, rest = line.partition("{")
    assert NAME.fullmatch(name), line
    labels: dict[str, str] = {}
    while match := LABEL.match(rest):
        assert match[1] not in labels, line
        labels[match[1]] = re.sub(r"\\.", lambda escape: ESCAPED[escape[0]], match[2])
        rest = rest[match.end() :]
        if not rest.startswith(","):
            break
        rest = rest[1:]
    assert rest.startswith("} "), line
    return Sample(name, labels, float(rest.removeprefix("} ")))


def is_of(sample: Sample, family: Family) -> bool:
    suffixes = ("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",)
    return sample.name in [family.name + suffix for suffix in suffixes]


def check_family(family: Family) -> None:
    assert family.name.endswith("_total") == (family.kind == "counter"), family.name
    if family.kind == "counter":
        assert all(sample.value >= 0 for sample in family.samples)
    if family.kind == "histogram":
        check_histogram(family)


def check_histogram(family: Family) -> None:
    """Buckets are cumulative, in order, and end with all."""
    counts = {sample.series[1]: sample.value for sample in family.samples if sample.name.endswith("_count")}
    buckets: dict[frozenset[tuple[str, str]], list[tuple[float, float]]] = {}
    for sample in family.samples:
        if sample.name.endswith("_bucket"):
            own = frozenset(item for item in sample.labels.items() if item[0] != "le")
            buckets.setdefault(own, []).append((float(sample.labels["le"]), sample.value))
    assert buckets.keys() == counts.keys()
    for labels, found in buckets.items():
        assert found == sorted(found)
        assert [count for _, count in found] == sorted(count for _, count in found)
        assert found[-1] == (float("inf"), counts[labels])
