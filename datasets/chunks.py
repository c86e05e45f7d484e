"""Chunk transitions for critics: state, executed chunk, discounted reward, bootstrap, next state and next chunk.

With gamma per step and n steps executed (methods 1.6):

    y = sum_{i<n} gamma^i r_{f+i}  +  gamma^n (1 - terminated) V(s_{f+n})

A chunk that crosses the episode's end is kept, padded by its last action: dropping it would drop the reward. How the
end counts depends on why the episode ended. Terminated: the reward of the last action counts, and no value follows.
Truncated: the state after the last action was never seen, so the last frame is the last state to bootstrap from, and
actions from there on have no observed consequence (n stops short of them).

A person who takes over from a policy, or gives back to it, ends the chunk, too: what follows is the other's reaction, not
what that chunk would have done. Such a chunk has the steps up to the change, and the first state of the other as the next.

In a pause (`ControlMode.PAUSE`) time stands still: nobody chose to wait. A pause ends the chunk before it, its frames are
no states and no actions, and the first state after it is the next one. A reward that falls into it is that of the last action.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ..robot.errors import DataError
from ..robot.types import ControlMode
from .episodes import EpisodeArrays

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class ChunkCfg:
    chunk: int
    """Executed steps C per chunk."""
    discount: float
    """Per step, gamma."""
    stride: int = 1
    """Steps between the starts of consecutive chunks."""


@dataclass(frozen=True, eq=False)
class ChunkTransitions:
    """k transitions; frames are counted within their episode."""

    episode: Ints  # (k,) index in the dataset
    frame: Ints  # (k,) state at which the chunk starts; in none of the pauses
    actions: Floats  # (k, C, d) executed actions, the last one that counts repeated beyond the end or a change of mode
    n_steps: Ints  # (k,) steps that count, 0..C
    reward: Floats  # (k,) sum of gamma^i r over the n steps
    bootstrap: Floats  # (k,) gamma^n, or 0 where terminated: the factor of the next value
    terminated: Bools  # (k,) the task ended within the chunk
    truncated: Bools  # (k,) the recording ended within the chunk
    next_frame: Ints  # (k,) state to bootstrap from; the last frame where the episode ended
    next_actions: Floats  # (k, C, d) the dataset's chunk from `next_frame`
    mc_return: Floats  # (k,) discounted return from `frame` to the end of the recording
    weight: Floats  # (k,) 1, or 0 for a chunk without any step that counts

    def __len__(self) -> int:
        return len(self.episode)


def chunk_transitions(
    actions: Floats, rewards: Floats, *, terminated: bool, cfg: ChunkCfg, episode: int = 0, mode: Ints | None = None
) -> ChunkTransitions:
    """Transitions of one episode: actions (T, d), rewards (T,), `ControlMode`s (T,); None is one mode throughout.

    Raises DataError on lengths that disagree.
    """
    T = len(actions)
    mode = np.zeros(T, np.int64) if mode is None else mode
    if T == 0 or rewards.shape != (T,) or mode.shape != (T,):
        raise DataError(
            f"episode {episode}: {T} actions, rewards of shape {rewards.shape} and modes of shape {mode.shape}; "
            f"expected ({T},) > 0"
        )
    acted = np.flatnonzero(mode != ControlMode.PAUSE)  # from here on, frames are counted without pauses
    actions, rewards, turn = actions[acted], _rewards_of(acted, rewards), _turns(mode)[acted]
    T = len(acted)
    frame = np.flatnonzero(acted % cfg.stride == 0)
    last_state = T if terminated else T - 1
    end = _ends_of_turns(turn)
    n = np.minimum(cfg.chunk, np.minimum(end[frame], last_state) - frame)
    crosses = (frame + cfg.chunk >= T) & (end[frame] == T)
    next_frame = np.minimum(frame + n, T - 1)
    return ChunkTransitions(
        episode=np.full(len(frame), episode),
        frame=acted[frame],
        actions=_chunks(actions, frame, end, cfg.chunk),
        n_steps=n,
        reward=_discounted(rewards, frame, n, cfg),
        bootstrap=np.where(crosses & terminated, 0.0, cfg.discount**n),
        terminated=crosses & terminated,
        truncated=crosses & (not terminated),
        next_frame=acted[next_frame],
        next_actions=_chunks(actions, next_frame, end, cfg.chunk),
        mc_return=discounted_return(rewards, cfg.discount)[frame],
        weight=(n > 0).astype(np.float64),
    )


def dataset_transitions(episodes: Sequence[EpisodeArrays], cfg: ChunkCfg) -> ChunkTransitions:
    """Transitions of all episodes, one after the other. Raises DataError if there are none."""
    parts = [
        chunk_transitions(
            episode.action,
            episode.reward,
            terminated=episode.terminated,
            cfg=cfg,
            episode=episode.ref.index,
            mode=episode.control_mode,
        )  # fmt: skip
        for episode in episodes
    ]
    if not parts:
        raise DataError("no episodes to make transitions from")
    names = [f.name for f in fields(ChunkTransitions)]
    return ChunkTransitions(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def chunk_targets(reward: Floats, n_steps: Ints, terminated: Bools, next_value: Floats, discount: float) -> Floats:
    """y = R + gamma^n (1 - terminated) V', elementwise (T2.1)."""
    return reward + discount**n_steps * (1 - np.asarray(terminated, dtype=np.float64)) * next_value


