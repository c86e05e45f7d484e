import numpy as np
import pytest
from armflow.datasets.chunks import (
    ChunkCfg,
    chunk_targets,
    chunk_transitions,
    dataset_transitions,
    discounted_return,
    negative_reward_return,
)
from armflow.datasets.episodes import load_episodes, open_dataset
from armflow.robot.errors import DataError
from armflow.robot.types import ControlMode
from hypothesis import example, given
from hypothesis import strategies as st


def episode(T: int, success: bool) -> tuple[np.ndarray, np.ndarray]:
    """Actions that count up, reward 1 at the end of a success."""
    rewards = np.zeros(T)
    rewards[-1] = success
    return np.arange(T, dtype=np.float32)[:, None] * np.ones(2, np.float32), rewards


def in_turns(rng: np.random.Generator, turns: int, T: int) -> np.ndarray:
    """(T,) who decides, in up to so many turns of any length, without pauses."""
    return np.sort(rng.integers(turns, size=T)) % ControlMode.PAUSE


def test_t2_1_chunk_target() -> None:
    y = chunk_targets(np.array([1.0, 2.0]), np.array([2, 3]), np.array([True, False]), np.array([10.0, 10.0]), 0.5)
    assert y.tolist() == [1.0, 3.25]


def test_t2_4_all_failure_is_an_infinite_failure() -> None:
    assert np.allclose(negative_reward_return(np.full(7, -1.0), 0.99, -1.0), -100.0)
    mixed = np.array([-1.0, -1.0, 0.0])
    assert np.allclose(negative_reward_return(mixed, 0.5, -1.0), discounted_return(mixed, 0.5))


def test_t2_4_truncation_does_not_zero_the_bootstrap() -> None:
    actions, rewards = episode(5, success=False)
    cfg = ChunkCfg(chunk=3, discount=0.5)
    cut_off = chunk_transitions(actions, rewards, terminated=False, cfg=cfg)
    failed = chunk_transitions(actions, rewards, terminated=True, cfg=cfg)
    assert (cut_off.bootstrap > 0).all()
    assert failed.bootstrap.tolist() == [0.125, 0.125, 0, 0, 0]


def test_t6_terminated_chunks_keep_their_reward_and_need_no_next_state() -> None:
    actions, rewards = episode(5, success=True)
    t = chunk_transitions(actions, rewards, terminated=True, cfg=ChunkCfg(chunk=3, discount=0.5))
    assert t.frame.tolist() == [0, 1, 2, 3, 4]
    assert t.n_steps.tolist() == [3, 3, 3, 2, 1]
    assert t.reward.tolist() == [0, 0, 0.25, 0.5, 1]
    assert t.terminated.tolist() == [False, False, True, True, True]
    assert t.actions[3, :, 0].tolist() == [3, 4, 4]  # padded by the last action
    assert t.mc_return.tolist() == [0.0625, 0.125, 0.25, 0.5, 1]
    assert t.weight.tolist() == [1, 1, 1, 1, 1]


def test_t6_truncated_chunks_bootstrap_from_the_last_state_that_was_seen() -> None:
    actions, rewards = episode(5, success=False)
    t = chunk_transitions(actions, rewards, terminated=False, cfg=ChunkCfg(chunk=3, discount=0.5))
    assert t.next_frame.tolist() == [3, 4, 4, 4, 4]
    assert t.n_steps.tolist() == [3, 3, 2, 1, 0]
    assert t.truncated.tolist() == [False, False, True, True, True]
    assert t.bootstrap.tolist() == [0.125, 0.125, 0.25, 0.5, 1.0]
    assert t.next_actions[2, :, 0].tolist() == [4, 4, 4]


def test_t6_a_chunk_without_a_step_that_counts_has_weight_zero() -> None:
    actions, rewards = episode(5, success=False)
    t = chunk_transitions(actions, rewards, terminated=False, cfg=ChunkCfg(chunk=3, discount=0.5))
    assert t.weight.tolist() == [1, 1, 1, 1, 0]


def test_next_actions_are_the_datasets_next_chunk() -> None:
    actions, rewards = episode(9, success=True)
    t = chunk_transitions(actions, rewards, terminated=True, cfg=ChunkCfg(chunk=3, discount=0.9, stride=3))
    assert t.frame.tolist() == [0, 3, 6]
    assert t.next_frame.tolist() == [3, 6, 8]
    assert np.array_equal(t.next_actions[0], t.actions[1])
    assert np.array_equal(t.next_actions[1], t.actions[2])


