"""Statistics of paired success/failure trials: one rate, one paired difference, several candidates.

Every number that can carry a claim is exact or score-based, because n is small and rates sit near 0 or 1:

    rate         Wilson score interval (1927)
    difference   Tango's score interval for paired proportions (Stat. Med. 17, 1998); Fagerland, Lydersen and Laake
                 (Stat. Med. 33, 2014) recommend it over the Wald interval, which is too short at small n
    test         exact McNemar: discordant pairs are fair coin flips under "no difference"
    candidates   Holm's step-down adjustment
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from scipy.optimize import root_scalar
from scipy.stats import binomtest, norm


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True)
class Rate:
    """A success rate with its Wilson interval."""

    successes: int
    n: int
    interval: Interval

    @property
    def value(self) -> float:
        return self.successes / self.n


@dataclass(frozen=True)
class PairTable:
    """Outcomes of pairs that started alike, candidate against reference."""

    both: int
    candidate_only: int
    reference_only: int
    neither: int

    @property
    def n(self) -> int:
        return self.both + self.candidate_only + self.reference_only + self.neither

    @property
    def difference(self) -> float:
        """Candidate's success rate minus the reference's."""
        return (self.candidate_only - self.reference_only) / self.n

    def __add__(self, other: "PairTable") -> "PairTable":
        """Pooled pairs, as over tasks."""
        return PairTable(
            self.both + other.both,
            self.candidate_only + other.candidate_only,
            self.reference_only + other.reference_only,
            self.neither + other.neither,
        )


def wilson(successes: int, n: int, *, confidence: float = 0.95) -> Rate:
    """Success rate of `n` >= 1 trials."""
    interval = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return Rate(successes, n, Interval(float(interval.low), float(interval.high)))


def pair_table(candidate: Sequence[bool], reference: Sequence[bool]) -> PairTable:
    """Count the pairs; entry i of both sequences is the same start."""
    pairs = list(zip(candidate, reference, strict=True))
    return PairTable(
        both=pairs.count((True, True)),
        candidate_only=pairs.count((True, False)),
        reference_only=pairs.count((False, True)),
        neither=pairs.count((False, False)),
    )


def mcnemar_exact(table: PairTable) -> float:
    """Two-sided p of "candidate and reference succeed equally often". 1 when no pair disagrees."""
    discordant = table.candidate_only + table.reference_only
    return float(binomtest(table.candidate_only, discordant).pvalue) if discordant else 1.0


def paired_difference(table: PairTable, *, confidence: float = 0.95) -> Interval:
    """Tango's score interval of the difference: all delta with |T(delta)| <= z.

    T(delta) = (b - c - n delta) / sqrt(n (2 q + delta (1 - delta))), where q is the most likely probability of
    "reference only" once the difference is fixed at delta.
    """
    z = float(norm.ppf(0.5 + confidence / 2))
    estimate = table.difference
    low = -1.0 if estimate == -1 else _crossing(table, z, (-1.0, estimate))
    high = 1.0 if estimate == 1 else _crossing(table, -z, (estimate, 1.0))
    return Interval(low, high)


def _crossing(table: PairTable, z: float, bracket: tuple[float, float]) -> float:
    """The delta at which T(delta) = z; T falls in delta."""
    return float(root_scalar(lambda delta: _tango(table, delta) - z, bracket=bracket, method="brentq").root)


def _tango(table: PairTable, delta: float) -> float:
    b, c, n = table.candidate_only, table.reference_only, table.n
    numerator = b - c - n * delta
    if numerator == 0:
        return 0.0  # also where the variance vanishes, at delta = +-1
    # q solves 2n q^2 + linear q - c delta (1 - delta) = 0; the floors only absorb rounding at delta = +-1
    linear = -b - c + (2 * n - b + c) * delta
    q = (sqrt(max(linear**2 + 8 * n * c * delta * (1 - delta), 0.0)) - linear) / (4 * n)
    return numerator / sqrt(max(n * (2 * q + delta * (1 - delta)), 1e-12))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjusted p-values in the order given: comparing each with the level keeps the family's error rate at it."""
    adjusted, floor = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = floor
    return tuple(adjusted)
