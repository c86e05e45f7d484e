"""The figures of a comparison. Each returns a matplotlib figure; `svg.inline_svg` puts it on a page."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .compare import Block, Comparison, Contrast, Summary
from .svg import ACCENT, FAINT, INK, MUTED, PAPER, WARN, report_style
from .trials import TrialOutcome
from .wording import points, scope_name

WIDTH = 9.6  # inch; the page is as wide
ROW = 0.27  # inch per policy
VERDICT_COLOUR = {"better": ACCENT, "worse": WARN, "undecided": INK}


def forest(comparison: Comparison) -> Figure:
    """Success rates with their intervals, beside the paired differences to the reference with theirs."""
    scopes, policies = comparison.scopes, comparison.policies
    with report_style():
        figure = Figure(figsize=(WIDTH, len(scopes) * (ROW * len(policies) + 0.45) + 0.35), layout="constrained")
        axes = figure.subplots(len(scopes), 2, sharex="col", squeeze=False, gridspec_kw={"width_ratios": [1, 1]})
        for (rates, differences), task in zip(axes, scopes, strict=True):
            rates.set_title(scope_name(comparison, task))
            _policy_rows(rates, policies)
            _policy_rows(differences, policies)
            differences.set_yticklabels([])
            differences.axvline(0, color=MUTED, linewidth=0.8)
            for y, policy in enumerate(policies):
                _rate(rates, y, comparison.summary(policy, task), is_reference=policy == comparison.reference)
                if policy in comparison.candidates:
                    _difference(differences, y, comparison.contrast(policy, task))
                else:
                    where = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
                    differences.annotate("reference", (0, y), color=MUTED, fontsize=8, **where)
        axes[-1][0].set(xlim=(0, 100), xlabel="success, %")
        axes[-1][1].set_xlabel(f"difference to {comparison.reference}, points")
    return figure


def _policy_rows(axes: Axes, policies: tuple[str, ...]) -> None:
    axes.set_yticks(range(len(policies)), policies)
    axes.set_ylim(len(policies) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)


def _rate(axes: Axes, y: int, summary: Summary, *, is_reference: bool) -> None:
    rate, face = summary.rate, PAPER if is_reference else INK
    axes.plot([100 * rate.interval.low, 100 * rate.interval.high], [y, y], color=INK, linewidth=1.4)
    axes.plot(100 * rate.value, y, "o", color=INK, markerfacecolor=face, markersize=5.5)


def _difference(axes: Axes, y: int, contrast: Contrast) -> None:
    colour = VERDICT_COLOUR[contrast.verdict]
    axes.plot([100 * contrast.interval.low, 100 * contrast.interval.high], [y, y], color=colour, linewidth=1.4)
    axes.plot(100 * contrast.difference, y, "o", color=colour, markersize=5.5)
    label = points(contrast.difference)
    axes.text(100 * contrast.difference, y - 0.2, label, ha="center", va="bottom", color=colour, fontsize=7.5)


def paired_outcomes(comparison: Comparison, outcomes: Mapping[str, Mapping[Block, TrialOutcome]]) -> Figure:
    """One cell per trial, one column per seed: filled for success, lighter the fewer milestones were reached."""
    policies, tasks = comparison.policies, comparison.tasks
    with report_style():
        figure = Figure(figsize=(WIDTH, len(tasks) * (ROW * len(policies) + 0.45)), layout="constrained")
        for axes, task in zip(np.ravel(figure.subplots(len(tasks), 1, squeeze=False)), tasks, strict=True):
            seeds = _easiest_first(outcomes, task)
            for y, policy in enumerate(policies):
                cells = [outcomes[policy][task, seed] for seed in seeds]
                axes.add_collection(_cells(cells, y))
            axes.set_title(f"{task}: {len(seeds)} seeds")
            axes.set_yticks(range(len(policies)), policies)
            axes.set(xlim=(-0.5, len(seeds) - 0.5), ylim=(len(policies) - 0.5, -0.5), xticks=[])
            axes.tick_params(axis="y", length=0)
            axes.spines[:].set_visible(False)
    return figure


def _easiest_first(outcomes: Mapping[str, Mapping[Block, TrialOutcome]], task: str) -> list[int]:
    """Seeds by how many policies succeed on them, then by how far they get."""
    seeds = [seed for of, seed in next(iter(outcomes.values())) if of == task]

    def ease(seed: int) -> tuple[int, int]:
        trials = [done[task, seed] for done in outcomes.values()]
        return sum(trial.success for trial in trials), sum(trial.milestones for trial in trials)

    return sorted(seeds, key=ease, reverse=True)


def _cells(trials: list[TrialOutcome], y: int) -> PatchCollection:
    patches = [Rectangle((x - 0.44, y - 0.4), 0.88, 0.8) for x in range(len(trials))]
    collection = PatchCollection(patches, edgecolor="none")
    collection.set_facecolor([ACCENT if trial.success else MUTED for trial in trials])
    collection.set_alpha([1.0 if t.success else 0.12 + 0.4 * t.milestones / max(t.milestones_total, 1) for t in trials])
    return collection


def milestones(comparison: Comparison) -> Figure:
    """How far the trials of each policy got: the share that ended at each milestone."""
    policies, tasks = comparison.policies, comparison.tasks
    with report_style():
        figure = Figure(figsize=(WIDTH, ROW * len(policies) + 0.95), layout="constrained")
        for column, (axes, task) in enumerate(zip(np.ravel(figure.subplots(1, len(tasks))), tasks, strict=True)):
            _policy_rows(axes, policies)
            axes.grid(visible=False)
            for y, policy in enumerate(policies):
                _stacked_bar(axes, y, comparison.summary(policy, task))
            axes.set_title(task)
            axes.set(xlim=(0, 100), xlabel="share of trials, %")
            if column:
                axes.set_yticklabels([])
    return figure


def _stacked_bar(axes: Axes, y: int, summary: Summary) -> None:
    shares = 100 * np.array(summary.milestones) / summary.rate.n
    most = len(shares) - 1
    left = 0.0
    for reached in range(most, -1, -1):
        alpha = reached / max(most, 1)
        axes.barh(y, shares[reached], left=left, height=0.72, color=ACCENT if reached else FAINT, alpha=alpha or 1.0)
        if shares[reached] >= 5:
            colour = PAPER if alpha > 0.6 else INK
            axes.text(left + shares[reached] / 2, y, str(reached), ha="center", va="center", color=colour, fontsize=7.5)
        left += shares[reached]
