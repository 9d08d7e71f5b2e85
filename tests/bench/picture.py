"""A picture of latency against throughput: a line for each back end, a point for each depth, as SVG."""

import math
from collections.abc import Sequence
from pathlib import Path

from tests.bench.comparison import Result

_WIDTH, _HEIGHT = 760, 480
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 190, 46, 54
_COLOURS = ("#1b6ca8", "#d1495b", "#edae49", "#3f7d20", "#7b5ea7", "#555555", "#00798c", "#c8553d")


class _Axis:
    """A logarithmic axis from one pixel to another, with ticks at 1, 2 and 5 of each decade."""

    def __init__(self, values: Sequence[float], first_px: float, last_px: float) -> None:
        self._low, self._high = math.log10(min(values) / 1.2), math.log10(max(values) * 1.2)
        self._first_px, self._last_px = first_px, last_px

    def place(self, value: float) -> float:
        part = (math.log10(value) - self._low) / (self._high - self._low)
        return self._first_px + part * (self._last_px - self._first_px)

    def ticks(self) -> list[float]:
        decades = range(math.floor(self._low), math.ceil(self._high) + 1)
        values = [step * 10.0**decade for decade in decades for step in (1, 2, 5)]
        return [value for value in values if self._low <= math.log10(value) <= self._high]


def draw(path: Path, title: str, lines: dict[str, list[Result]]) -> None:
    """Write the picture: `lines` by back end, each in order of depth. p50 as a line, p99 dotted."""
    points = [result.median for results in lines.values() for result in results]
    across = _Axis([point.iops / 1e3 for point in points], _LEFT, _WIDTH - _RIGHT)
    up = _Axis([us for point in points for us in (point.p50_us, point.p99_us)], _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _text(_LEFT, 24, title, size=15),
        *_grid(across, up),
    ]
    for place, (name, results) in enumerate(lines.items()):
        parts += _line(name, results, across, up, place)
    parts.append(_text(_WIDTH - _RIGHT + 20, _TOP + 20 * len(lines) + 14, "line: p50, dotted: p99"))
    path.write_text("\n".join([*parts, "</svg>\n"]))


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "start", extra: str = "") -> str:
    safe = text.replace("&", "&amp;").replace("<", "&lt;")
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" {extra}>{safe}</text>'


def _grid(across: _Axis, up: _Axis) -> list[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for value in across.ticks():
        x = across.place(value)
        parts.append(f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}" stroke="#e4e4e4"/>')
        parts.append(_text(x, bottom + 18, f"{value:g}", anchor="middle"))
    for value in up.ticks():
        y = up.place(value)
        parts.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#e4e4e4"/>')
        parts.append(_text(_LEFT - 8, y + 4, f"{value:g}", anchor="end"))
    parts.append(
        _text((_LEFT + right) / 2, _HEIGHT - 14, "throughput, thousand requests a second", anchor="middle")
    )
    middle = (_TOP + bottom) / 2
    turned = f'transform="rotate(-90 18 {middle:.1f})"'
    return [*parts, _text(18, middle, "latency, us", anchor="middle", extra=turned)]


def _line(name: str, results: Sequence[Result], across: _Axis, up: _Axis, place: int) -> list[str]:
    colour = _COLOURS[place % len(_COLOURS)]
    p50 = [(across.place(r.median.iops / 1e3), up.place(r.median.p50_us)) for r in results]
    p99 = [(across.place(r.median.iops / 1e3), up.place(r.median.p99_us)) for r in results]
    key_y = _TOP + 20 * place
    parts = [
        _path(p50, f'stroke="{colour}" stroke-width="2"'),
        _path(p99, f'stroke="{colour}" stroke-width="1.2" stroke-dasharray="2 4"'),
        f'<rect x="{_WIDTH - _RIGHT + 20}" y="{key_y:.1f}" width="12" height="12" fill="{colour}"/>',
        _text(_WIDTH - _RIGHT + 38, key_y + 10, name),
    ]
    for (x, y), result in zip(p50, results, strict=True):
        depth = result.load.split("-qd")[1].split("-")[0]
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>')
        parts.append(_text(x + 5, y - 5, depth, size=9, extra=f'fill="{colour}"'))
    return parts


def _path(points: Sequence[tuple[float, float]], style: str) -> str:
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{joined}" fill="none" {style}/>'