def discounted_return(rewards: Floats, discount: float) -> Floats:
    """Return-to-go G_f = sum_{i >= f} gamma^(i - f) r_i, (T,). With reward 1 at success: gamma^(steps to it), else 0."""
    returns = np.zeros(len(rewards))
    ahead = 0.0
    for f in reversed(range(len(rewards))):
        ahead = returns[f] = rewards[f] + discount * ahead
    return returns


def negative_reward_return(rewards: Floats, discount: float, negative_reward: float) -> Floats:
    """Return-to-go for rewards of `negative_reward` per step until success, as Cal-QL computes it (methods 2.4).

    An episode that never saw another reward would have failed for ever: G = r_neg / (1 - gamma) at every step, not the
    sum up to where the recording happened to stop.
    """
    if (rewards == negative_reward).all():
        return np.full(len(rewards), negative_reward / (1 - discount))
    return discounted_return(rewards, discount)


def mode_changes(mode: Ints) -> Ints:
    """Frames at which somebody else decides than at the frame before."""
    return np.flatnonzero(np.diff(mode)) + 1


def _turns(mode: Ints) -> Ints:
    """(T,) how often the mode has changed before each frame."""
    return np.cumsum(np.append(0, np.diff(mode) != 0))


def _ends_of_turns(turn: Ints) -> Ints:
    """(T,) the first frame after each frame that is of another turn; T where none is."""
    ends = np.append(mode_changes(turn), len(turn))
    return ends[np.searchsorted(ends, np.arange(len(turn)), side="right")]


def _rewards_of(acted: Ints, rewards: Floats) -> Floats:
    """Rewards of the frames `acted`, with those of the pause after each."""
    since = acted.copy()
    since[:1] = 0  # and the first one with what came before it
    return np.add.reduceat(rewards, since)


def _chunks(actions: Floats, frame: Ints, end: Ints, size: int) -> Floats:
    return actions[np.minimum(frame[:, None] + np.arange(size), end[frame][:, None] - 1)]


def _discounted(rewards: Floats, frame: Ints, n: Ints, cfg: ChunkCfg) -> Floats:
    i = np.arange(cfg.chunk)
    inside = rewards[np.minimum(frame[:, None] + i, len(rewards) - 1)]
    return np.where(i < n[:, None], cfg.discount**i * inside, 0.0).sum(axis=1)
