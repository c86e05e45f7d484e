from pathlib import Path

import numpy as np
import pytest
from armflow.datasets.episodes import EpisodeArrays, load_episodes, open_dataset
from armflow.datasets.stats import (
    ACTION,
    RELATIVE_ACTION,
    STATE,
    DatasetStats,
    StatsCfg,
    absolute_chunk_actions,
    compute_stats,
    fraction_outside,
    load_stats,
    pool,
    relative_chunk_actions,
    save_stats,
)
from armflow.robot.errors import MissingStats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

NAMES = ("joint1.pos", "gripper.pos")


@pytest.fixture
def episodes(dataset: Path) -> list[EpisodeArrays]:
    return load_episodes(open_dataset(dataset))


def test_quantiles_are_those_of_all_frames_together(episodes: list[EpisodeArrays]) -> None:
    names = open_dataset(episodes[0].ref.data.parents[2]).schema.action_names
    stats = compute_stats(episodes, names, StatsCfg(horizon=4, min_range=0.0))
    states = np.concatenate([e.state for e in episodes]).astype(np.float64)
    assert np.array_equal(stats[STATE].q01, np.quantile(states, 0.01, axis=0))
    assert np.array_equal(stats[STATE].q99, np.quantile(states, 0.99, axis=0))
    assert np.allclose(stats[STATE].mean, states.mean(axis=0)) and np.allclose(stats[STATE].std, states.std(axis=0))
    assert stats[STATE].count == 28 and stats[STATE].names == names

    relative = [  # every action within 4 steps of every frame of the same episode, by hand
        np.append(e.action[j, :-1] - e.state[i, :-1], e.action[j, -1])
        for e in episodes
        for i in range(len(e))
        for j in range(i, min(i + 4, len(e)))
    ]
    assert stats[RELATIVE_ACTION].count == len(relative)
    assert np.allclose(stats[RELATIVE_ACTION].q01, np.quantile(relative, 0.01, axis=0), atol=1e-6)
    assert np.allclose(stats[ACTION].max, np.concatenate([e.action for e in episodes]).max(axis=0))


def test_averaging_episodes_would_have_been_wrong() -> None:
    """The published failure: episodes in different places have narrow ranges each, the data a wide one."""
    episodes = [np.random.default_rng(i).normal(place, 0.05, (200, 2)) for i, place in enumerate((-0.9, 0.0, 0.9))]
    averaged = np.mean([np.quantile(e, 0.99, axis=0) for e in episodes], axis=0)
    pooled = pool(np.concatenate(episodes), NAMES, 0.0)
    assert (averaged < 0.2).all() and (pooled.q99 > 0.9).all()
    assert (fraction_outside(np.concatenate(episodes), pooled) < 0.03).all()


def test_a_joint_that_never_moves_gets_a_range_of_its_own() -> None:
    still = pool(np.full((50, 2), 0.3), NAMES, 0.02)
    assert np.allclose(still.q99 - still.q01, 0.02) and np.allclose((still.q99 + still.q01) / 2, 0.3)


@given(arrays(np.float64, (30, 2), elements=st.floats(-10, 10)), st.floats(0.001, 1.0))
def test_the_range_is_never_below_its_floor_and_at_most_two_percent_lie_outside(
    values: np.ndarray, min_range: float
) -> None:
    stats = pool(values, NAMES, min_range)
    assert (stats.q99 - stats.q01 >= min_range - 1e-12).all()
    assert (fraction_outside(values, stats) <= 2 / 30 + 1e-12).all()


@given(st.integers(1, 20), st.integers(1, 12), st.integers(0, 1000))
def test_relative_chunks_invert_and_leave_the_gripper_alone(n: int, horizon: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    actions, states = rng.normal(size=(n, 3)), rng.normal(size=(n, 3))
    chunks, valid = relative_chunk_actions(actions, states, horizon)
    restored = absolute_chunk_actions(chunks, states)
    for i in range(n):
        for h in range(horizon):
            assert np.allclose(restored[i, h], actions[min(i + h, n - 1)])
            assert chunks[i, h, -1] == actions[min(i + h, n - 1), -1]
            assert valid[i, h] == (i + h < n)


def test_missing_statistics_are_an_error_that_lists_what_there_is(
    episodes: list[EpisodeArrays], tmp_path: Path
) -> None:
    stats = compute_stats(episodes, tuple("abcdefgh"), StatsCfg(horizon=2))
    with pytest.raises(MissingStats, match="no statistics of 'torque'; available: action, action.relative, obs"):
        stats["torque"]
    with pytest.raises(MissingStats, match="does not exist"):
        load_stats(tmp_path / "stats.json")
    (tmp_path / "stats.json").write_text("{}")
    with pytest.raises(MissingStats, match="no normalisation statistics"):
        load_stats(tmp_path / "stats.json")
    with pytest.raises(MissingStats, match="no frames"):
        compute_stats([], NAMES)


def test_statistics_survive_a_file(episodes: list[EpisodeArrays], tmp_path: Path) -> None:
    stats = compute_stats(episodes, tuple("abcdefgh"), StatsCfg(horizon=2))
    save_stats(tmp_path / "stats.json", stats)
    loaded = load_stats(tmp_path / "stats.json")
    assert isinstance(loaded, DatasetStats) and loaded.horizon == 2
    assert loaded.to_json() == stats.to_json()
    assert np.array_equal(loaded[RELATIVE_ACTION].q01, stats[RELATIVE_ACTION].q01)
