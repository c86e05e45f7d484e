"""Which random seeds belong to which purpose, so that nothing is ever evaluated on what it was trained or tuned on.

    seed = start(purpose) + repetition * REPETITION + slot(task) * SLOT + index

Tasks get slots of their own because one generator seeded alike places the objects of two tasks alike, and trials that
share their difficulty are not the independent pairs that the pooled test assumes.
"""

import zlib
from dataclasses import dataclass
from typing import Literal

from .errors import ConfigError

Purpose = Literal["demos", "rollouts", "tuning", "evaluation", "pretrain"]

SLOT = 20_000  # seeds of one task in one repetition; the largest use is a few thousand
SLOTS = 1_000  # tasks are hashed into this many slots; a collision only makes two tasks share seeds
REPETITION = SLOT * SLOTS
REPETITIONS = 10


@dataclass(frozen=True)
class SeedRange:
    """Half-open range [start, stop) of seeds with one purpose. All of them fit in 31 bits."""

    purpose: Purpose
    start: int
    stop: int


DEMOS = SeedRange("demos", 0, 200_000_000)
ROLLOUTS = SeedRange("rollouts", 200_000_000, 400_000_000)
TUNING = SeedRange("tuning", 400_000_000, 600_000_000)
EVALUATION = SeedRange("evaluation", 600_000_000, 800_000_000)
PRETRAIN = SeedRange("pretrain", 800_000_000, 1_000_000_000)
RANGES: tuple[SeedRange, ...] = (DEMOS, ROLLOUTS, TUNING, EVALUATION, PRETRAIN)


def seeds(purpose: Purpose, task: str, n: int, repetition: int = 0) -> range:
    """The first `n` seeds of a task for a purpose. `repetition` (0..9) counts independent repetitions of the whole loop.

    Raises ConfigError if the purpose is unknown or more seeds are asked for than it has.
    """
    if not 0 <= n <= SLOT:
        raise ConfigError(f"{n} seeds asked for {purpose}/{task}: there are {SLOT} per task and repetition")
    if not 0 <= repetition < REPETITIONS:
        raise ConfigError(f"repetition {repetition} does not exist: valid are 0..{REPETITIONS - 1}")
    first = _range(purpose).start + repetition * REPETITION + _slot(task) * SLOT
    return range(first, first + n)


def purpose_of(seed: int) -> Purpose | None:
    """What a seed is reserved for, or None for a free one (a number typed by hand)."""
    return next((r.purpose for r in RANGES if r.start <= seed < r.stop), None)


def _range(purpose: str) -> SeedRange:
    for seed_range in RANGES:
        if seed_range.purpose == purpose:
            return seed_range
    raise ConfigError(f"no seeds are reserved for {purpose!r}: valid are {', '.join(r.purpose for r in RANGES)}")


def _slot(task: str) -> int:
    return zlib.crc32(task.encode()) % SLOTS
