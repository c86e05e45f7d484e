"""What is wrong with a dataset: one finding per defect, with what was expected and what to do about it."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.markup import escape
from rich.table import Table

from .layout import write_atomic

Severity = Literal["error", "warning", "note"]
"""An error spoils training or reading, a warning wants a person's look, a note says what could not be checked."""
Remedy = Literal["drop", "rewrite", "labels", "statistics", "person"]
"""What `repair` does: leave the episode out, write index columns anew, or label columns, or statistics; or nothing."""

COLOURS: dict[Severity, str] = {"error": "bold red", "warning": "yellow", "note": "dim"}
LISTED = 8  # episodes named in a row of the table


@dataclass(frozen=True)
class Finding:
    """One defect. `episode` None: the dataset as a whole."""

    severity: Severity
    check: str
    episode: int | None
    found: str
    expected: str
    advice: str
    remedy: Remedy = "person"


def ordered(findings: Sequence[Finding]) -> list[Finding]:
    """Errors first, then by episode."""
    rank = list(COLOURS)
    return sorted(findings, key=lambda f: (rank.index(f.severity), -1 if f.episode is None else f.episode, f.check))


def findings_table(findings: Sequence[Finding]) -> Table:
    """One row per kind of defect: the first episode that has it, and the numbers of the others."""
    kinds: dict[tuple[str, ...], list[Finding]] = {}
    for finding in ordered(findings):
        kinds.setdefault((finding.severity, finding.check, finding.expected, finding.advice), []).append(finding)
    table = Table("severity", "check", "episode")
    for heading in ("found", "expected", "what to do"):
        table.add_column(heading, overflow="fold")  # paths are not cut off
    for alike in kinds.values():
        first, colour = alike[0], COLOURS[alike[0].severity]
        texts = (first.check, _episodes(alike), first.found, first.expected, first.advice)
        table.add_row(f"[{colour}]{first.severity}[/]", *(escape(text) for text in texts))
    return table


def _episodes(findings: Sequence[Finding]) -> str:
    if findings[0].episode is None:
        return "all"
    numbers = list(dict.fromkeys(str(finding.episode) for finding in findings))
    rest = f" and {len(numbers) - LISTED} more" if len(numbers) > LISTED else ""
    return ", ".join(numbers[:LISTED]) + rest


def write_findings(path: Path, findings: Sequence[Finding]) -> None:
    """A JSON list of objects with the fields of `Finding`."""
    write_atomic(path, json.dumps([dataclasses.asdict(finding) for finding in ordered(findings)], indent=2))
