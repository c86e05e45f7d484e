"""What is the machine's doing and what the recorder's is told apart."""

import os
import signal
import time

import numpy as np
import pytest
from armflow.evaluation.bench_stalls import Period, Span, StallWatch, quantile_outside

PERIOD_S = 1 / 30


def late(*errors: tuple[int, float], count: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Times and period errors of a loop on an absolute schedule with some late ticks."""
    t = np.arange(count) * PERIOD_S
    for tick, error in errors:
        t[tick] += error
    return t, np.abs(np.diff(t) - PERIOD_S)


def worst(t: np.ndarray, errors: np.ndarray) -> list[Period]:
    order = np.argsort(-errors)[: 1 + len(errors) // 100]
    return [(float(t[i]), float(t[i + 1]), float(errors[i])) for i in order]


@pytest.mark.parametrize("share", [0.99, 0.995, 0.999])
def test_without_stalls_it_is_the_quantile(share: float) -> None:
    t, errors = late((100, 0.02), (300, 0.011), (500, 0.004), (501, 0.002))
    assert quantile_outside(share, len(errors), worst(t, errors), []) == pytest.approx(np.quantile(errors, share))


def test_a_stall_excuses_the_late_tick_and_the_period_after_it_and_nothing_else() -> None:
    t, errors = late((100, 0.02), (300, 0.011))
    stall: Span = (100 * PERIOD_S - 0.003, 100 * PERIOD_S + 0.0199)
    left = quantile_outside(1.0, len(errors), worst(t, errors), [stall])
    assert left == pytest.approx(0.011)
    assert quantile_outside(1.0, len(errors), worst(t, errors), [(5.0, 5.01)]) == pytest.approx(0.02)


def test_a_process_that_stands_still_is_noticed() -> None:
    with StallWatch() as watch:
        time.sleep(1.0)  # it starts
        stopped = time.monotonic()
        os.kill(watch._process.pid, signal.SIGSTOP)  # stands for a machine that does
        time.sleep(0.2)
        os.kill(watch._process.pid, signal.SIGCONT)
        went_on = time.monotonic()
        time.sleep(0.1)
        stalls = watch.end()
    assert any(start < stopped + 0.1 and end > went_on - 0.1 and end - start > 0.1 for start, end in stalls)
