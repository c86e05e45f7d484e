"""Training curves from metrics.jsonl."""

import json
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

COLUMNS = 3


def read_metrics(out: Path) -> dict[str, list[tuple[float, float]]]:
    """Metric name -> [(step, value), ...]."""
    series: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for line in (out / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        step = row.pop("step")
        for name, value in row.items():
            series[name].append((step, value))
    return dict(series)


def plot(out: Path, *, title: str) -> Figure:
    """One panel per metric, held-out next to training; also saved as curves.svg in `out`."""
    series = read_metrics(out)
    rows = -(-len(series) // COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(3.4 * COLUMNS, 2.2 * rows), squeeze=False)
    for axis in axes.flat[len(series) :]:
        axis.set_visible(False)
    for axis, (name, points) in zip(axes.flat, sorted(series.items()), strict=False):
        axis.plot(*zip(*points, strict=True), linewidth=1)
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(out / "curves.svg")
    plt.close(figure)
    return figure