def test_a_takeover_ends_the_chunk_and_its_first_state_is_the_next_one() -> None:
    actions, rewards = episode(9, success=True)
    mode = np.array([1, 1, 1, 1, 2, 2, 2, 1, 1])
    t = chunk_transitions(actions, rewards, terminated=True, cfg=ChunkCfg(chunk=3, discount=0.5), mode=mode)
    assert t.n_steps.tolist() == [3, 3, 2, 1, 3, 2, 1, 2, 1]
    assert t.next_frame.tolist() == [3, 4, 4, 4, 7, 7, 7, 8, 8]
    assert t.actions[:, :, 0].tolist() == [
        [0, 1, 2], [1, 2, 3], [2, 3, 3], [3, 3, 3], [4, 5, 6], [5, 6, 6], [6, 6, 6], [7, 8, 8], [8, 8, 8],
    ]  # fmt: skip
    assert t.next_actions[0, :, 0].tolist() == [3, 3, 3], "the next chunk is nobody else's either"
    assert t.bootstrap.tolist() == [0.125, 0.125, 0.25, 0.5, 0.125, 0.25, 0.5, 0, 0]
    assert t.terminated.tolist() == [False] * 7 + [True] * 2
    assert not t.truncated.any() and t.weight.all()


@given(
    T=st.integers(1, 40),
    chunk=st.integers(1, 12),
    stride=st.integers(1, 7),
    discount=st.floats(0.5, 1.0),
    terminated=st.booleans(),
    turns=st.integers(1, 6),
    seed=st.integers(0, 2**16),
)
def test_transitions_equal_a_hand_loop(
    T: int, chunk: int, stride: int, discount: float, terminated: bool, turns: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    actions, rewards, mode = rng.normal(size=(T, 3)), rng.normal(size=T), in_turns(rng, turns, T)
    cfg = ChunkCfg(chunk, discount, stride)
    t = chunk_transitions(actions, rewards, terminated=terminated, cfg=cfg, episode=4, mode=mode)
    assert len(t) == len(range(0, T, stride))
    for k, f in enumerate(range(0, T, stride)):
        end = next((i for i in range(f, T) if mode[i] != mode[f]), T)
        states = T + 1 if terminated else T  # a terminal state exists, but is worth nothing
        n = min(chunk, states - 1 - f, end - f)
        executed = [actions[min(f + i, end - 1)] for i in range(chunk)]
        assert (t.episode[k], t.frame[k], t.n_steps[k]) == (4, f, n)
        assert np.array_equal(t.actions[k], executed)
        assert t.reward[k] == pytest.approx(sum(discount**i * rewards[f + i] for i in range(n)))
        ends = f + chunk >= T and end == T
        assert t.bootstrap[k] == pytest.approx(0.0 if ends and terminated else discount**n)
        assert (t.terminated[k], t.truncated[k]) == (ends and terminated, ends and not terminated)
        assert t.next_frame[k] == min(f + n, T - 1)
        assert t.mc_return[k] == pytest.approx(sum(discount ** (i - f) * rewards[i] for i in range(f, T)))


@given(
    T=st.integers(2, 40),
    chunk=st.integers(1, 12),
    discount=st.floats(0.5, 0.99),
    terminated=st.booleans(),
    turns=st.integers(1, 6),
)
def test_the_true_return_satisfies_the_chunk_backup(
    T: int, chunk: int, discount: float, terminated: bool, turns: int
) -> None:
    """With V = the Monte-Carlo return, the target of every chunk that counts is the return itself."""
    rng = np.random.default_rng(T * 100 + chunk)
    actions, rewards, mode = rng.normal(size=(T, 2)), rng.normal(size=T), in_turns(rng, turns, T)
    t = chunk_transitions(actions, rewards, terminated=terminated, cfg=ChunkCfg(chunk, discount), mode=mode)
    value = discounted_return(rewards, discount)
    y = chunk_targets(t.reward, t.n_steps, t.terminated, value[t.next_frame], discount)
    assert np.allclose(y, t.mc_return)
    assert np.allclose(t.reward + t.bootstrap * value[t.next_frame], y)


PAUSE = int(ControlMode.PAUSE)


def test_a_pause_ends_the_chunk_and_the_state_after_it_is_the_next_one() -> None:
    actions, rewards = episode(9, success=True)  # and it is over while somebody pauses
    mode = np.array([1, 1, 1, PAUSE, PAUSE, 1, 1, PAUSE, PAUSE])
    t = chunk_transitions(actions, rewards, terminated=True, cfg=ChunkCfg(chunk=2, discount=0.5), mode=mode)
    assert t.frame.tolist() == [0, 1, 2, 5, 6]
    assert t.next_frame.tolist() == [2, 5, 5, 6, 6]
    assert t.n_steps.tolist() == [2, 2, 1, 2, 1]
    assert t.actions[:, :, 0].tolist() == [[0, 1], [1, 2], [2, 2], [5, 6], [6, 6]]
    assert t.next_actions[1, :, 0].tolist() == [5, 6]
    assert t.terminated.tolist() == [False, False, False, True, True]
    assert t.reward.tolist() == [0, 0, 0, 0.5, 1]
    assert t.mc_return.tolist() == [0.0625, 0.125, 0.25, 0.5, 1], "nobody lost time by pausing"


@given(
    lengths=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 4)), min_size=1, max_size=5),
    first=st.integers(0, 3),
    chunk=st.integers(1, 6),
    terminated=st.booleans(),
)
@example(lengths=[(3, 2), (4, 0)], first=1, chunk=2, terminated=False)
def test_pauses_change_nothing_but_the_numbers_of_frames(
    lengths: list[tuple[int, int]], first: int, chunk: int, terminated: bool
) -> None:
    """As if the person and the policy had taken turns without them."""
    turns = [[i % 2] * acted + [PAUSE] * paused for i, (acted, paused) in enumerate(lengths)]
    mode = np.array([PAUSE] * first + [m for turn in turns for m in turn])
    rng = np.random.default_rng(len(mode))
    actions, rewards = rng.normal(size=(len(mode), 3)), rng.normal(size=len(mode))
    acted = np.flatnonzero(mode != PAUSE)
    rewards[mode == PAUSE] = 0.0
    cfg = ChunkCfg(chunk, 0.9)
    t = chunk_transitions(actions, rewards, terminated=terminated, cfg=cfg, mode=mode)
    plain = chunk_transitions(actions[acted], rewards[acted], terminated=terminated, cfg=cfg, mode=mode[acted])
    for name in ("frame", "next_frame"):
        np.testing.assert_array_equal(getattr(t, name), acted[getattr(plain, name)])
    for name in ("actions", "n_steps", "reward", "bootstrap", "truncated", "next_actions", "mc_return", "weight"):
        np.testing.assert_array_equal(getattr(t, name), getattr(plain, name))


