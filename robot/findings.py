"""What a check found, and what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

MARKS = {"ok": "[green]ok[/green]", "warning": "[yellow]warning[/yellow]", "error": "[bold red]error[/bold red]"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: Literal["ok", "warning", "error"]  # error: work cannot start like this
    subject: str
    found: str
    advice: str = ""  # what to do next; empty if nothing


def show(findings: Iterable[Finding], console: Console | None = None) -> bool:
    """Print them as a table. Returns whether none is an error."""
    table, listed = Table("", "what", "found", "what to do", show_lines=False), list(findings)
    for f in listed:
        table.add_row(MARKS[f.level], escape(f.subject), escape(f.found), escape(f.advice))
    (console or Console()).print(table)
    return all(f.level != "error" for f in listed)
