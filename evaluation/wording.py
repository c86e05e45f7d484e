"""How numbers and conclusions read, in the terminal and in the report alike."""

from .compare import Comparison, Contrast
from .statistics import Interval, Rate

POOLED = "all tasks"


def percent(rate: Rate) -> str:
    return f"{rate.value:.0%}"


def interval_of_rate(rate: Rate) -> str:
    """In percent: [48, 74]."""
    return f"[{100 * rate.interval.low:.0f}, {100 * rate.interval.high:.0f}]"


def points(difference: float) -> str:
    """A difference of rates in percentage points, signed with a true minus."""
    rounded = round(100 * difference)
    return f"{rounded:+d}".replace("-", "\N{MINUS SIGN}") if rounded else "0"


def interval_of_difference(interval: Interval) -> str:
    return f"[{points(interval.low)}, {points(interval.high)}]"


def p_text(p: float) -> str:
    """Two significant digits down to 0.0001."""
    if p < 0.0001:
        return "<0.0001"
    return f"{p:.2f}" if p >= 0.1 else f"{p:.3f}" if p >= 0.01 else f"{p:.4f}"


def scope_name(comparison: Comparison, task: str | None) -> str:
    """A task's name; the pool is named after its task if there is only one."""
    return task or (comparison.tasks[0] if len(comparison.tasks) == 1 else POOLED)


def conclusions(comparison: Comparison) -> tuple[str, ...]:
    """One sentence per candidate. None of them says better or worse unless the planned test rejects."""
    if not comparison.complete:
        return (
            f"Unfinished: {comparison.finished} of {comparison.planned} planned trials have results. Nothing is "
            f"concluded before the plan is done.",
        )
    return tuple(_conclusion(comparison, comparison.contrast(policy)) for policy in comparison.candidates)


def _conclusion(comparison: Comparison, contrast: Contrast) -> str:
    reference = comparison.reference
    candidate_rate = comparison.summary(contrast.policy).rate
    reference_rate = comparison.summary(reference).rate
    confidence = f"{1 - comparison.alpha:.0%}"
    judgement = {
        "better": f"{contrast.policy} is better than {reference}",
        "worse": f"{contrast.policy} is worse than {reference}",
        "undecided": f"No difference between {contrast.policy} and {reference} was shown",
    }[contrast.verdict]
    exploratory = "" if comparison.registered else " Exploratory: the plan registers another reference."
    return (
        f"{judgement}: {candidate_rate.successes} against {reference_rate.successes} of {reference_rate.n} trials, "
        f"{points(contrast.difference)} points ({confidence} interval {points(contrast.interval.low)} to "
        f"{points(contrast.interval.high)}), p {_equals(p_text(contrast.p_holm))}.{exploratory}"
    )


def _equals(p: str) -> str:
    return p.replace("<", "< ") if p.startswith("<") else f"= {p}"