def test_an_episode_in_which_nobody_acted_teaches_nothing() -> None:
    actions, rewards = episode(4, success=False)
    t = chunk_transitions(actions, rewards, terminated=True, cfg=ChunkCfg(2, 0.9), mode=np.full(4, PAUSE))
    assert len(t) == 0 and t.actions.shape == (0, 2, 2)


def test_transitions_of_a_dataset_follow_its_labels(dataset) -> None:
    t = dataset_transitions(load_episodes(open_dataset(dataset)), ChunkCfg(chunk=4, discount=0.9, stride=2))
    assert sorted(set(t.episode.tolist())) == [0, 1, 2]
    assert t.terminated[t.episode == 0].any() and not t.terminated[t.episode == 1].any()
    assert t.mc_return[t.episode == 0][-1] == pytest.approx(1.0)
    assert (t.mc_return[t.episode == 1] == 0).all()


def test_lengths_that_disagree_are_refused() -> None:
    with pytest.raises(DataError, match="episode 3: 4 actions, rewards of shape"):
        chunk_transitions(np.zeros((4, 2)), np.zeros(3), terminated=True, cfg=ChunkCfg(2, 0.9), episode=3)
    with pytest.raises(DataError, match=r"episode 3: 4 actions, .* modes of shape \(5,\)"):
        modes = np.zeros(5, np.int64)
        chunk_transitions(np.zeros((4, 2)), np.zeros(4), terminated=True, cfg=ChunkCfg(2, 0.9), episode=3, mode=modes)
    with pytest.raises(DataError, match="no episodes"):
        dataset_transitions([], ChunkCfg(2, 0.9))
