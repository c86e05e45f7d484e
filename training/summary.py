"""What a finished stage says in the terminal."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from .loop import Metrics


def show(stage: str, out: Path, metrics: Metrics, console: Console | None = None) -> None:
    """A small table of the stage's final metrics and where everything is."""
    table = Table(title=f"{stage}: {out}", show_header=False)
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4g}")
    (console or Console()).print(table)
