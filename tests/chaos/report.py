"""The account of a run of chaos: what befell the servers, what went on meanwhile, and what was found wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class ScanTally:
    """Scans of one kind."""

    complete: int = 0
    # Those that ended in an error, by its type. Only errors of the package's own are here: others are findings.
    errors: Counter[str] = field(default_factory=Counter[str])
    # New epochs, or sweeps of a cluster's nodes that began again.
    restarts: int = 0
    # Keys of which it was checked that they were handed out.
    keys_checked: int = 0


@dataclass
class Finding:
    """A promise that was not kept."""

    round: int
    what: str
    details: str


@dataclass
class Account:
    """What happened to one deployment."""

    deployment: str
    server: str
    seed: str
    rounds: int = 0
    # The faults of the present round.
    befalling: str = ""
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter[str])
    # Changes of a master, by the servers' own account, and how many the watcher of the topology was told of.
    failovers: int = 0
    master_changes_told: int = 0
    scans: dict[str, ScanTally] = field(default_factory=dict[str, ScanTally])
    commands: Counter[str] = field(default_factory=Counter[str])
    messages: Counter[str] = field(default_factory=Counter[str])
    # Keys that the servers themselves had lost; nobody could have handed them out.
    lost_by_servers: int = 0
    findings: list[Finding] = field(default_factory=list[Finding])
    # The servers did not become whole again in time: what goes before it stands, and nothing was shown after it.
    trouble: str = ""

    def tally(self, kind: str) -> ScanTally:
        """That of one kind of scans."""
        return self.scans.setdefault(kind, ScanTally())

    def found(self, what: str, details: object) -> None:
        """Take down that a promise was not kept."""
        self.findings.append(Finding(self.rounds, what, f"{details} ({self.befalling})"))

    @property
    def keys_checked(self) -> int:
        """Of all kinds of scans."""
        return sum(tally.keys_checked for tally in self.scans.values())

    def as_json(self) -> dict[str, Any]:
        """Everything, for `--json`."""
        plain = {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}
        scans = {kind: {**vars(tally), "errors": dict(tally.errors)} for kind, tally in self.scans.items()}
        findings = [vars(finding) for finding in self.findings]
        return {**plain, "scans": scans, "findings": findings, "keys_checked": self.keys_checked}

    def lines(self) -> list[str]:
        """For people."""
        lines = [
            f"{self.deployment} on {self.server}, seed {self.seed}: {self.rounds} rounds in {self.seconds:.0f} s",
            f"  faults: {_counts(self.faults)}",
            f"  failovers survived: {self.failovers} (the watcher was told of {self.master_changes_told})",
        ]
        for kind, tally in sorted(self.scans.items()):
            errors = f"; typed errors: {_counts(tally.errors)}" if tally.errors else ""
            lines.append(
                f"  scans, {kind}: {tally.complete} complete with {tally.restarts} restarts,"
                f" {tally.keys_checked} keys checked{errors}"
            )
        lines += [f"  commands: {_counts(self.commands)}", f"  messages: {_counts(self.messages)}"]
        if self.lost_by_servers:
            lines.append(f"  lost by the servers themselves: {self.lost_by_servers} keys")
        lines.append(f"  keys checked: {self.keys_checked}; promises not kept: {len(self.findings)}")
        lines += [f"    round {one.round}: {one.what}: {one.details}" for one in self.findings]
        if self.trouble:
            lines.append(f"  ended early: the servers did not become whole again: {self.trouble}")
        return lines


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(counter.items())) or "none"
