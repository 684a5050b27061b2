"""Draw the scan's state machine from its own table into docs/scan.md: ``python docs/state_diagram.py``."""

from __future__ import annotations

from pathlib import Path

from trio_sentinel_scan._core.scan_states import FINAL, TRANSITIONS, Event, State

PAGE = Path(__file__).with_name("scan.md")
BEGIN, END = "<!-- begin: state diagram -->\n", "<!-- end: state diagram -->\n"
# Every state that is not final has these ways out: they would hide all others.
EVERYWHERE = {Event.VOIDED, Event.LEFT, Event.GIVEN_UP}


def diagram() -> str:
    """The table as a Mermaid diagram, and what its names mean."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> LOCATING"]
    for state, moves in TRANSITIONS.items():
        by_target: dict[State, list[str]] = {}
        for event, target in moves.items():
            if event not in EVERYWHERE:
                by_target.setdefault(target, []).append(event.name)
        lines += [f"    {state.name} --> {target.name}: {', '.join(events)}" for target, events in by_target.items()]
    lines += [f"    {state.name} --> [*]" for state in sorted(FINAL, key=lambda state: state.name)]
    lines += [
        "```",
        "",
        "From every state but the last two, VOIDED and LEFT lead to LOCATING and GIVEN_UP to FAILED.",
        "",
    ]
    for title, names in (("state", State), ("event", Event)):
        lines += [f"| {title} | |", "| --- | --- |"]
        lines += [f"| {member.name} | {member.value} |" for member in names]
        lines.append("")
    return "\n".join(lines)


def redrawn(page: str) -> str:
    """The page with the diagram of the present table in it."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{diagram()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(redrawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
