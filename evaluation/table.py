"""The comparison in the terminal."""

from rich.table import Table
from rich.text import Text

from .compare import Comparison, Summary
from .wording import interval_of_difference, interval_of_rate, p_text, percent, points, scope_name

COLOUR = {"better": "green", "worse": "red", "undecided": "none"}


def rich_table(comparison: Comparison) -> Table:
    """Success, interval and test of every policy, task by task and pooled."""
    table = Table(
        title=f"{comparison.finished} of {comparison.planned} paired trials, plan {comparison.plan_sha256[:12]}",
        caption=f"{1 - comparison.alpha:.0%} Wilson and Tango intervals in points; exact McNemar p against "
        f"{comparison.reference}, Holm-adjusted",
    )
    for heading in ("task", "policy"):
        table.add_column(heading)
    for heading in ("success", "rate", "interval", f"vs {comparison.reference}", "interval", "p"):
        table.add_column(heading, justify="right")
    for task in comparison.scopes:
        for i, policy in enumerate(comparison.policies):
            name = scope_name(comparison, task) if i == 0 else ""
            table.add_row(name, policy, *_cells(comparison, comparison.summary(policy, task)))
        table.add_section()
    return table


def _cells(comparison: Comparison, summary: Summary) -> tuple[str | Text, ...]:
    rate = summary.rate
    of_rate = (f"{rate.successes}/{rate.n}", percent(rate), Text(interval_of_rate(rate)))
    if summary.policy == comparison.reference:
        return (*of_rate, "reference", "", "")
    contrast = comparison.contrast(summary.policy, summary.task)
    return (
        *of_rate,
        Text(points(contrast.difference), style=COLOUR[contrast.verdict]),
        Text(interval_of_difference(contrast.interval)),
        p_text(contrast.p_holm),
    )
