"""Does the arm follow its actions? Offset and delay between action and state, per joint, as leader and follower have them.

With actions that lag behind the states, or that are the states, a policy learns to stand still or to trail behind.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from .episodes import EpisodeArrays
from .findings import Finding

MIN_FRAMES = 20  # shorter episodes say nothing about delay
MOVING_RAD = 0.02  # standard deviation; a joint that hardly moves has no delay
LONGEST_S = 1.0  # delays looked for
EARLIEST_FRAMES = 4  # and by how much an action may come too late
MAX_DELAY_S = 0.25  # at most, or two frames
MAX_OFFSET_RAD = 0.03  # of a joint over the whole dataset
MAX_EPISODE_OFFSET_RAD = 0.1

Floats = NDArray[np.float64]


def check_tracking(episodes: Sequence[EpisodeArrays], names: Sequence[str], fps: int) -> Iterator[Finding]:
    """Findings about the whole dataset and about episodes that differ from it. The last entry is the gripper."""
    episodes = [
        e for e in episodes if len(e) >= MIN_FRAMES and np.isfinite(e.state).all() and np.isfinite(e.action).all()
    ]
    if not episodes:
        return
    shifts = np.arange(-EARLIEST_FRAMES, math.ceil(LONGEST_S * fps) + 1)
    limit = max(2, math.ceil(MAX_DELAY_S * fps))
    errors = np.stack([_errors(episode, shifts) for episode in episodes])  # (episodes, shifts, joints)
    moving = np.stack([episode.state[:, :-1].std(axis=0) > MOVING_RAD for episode in episodes])
    weighted = np.where(moving[:, None], errors, 0.0)

    by_joint = shifts[weighted.sum(axis=0).argmin(axis=0)]  # (joints,)
    for j in np.flatnonzero(moving.any(axis=0)):
        yield from _delay(None, f"{names[j]} follows its action", int(by_joint[j]), fps, limit)
    usual = int(np.median(by_joint[moving.any(axis=0)])) if moving.any() else 0
    delays = np.full(len(episodes), usual)
    for i, (episode, error) in enumerate(zip(episodes, weighted, strict=True)):
        delay = int(shifts[error.sum(axis=1).argmin()])
        clear = error.sum(axis=1).min() < 0.7 * error.sum(axis=1)[EARLIEST_FRAMES + usual]  # not by chance
        if clear and abs(delay - usual) >= limit:
            delays[i] = delay
            yield Finding(
                "error", "delay", episode.ref.index, f"states follow the actions by {delay} frames ({delay / fps:.2f} s)",
                f"{usual} frames, as in the other episodes",
                "rows or actions are shifted; drop the episode, and look at how it was recorded",
            )  # fmt: skip

    same = [
        e for e, m in zip(episodes, moving, strict=True) if m.any() and np.abs(e.action - e.state)[:, :-1].max() < 1e-5
    ]
    if same:
        yield Finding(
            "error", "actions are states", None, f"in {len(same)} of {len(episodes)} episodes action = state of the same frame",
            "the target that was sent", "a policy would learn to stand still; record targets, or use the next state",
        )  # fmt: skip
    yield from _offsets(episodes, names, delays)


def _errors(episode: EpisodeArrays, shifts: NDArray[np.int64]) -> Floats:
    """Mean |state[t + shift] - action[t]| per shift and joint, over the same number of frames, offset removed."""
    state, action = episode.state[:, :-1].astype(np.float64), episode.action[:, :-1].astype(np.float64)
    result = np.full((len(shifts), state.shape[1]), np.nan)
    for i, shift in enumerate(shifts):
        late, early = max(0, int(shift)), max(0, -int(shift))
        n = len(state) - late - early
        if n < MIN_FRAMES // 2:
            continue
        difference = state[late : late + n] - action[early : early + n]
        result[i] = np.abs(difference - np.median(difference, axis=0)).mean(axis=0)
    return np.where(np.isnan(result), np.nanmax(result, axis=0), result)  # too short for this shift: as bad as any


def _delay(episode: int | None, what: str, delay: int, fps: int, limit: int) -> Iterator[Finding]:
    if delay > limit:
        yield Finding(
            "warning", "delay", episode, f"{what} after {delay} frames ({delay / fps:.2f} s)",
            f"at most {limit} frames ({limit / fps:.2f} s)",
            "look at the arm's tracking and at the clocks; a policy learns this delay",
        )  # fmt: skip
    if delay < 0:
        yield Finding(
            "error", "delay", episode, f"{what} {-delay} frames before it is given",
            "actions before states", "actions are stored too late, or states too early; shift them where they come from",
        )  # fmt: skip


def _offsets(episodes: Sequence[EpisodeArrays], names: Sequence[str], delays: NDArray[np.int64]) -> Iterator[Finding]:
    offsets = np.stack([_offset(episode, int(delay)) for episode, delay in zip(episodes, delays, strict=True)])
    usual = np.median(offsets, axis=0)
    for j in np.flatnonzero(np.abs(usual) > MAX_OFFSET_RAD):
        yield Finding(
            "warning", "offset", None, f"{names[j]}: actions lie {usual[j]:+.3f} rad from where the arm goes",
            f"within {MAX_OFFSET_RAD} rad", "calibrate leader against follower, or look for a load the arm cannot hold",
        )  # fmt: skip
    for episode, offset in zip(episodes, offsets - usual, strict=True):
        if (np.abs(offset) > MAX_EPISODE_OFFSET_RAD).any():
            j = int(np.abs(offset).argmax())
            yield Finding(
                "warning", "offset", episode.ref.index, f"{names[j]}: {offset[j]:+.3f} rad beside the other episodes",
                f"within {MAX_EPISODE_OFFSET_RAD} rad", "the arm was blocked or its zero has moved; look at the episode",
            )  # fmt: skip


def _offset(episode: EpisodeArrays, delay: int) -> Floats:
    """Median distance of the actions from the states that follow them `delay` frames later, (joints,) rad."""
    late, early = max(0, delay), max(0, -delay)
    n = len(episode) - late - early
    return np.median(episode.action[early : early + n, :-1] - episode.state[late : late + n, :-1], axis=0)
