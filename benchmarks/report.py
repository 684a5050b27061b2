"""Figures, and how they are shown: a table for each setting, notes, JSON with every single run, SVG plots."""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import machine
from .plots import Bar, bar_chart


@dataclass(frozen=True, slots=True)
class Spread:
    """Some runs of the same thing."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """None if there is not one figure among them."""
        known = tuple(value for value in values if value is not None)
        return cls(known) if known else None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)

    def show(self, form: Callable[[float], str]) -> str:
        """``median (min..max)``."""
        if len(self.values) == 1:
            return form(self.median)
        return f"{form(self.median)} ({form(self.low)}..{form(self.high)})"

    def __truediv__(self, other: Spread) -> Spread:
        """The ratio, round by round: what slows a whole round down does not show in it."""
        return Spread(tuple(mine / theirs for mine, theirs in zip(self.values, other.values, strict=True)))


def thousands(value: float) -> str:
    """1234567.8 as ``1,234,568``."""
    return f"{value:,.0f}"


def times(value: float) -> str:
    """A ratio."""
    return f"{value:.2f}x"


def share(value: float) -> str:
    """A part of a whole."""
    return f"{value:.0%}"


def number(digits: int) -> Callable[[float], str]:
    """With so many digits after the point."""
    return lambda value: f"{value:,.{digits}f}"


def shown(spread: Spread | None, form: Callable[[float], str]) -> str:
    """A figure, or that there is none."""
    return "-" if spread is None else spread.show(form)


@dataclass
class Report:
    """Everything that one call of `python -m benchmarks` has found out. Tables are printed as they come."""

    verb: str
    settings: dict[str, Any]
    # The server's, and those of the peers that took part.
    versions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _sections: list[dict[str, Any]] = field(default_factory=list)
    _charts: list[tuple[str, str]] = field(default_factory=list)
    _machine: dict[str, object] = field(default_factory=machine.describe)
    _began: datetime = field(default_factory=lambda: datetime.now(UTC))
    # Cores that others had during each run.
    _others: list[float] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Something without which the figures would be read wrongly. Said once."""
        if text not in self.notes:
            self.notes.append(text)
            self.progress(f"note: {text}")

    def progress(self, text: str) -> None:
        """For whoever is waiting; not a result."""
        print(text, file=sys.stderr, flush=True)

    def saw_others(self, cores: float | None) -> None:
        """How many cores other processes had during a run."""
        if cores is not None:
            self._others.append(cores)

    def head(self) -> None:
        """Print what the figures rest on."""
        print(f"\n{self.verb}, {self._began:%Y-%m-%d %H:%M} UTC")
        for name, value in (self._machine | self.versions).items():
            text = ", ".join(f"{key} {word}" for key, word in value.items()) if isinstance(value, dict) else value
            print(f"  {name}: {text}")
        print(f"  settings: {', '.join(f'{name}={value}' for name, value in self.settings.items())}", flush=True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], raw: object) -> None:
        """Print a table. `raw` is what stands behind it, for the JSON."""
        widths = [max(len(row[at]) for row in (columns, *rows)) for at in range(len(columns))]
        print(f"\n{title}\n")
        for row in (columns, ["-" * width for width in widths], *rows):
            cells = [cell.ljust(width) if at == 0 else cell.rjust(width) for at, (cell, width) in _with(row, widths)]
            print("| " + " | ".join(cells) + " |")
        sys.stdout.flush()
        shown_rows = [dict(zip(columns, row, strict=True)) for row in rows]
        self._sections.append({"title": title, "rows": shown_rows, "raw": raw})

    def chart(self, title: str, unit: str, bars: Sequence[Bar]) -> None:
        """Draw a plot, for `--svg`."""
        if bars:
            name = re.sub(r"[^a-z0-9]+", "-", f"{self.verb} {title}".lower()).strip("-")
            self._charts.append((name, bar_chart(title, unit, bars)))

    def finish(self, json_file: Path | None, svg_directory: Path | None) -> None:
        """Print the notes, and write what is to be written."""
        self._note_noise()
        if self.notes:
            print("\nNotes\n")
            for text in self.notes:
                print(f"- {text}")
        if json_file is not None:
            json_file.write_text(json.dumps(self._as_json(), indent=1) + "\n")
            self.progress(f"written: {json_file}")
        if svg_directory is not None:
            svg_directory.mkdir(parents=True, exist_ok=True)
            for name, text in self._charts:
                (svg_directory / f"{name}.svg").write_text(text)
                self.progress(f"written: {svg_directory / name}.svg")

    def _note_noise(self) -> None:
        if not self._others:
            self.note("it could not be told who else was using the machine")
            return
        median, most = statistics.median(self._others), max(self._others)
        told = f"other processes had {median:.2f} cores in the median run and {most:.2f} in the worst one"
        if most > machine.NOISE:
            noisy = sum(cores > machine.NOISE for cores in self._others)
            told += f"; {noisy} of {len(self._others)} runs were noisy (above {machine.NOISE}): prefer the ratios"
        self.note(told)

    def _as_json(self) -> dict[str, Any]:
        return {
            "verb": self.verb,
            "began": self._began.isoformat(timespec="seconds"),
            "machine": self._machine,
            "versions": self.versions,
            "settings": self.settings,
            "notes": self.notes,
            "sections": self._sections,
        }


def _with(row: Sequence[str], widths: Sequence[int]) -> Iterable[tuple[int, tuple[str, int]]]:
    return enumerate(zip(row, widths, strict=True))
