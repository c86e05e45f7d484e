"""The statistics LeRobot keeps beside every episode and in `stats.json`, so that its own tools and policies work.

Quantiles in `stats.json` are those of all frames together; LeRobot averages the episodes' quantiles instead, which
cuts off the extremes. armflow's policies use `datasets.stats`, never these.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
IMAGE_SAMPLES = 20_000  # pixels per episode and stream: mean and deviation to better than 1 %

FeatureStats = dict[str, NDArray[np.float64]]


def column_stats(values: NDArray[Any]) -> FeatureStats:
    """Statistics of a column over its frames, (n,) or (n, d); results have shape (d,)."""
    flat = values.reshape(len(values), -1).astype(np.float64)
    return {
        "min": flat.min(axis=0),
        "max": flat.max(axis=0),
        "mean": flat.mean(axis=0),
        "std": flat.std(axis=0),
        "count": np.array([len(flat)]),
        **dict(zip(QUANTILES, np.quantile(flat, list(QUANTILES.values()), axis=0), strict=True)),
    }


def image_stats(samples: NDArray[Any], count: int) -> FeatureStats:
    """Statistics of a stream from sampled frames (n, h, w, 3) uint8 or (n, h, w) uint16 mm; results are (channels, 1, 1).

    Colour is scaled to [0, 1], depth stays in mm. `count` is what LeRobot weights this episode by.
    """
    channels = 3 if samples.ndim == 4 else 1
    pixels = samples.reshape(-1, channels)
    pixels = pixels[:: max(1, len(pixels) // IMAGE_SAMPLES)]
    stats = column_stats(pixels / 255.0 if channels == 3 else pixels)
    shaped = {name: value.reshape(channels, 1, 1) for name, value in stats.items() if name != "count"}
    return {**shaped, "count": np.array([count])}


def pooled_image_stats(episodes: Sequence[Mapping[str, NDArray[np.float64]]]) -> FeatureStats:
    """One stream's statistics over episodes. Quantiles are averaged: pixels of old episodes are not read again."""
    counts = np.array([float(stats["count"][0]) for stats in episodes])
    weights = (counts / counts.sum()).reshape(-1, 1, 1, 1)
    stacked = {name: np.stack([stats[name] for stats in episodes]) for name in episodes[0] if name != "count"}
    mean = (weights * stacked["mean"]).sum(axis=0)
    variance = (weights * (stacked["std"] ** 2 + (stacked["mean"] - mean) ** 2)).sum(axis=0)
    return {
        "min": stacked["min"].min(axis=0),
        "max": stacked["max"].max(axis=0),
        "mean": mean,
        "std": np.sqrt(variance),
        "count": np.array([counts.sum()]),
        **{name: (weights * stacked[name]).sum(axis=0) for name in QUANTILES},
    }
