"""The tasks as Gymnasium environments."""

import subprocess
import sys
import warnings
from collections.abc import Iterator
from multiprocessing import Pipe
from typing import Any

import gymnasium
import numpy as np
import pytest
from armflow.robot.errors import SafetyStop
from armflow.robot.twin import gym
from armflow.robot.twin.task import MILESTONES
from gymnasium.utils.env_checker import check_env

SMALL: dict[str, Any] = {"width": 32, "height": 24}
FRESH = """
import sys, gymnasium
assert not any(name.startswith("armflow") for name in sys.modules)
env = gymnasium.make("armflow.robot.twin.gym:{}", width=32, height=24)
obs, info = env.reset(seed=0)
obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
print(env.spec.id, obs["images"]["head"]["rgb"].shape, info["instruction"])
"""


@pytest.fixture
def env() -> Iterator[gymnasium.Env]:
    made = gymnasium.make("armflow/PickPeach-v0", **SMALL)
    yield made
    made.close()


@pytest.mark.parametrize(("env_id", "words"), [("armflow/PickPeach-v0", "peach"), ("armflow/StackBowls-v0", "bowl")])
def test_the_ids_are_found_by_a_process_that_knows_only_gymnasium(env_id: str, words: str):
    done = subprocess.run(
        [sys.executable, "-c", FRESH.format(env_id)], capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.stdout.startswith(f"{env_id} (24, 32, 3) "), done.stderr
    assert words in done.stdout


@pytest.mark.parametrize("env_id", gym.IDS)
def test_the_environment_checker_is_content(env_id: str):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*Box (low|high|observation space).*|.*inf.*")
        check_env(gymnasium.make(env_id, render_mode="rgb_array", **SMALL).unwrapped)


def test_registering_twice_changes_nothing():
    spec = gymnasium.spec("armflow/PickPeach-v0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gym.register()
    assert gymnasium.spec("armflow/PickPeach-v0") is spec
    here, worker = Pipe()
    here.send(spec)
    assert worker.recv() == spec, "vector environments send it to their workers"


def test_a_seed_is_an_episode(env: gymnasium.Env):
    runs = []
    for seed in (5, 5, 6):
        obs, _ = env.reset(seed=seed)
        action = obs["state"].copy()
        action[7] = 0.0
        for _ in range(3):
            obs, *_ = env.step(action)
        runs.append(obs)
    np.testing.assert_array_equal(runs[0]["state"], runs[1]["state"])
    np.testing.assert_array_equal(runs[0]["images"]["front"]["rgb"], runs[1]["images"]["front"]["rgb"])
    assert not np.array_equal(runs[0]["state"], runs[2]["state"])


def test_an_action_moves_the_arm_as_far_as_safety_allows(env: gymnasium.Env):
    obs, _ = env.reset(seed=0)
    start = obs["state"].copy()
    obs, reward, terminated, truncated, info = env.step(np.append(start[:7] + 1.0, 1.0).astype(np.float32))
    assert 0.05 < np.abs(obs["state"][:7] - start[:7]).max() < 0.35
    assert info["safety_flags"] != 0
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert info["milestone"] == 0 and info["milestones"] == len(MILESTONES)
    assert "inside" in info["missing"]


def test_nonsense_is_refused(env: gymnasium.Env):
    env.reset(seed=0)
    with pytest.raises(SafetyStop, match=r"joint1\.pos"):
        env.step(np.full(8, np.nan, np.float32))


def test_an_episode_is_cut_at_the_time_limit(env: gymnasium.Env):
    """Fifteen seconds. `truncated`, not `terminated`: a value function has to look beyond."""
    env = gymnasium.make("armflow/PickPeach-v0", max_episode_steps=4, **SMALL)
    obs, _ = env.reset(seed=0)
    ends = [env.step(obs["state"])[2:4] for _ in range(4)]
    assert ends == [(False, False)] * 3 + [(False, True)]
    assert gymnasium.spec("armflow/PickPeach-v0").max_episode_steps == 150
    env.close()


def test_the_first_step_needs_a_reset():
    env = gym.TwinEnv("pick_peach", **SMALL)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(8, np.float32))
    env.close()


def test_environments_side_by_side_see_their_own_scenes():
    envs = gymnasium.make_vec("armflow/StackBowls-v0", 2, "sync", **SMALL)
    together, _ = envs.reset(seed=[1, 2])  # type: ignore[arg-type]  # as documented
    for i, seed in enumerate((1, 2)):
        alone = gymnasium.make("armflow/StackBowls-v0", **SMALL)
        obs, _ = alone.reset(seed=seed)
        np.testing.assert_array_equal(together["images"]["head"]["rgb"][i], obs["images"]["head"]["rgb"])
        alone.close()
    envs.close()
    envs.close()
