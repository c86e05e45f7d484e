"""Trials without a robot: outcomes drawn from given success rates, to rehearse a comparison and to test this folder."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.random import Generator

from ..robot.errors import ConfigError
from .trials import TrialOutcome

MILESTONES = ("reached", "grasped", "lifted", "placed")
FAILURES = ("never reached the object", "missed the grasp", "dropped on the way", "placed beside the bowl")
VIDEO_FPS, VIDEO_SIZE = 10, 96


@dataclass(frozen=True)
class FakeTrials:
    """A `RunTrial`. The same policy, task and seed always give the same outcome."""

    rates: Mapping[str, float]
    """Success rate by policy."""
    pairing: float = 0.6
    """Share of the luck that belongs to the seed, so that policies fail on the same starts (0: none, 1: all)."""
    seconds: float = 0.0
    """How long a trial really takes, to rehearse interruptions."""

    def __call__(self, policy: str, task: str, seed: int, video: Path | None) -> TrialOutcome:
        if policy not in self.rates:
            raise ConfigError(f"no success rate for policy {policy!r}: there are {', '.join(self.rates)}")
        time.sleep(self.seconds)
        of_seed = np.random.default_rng([seed, *task.encode()])
        of_trial = np.random.default_rng([seed, *task.encode(), *policy.encode()])
        luck = (of_seed if of_seed.random() < self.pairing else of_trial).random()
        success = bool(luck < self.rates[policy])
        reached = len(MILESTONES) if success else int(of_trial.integers(len(MILESTONES)))
        steps = int(of_trial.integers(60, 110)) if success or reached < 2 else 150
        if video is not None:
            _film(video, of_seed, reached / len(MILESTONES), steps)
        return TrialOutcome(
            success=success,
            end_reason="success" if success else FAILURES[reached],
            terminated=steps < 150,
            milestones=reached,
            milestones_total=len(MILESTONES),
            duration_s=steps / VIDEO_FPS,
            steps=steps,
            safety_flags=int(of_trial.poisson(2)),
        )


def _film(path: Path, rng: Generator, share: float, steps: int) -> None:
    """A dot that walks the given share of the way to a square."""
    start, goal = rng.uniform(12, 36, 2), rng.uniform(60, 84, 2)
    rows, columns = np.mgrid[:VIDEO_SIZE, :VIDEO_SIZE]
    with av.open(path, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=VIDEO_FPS)
        stream.width = stream.height = VIDEO_SIZE
        stream.pix_fmt = "yuv420p"
        for i in range(steps):
            x, y = start + (goal - start) * share * i / steps
            image = np.full((VIDEO_SIZE, VIDEO_SIZE, 3), 225, np.uint8)
            image[np.maximum(abs(columns - goal[0]), abs(rows - goal[1])) < 9] = (150, 160, 175)
            image[np.hypot(columns - x, rows - y) < 5] = (205, 95, 55)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
