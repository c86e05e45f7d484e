"""Were the frames taken when they say they were? Capture times of arm and cameras, and the cameras' frame numbers."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .episodes import EpisodeArrays
from .findings import Finding
from .schema import Schema

RATE_TOLERANCE = 0.05  # relative, of the mean period without gaps
GAP_PERIODS = 1.5  # a longer interval has skipped a tick
GAPS_TOLERATED = 0.05  # share of frames; beyond it the data are not of this rate
JITTER_TOLERANCE = 0.25  # of a period, 99 % of intervals
MAX_FRAME_AGE_S = 0.2  # as the control loop allows
REPEATS_TOLERATED = 2  # frames in a row with the same image


def check_times(arrays: EpisodeArrays, schema: Schema) -> Iterator[Finding]:
    """Findings about rate, gaps, jitter, age of images and frame numbers of one episode."""
    times = arrays.columns.get("capture_time.arm")
    if times is not None and len(arrays) > 2:
        yield from _check_rate(arrays.ref.index, times, schema.fps)
    for camera in schema.cameras:
        taken = arrays.columns.get(f"capture_time.{camera}")
        if taken is not None and times is not None:
            yield from _check_age(arrays.ref.index, camera, times - taken)
        numbers = arrays.columns.get(f"frame_number.{camera}")
        if numbers is not None and len(numbers) > 1:
            yield from _check_numbers(arrays.ref.index, camera, np.diff(numbers))


def _check_rate(episode: int, times: NDArray[Any], fps: int) -> Iterator[Finding]:
    period, intervals = 1 / fps, np.diff(times)
    if (intervals <= 0).any():
        frame = int(np.argmax(intervals <= 0)) + 1
        yield Finding(
            "error", "capture time", episode, f"arm time stands still or runs backwards at frame {frame}",
            "increasing times", "the rows are out of order or doubled; drop the episode",
        )  # fmt: skip
        return
    usual = intervals[intervals < GAP_PERIODS * np.median(intervals)].mean()
    if abs(usual / period - 1) > RATE_TOLERANCE:
        yield Finding(
            "error", "rate", episode, f"recorded at {1 / usual:.1f} Hz", f"{fps} Hz, as info.json says",
            "a policy would learn another speed; record again or correct fps",
        )  # fmt: skip
        return
    gaps = intervals > GAP_PERIODS * period
    if gaps.any():
        share = gaps.mean()
        yield Finding(
            "error" if share > GAPS_TOLERATED else "warning", "gaps", episode,
            f"{gaps.sum()} gaps ({share:.0%} of frames), the longest {intervals.max():.2f} s after frame "
            f"{int(intervals.argmax())}", f"{period:.3f} s between frames",
            "the computer or a device was too slow; lower the load, drop the episode if the motion jumps",
        )  # fmt: skip
    jitter = float(np.quantile(np.abs(intervals[~gaps] - period), 0.99)) if (~gaps).any() else 0.0
    if jitter > JITTER_TOLERANCE * period:
        yield Finding(
            "warning", "jitter", episode, f"99 % of intervals within {jitter * 1e3:.0f} ms",
            f"within {JITTER_TOLERANCE * period * 1e3:.0f} ms of {period * 1e3:.0f} ms",
            "the control loop was disturbed; look for other programs on this computer",
        )  # fmt: skip


def _check_age(episode: int, camera: str, age: NDArray[Any]) -> Iterator[Finding]:
    if (worst := float(np.abs(age).max())) > MAX_FRAME_AGE_S:
        frame = int(np.abs(age).argmax())
        yield Finding(
            "error", "image age", episode, f"{camera}: {worst:.2f} s between image and arm at frame {frame}",
            f"at most {MAX_FRAME_AGE_S} s", "the camera stalled or runs on another clock; drop the episode",
        )  # fmt: skip


def _check_numbers(episode: int, camera: str, steps: NDArray[Any]) -> Iterator[Finding]:
    usual = max(1, int(np.median(steps)))
    if (steps < 0).any():
        yield Finding(
            "error", "frame numbers", episode, f"{camera}: number falls at frame {int(np.argmax(steps < 0)) + 1}",
            "rising numbers", "the camera restarted within the episode; look at the images around that frame",
        )  # fmt: skip
    if (missing := int((steps >= 2 * usual).sum() if usual > 1 else (steps > 1).sum())) > 0:
        yield Finding(
            "warning", "missing frames", episode, f"{camera}: {missing} jumps, the largest by {steps.max()} frames",
            f"about {usual} per row", "the camera dropped frames; check its cable, port and rate",
        )  # fmt: skip
    if (repeats := int((steps == 0).sum())) > 0:
        longest = longest_run(steps == 0)
        yield Finding(
            "error" if longest > REPEATS_TOLERATED else "warning", "repeated frames", episode,
            f"{camera}: {repeats} rows repeat the image before them, up to {longest} in a row", "a new image per row",
            "the camera is slower than the recording or stalled; raise its rate, drop the episode if it stalled",
        )  # fmt: skip


def longest_run(flags: NDArray[np.bool_]) -> int:
    """Length of the longest stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max(initial=0))
