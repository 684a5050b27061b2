"""Bar charts as SVG: a bar to the median, a dot for every run, so that nothing hides behind the median."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

_WIDTH: Final = 800
_LABELS: Final = 210
_RIGHT: Final = 90
_ROW: Final = 24
_TOP: Final = 46
_BOTTOM: Final = 44
_OURS: Final = "#2563ab"
_THEIRS: Final = "#9aa5b1"
_INK: Final = "#1f2933"


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of a chart."""

    label: str
    # Each run's figure.
    values: tuple[float, ...]
    median: float
    # Drawn in the colour that catches the eye.
    ours: bool = False


def bar_chart(title: str, unit: str, bars: Sequence[Bar]) -> str:
    """A whole SVG document."""
    height = _TOP + _ROW * len(bars) + _BOTTOM
    size = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    style = f'font-family="system-ui, sans-serif" font-size="12" fill="{_INK}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style} role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="12" y="24" font-size="15" font-weight="600">{escape(title)}</text>',
        *_axis(bars, unit, height),
    ]
    scale = _Scale.fitting(bars)
    for row, bar in enumerate(bars):
        lines += _bar(bar, _TOP + row * _ROW, scale)
    lines.append("</svg>")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class _Scale:
    """From a figure to a place on the page. It begins at 0, or below it where there are negative figures."""

    low: float
    high: float
    step: float

    @classmethod
    def fitting(cls, bars: Sequence[Bar]) -> _Scale:
        values = [value for bar in bars for value in (*bar.values, bar.median)]
        low, high = min(0.0, *values), max(0.0, *values)
        rough = (high - low) / 5 or 1.0
        unit = 10 ** math.floor(math.log10(rough))
        step = next(unit * nice for nice in (1, 2, 5, 10) if unit * nice >= rough)
        return cls(math.floor(low / step) * step, math.ceil(high / step) * step, step)

    def x(self, value: float) -> float:
        return _LABELS + (value - self.low) / (self.high - self.low) * (_WIDTH - _LABELS - _RIGHT)

    def ticks(self) -> Iterator[float]:
        for number in range(round((self.high - self.low) / self.step) + 1):
            yield self.low + number * self.step


def _axis(bars: Sequence[Bar], unit: str, height: int) -> Iterator[str]:
    scale = _Scale.fitting(bars)
    bottom = height - _BOTTOM
    for tick in scale.ticks():
        x = scale.x(tick)
        yield f'<line x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{bottom}" stroke="#e4e7eb"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle" font-size="11">{_short(tick)}</text>'
    middle = (_LABELS + _WIDTH - _RIGHT) / 2
    yield f'<text x="{middle:.0f}" y="{bottom + 34}" text-anchor="middle">{escape(unit)}</text>'


def _bar(bar: Bar, top: float, scale: _Scale) -> Iterator[str]:
    zero, end = sorted((scale.x(0), scale.x(bar.median)))
    middle = top + _ROW / 2
    colour = _OURS if bar.ours else _THEIRS
    yield f'<text x="{_LABELS - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(bar.label)}</text>'
    yield (
        f'<rect x="{zero:.1f}" y="{top + 4:.1f}" width="{max(1.0, end - zero):.1f}" height="{_ROW - 8}"'
        f' fill="{colour}" rx="2"/>'
    )
    for value in bar.values:
        yield f'<circle cx="{scale.x(value):.1f}" cy="{middle:.1f}" r="2.5" fill="{_INK}" fill-opacity="0.55"/>'
    right = max(scale.x(value) for value in (*bar.values, bar.median, 0.0))
    yield f'<text x="{right + 8:.1f}" y="{middle + 4:.1f}" font-weight="600">{_short(bar.median)}</text>'


def _short(value: float) -> str:
    """1234567 as ``1.23M``."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
