"""A comparison as one HTML file: no network, everything embedded, readable in ten years."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from ..robot.seeds import purpose_of
from . import plots, wording
from .compare import Comparison, outcomes_by_policy
from .films import film_rows
from .registration import Registration
from .svg import inline_svg
from .trials import TrialResult

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Extra:
    """A section of its own: training curves, a gate report. `body` as text is trusted HTML."""

    title: str
    body: Figure | str
    caption: str = ""


def write_report(
    path: Path,
    comparison: Comparison,
    registration: Registration,
    results: Sequence[TrialResult],
    *,
    folder: Path,
    title: str | None = None,
    extras: Sequence[Extra] = (),
) -> None:
    """Write the report of the trials in `folder`.

    Raises DataError if a video is missing or is not H.264, which browsers cannot play.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    outcomes = outcomes_by_policy(registration, results)
    html = environment.get_template("report.html.j2").render(
        title=title or f"{', '.join(comparison.candidates)} against {comparison.reference}",
        comparison=comparison,
        registration=registration,
        words=wording,
        purpose_of=purpose_of,
        conclusions=wording.conclusions(comparison),
        forest=Markup(inline_svg(plots.forest(comparison), "Success rates and paired differences, as in the table")),
        grid=Markup(inline_svg(plots.paired_outcomes(comparison, outcomes), _grid_alt(comparison))),
        milestones=Markup(inline_svg(plots.milestones(comparison), _milestones_alt(comparison))),
        reasons=_failure_reasons(comparison),
        conduct=_conduct(comparison),
        film_rows=film_rows(registration, results, folder),
        extras=[(extra.title, _extra_body(extra), extra.caption) for extra in extras],
        css=Markup((TEMPLATES / "report.css").read_text()),
    )
    path.write_text(html)


def _grid_alt(comparison: Comparison) -> str:
    rates = (comparison.summary(policy).rate for policy in comparison.policies)
    counts = (f"{name} {rate.successes} of {rate.n}" for name, rate in zip(comparison.policies, rates, strict=True))
    return f"Grid of all trials, a row per policy and a column per seed. Successes: {', '.join(counts)}"


def _milestones_alt(comparison: Comparison) -> str:
    shares = (f"{policy} {comparison.summary(policy).progress:.0%}" for policy in comparison.policies)
    return f"Bars of milestones reached. Mean share of milestones: {', '.join(shares)}"


def _failure_reasons(comparison: Comparison) -> list[tuple[str, list[int]]]:
    """(reason, failed trials of each policy), the most frequent reason first."""
    failures = [comparison.summary(policy).failures for policy in comparison.policies]
    reasons = {reason: [of.get(reason, 0) for of in failures] for of in failures for reason in of}
    return sorted(reasons.items(), key=lambda item: -sum(item[1]))


def _conduct(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """(what, value for each policy): how trials ran, over all tasks."""
    summaries = [comparison.summary(policy) for policy in comparison.policies]
    return [
        ("cut off by the time limit", [str(s.truncated) for s in summaries]),
        ("mean share of milestones", [f"{s.progress:.0%}" for s in summaries]),
        (
            "median time of a success",
            ["" if s.median_success_s is None else f"{s.median_success_s:.1f} s" for s in summaries],
        ),
        ("commands changed by safety", [str(s.safety_flags) for s in summaries]),
    ]


def _extra_body(extra: Extra) -> Markup:
    return Markup(inline_svg(extra.body, extra.title) if isinstance(extra.body, Figure) else extra.body)
