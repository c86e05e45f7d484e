"""What an agent does to a checkpoint, on the shipped weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from armflow.evaluation.agents import Exploring, Plain, bend
from armflow.evaluation.twin_trials import TwinTrials
from armflow.robot.kinematics import Kinematics
from armflow.robot.rig import load_rig
from armflow.robot.seeds import seeds
from armflow.training.pi05_mini.load import SHIPPED
from armflow.training.policy import Context, ObsBatch, exec_view
from armflow.training.proposals import centre


@pytest.fixture(scope="module")
def ctx() -> Context:
    images = {name: torch.zeros(1, 3, 96, 128, dtype=torch.uint8) for name in ("head", "front")}
    return Plain(SHIPPED).load().policy.encode(ObsBatch(images, torch.zeros(1, 8), ["put the peach in the bowl"]))


def _draw(agent: Plain | Exploring, ctx: Context) -> torch.Tensor:
    with torch.no_grad():
        return agent.load().sampler(ctx, torch.Generator().manual_seed(3))


def test_exploration_moves_the_tool_and_leaves_the_gripper_to_the_policy(ctx: Context) -> None:
    policy = Plain(SHIPPED).load().policy
    plain = policy.from_flow(_draw(Plain(SHIPPED), ctx), ctx.state)[0].double().numpy()
    bent = policy.from_flow(_draw(Exploring(SHIPPED, 0.01, probability=1.0), ctx), ctx.state)[0].double().numpy()
    moved = (bent - plain)[:, :7]
    np.testing.assert_allclose(bent[:, 7], plain[:, 7], atol=1e-6)
    np.testing.assert_allclose(moved[3], moved[7] / 2, atol=1e-5, err_msg="in proportion until the chunk is executed")
    assert 1e-3 < np.abs(moved[7]).max() < 0.2
    assert torch.equal(_draw(Exploring(SHIPPED, 0.01, probability=0.0), ctx), _draw(Plain(SHIPPED), ctx))


def test_a_bent_chunk_ends_where_it_was_asked_to() -> None:
    kinematics = Kinematics(load_rig().arm)
    home = np.array(load_rig().arm.home_q)
    actions = np.tile(np.append(home, 1.0), (16, 1))
    offset_m = np.array([0.004, -0.006, 0.008])
    X_before, X_after = kinematics.forward(home), kinematics.forward(bend(actions, offset_m, 8, kinematics)[7, :7])
    np.testing.assert_allclose(X_after[:3, 3] - X_before[:3, 3], offset_m, atol=5e-4)
    np.testing.assert_allclose(X_after[:3, :3], X_before[:3, :3], atol=2e-3)


def test_without_noise_a_policy_does_the_middle_of_what_it_would_do(ctx: Context) -> None:
    """The control agent and the centre of critics agree, whatever the seed."""
    agent = Plain(SHIPPED, noise_std=0.0)
    policy = agent.load().policy
    x = _draw(agent, ctx)
    assert torch.equal(x, agent.load().sampler(ctx, torch.Generator().manual_seed(4)))
    assert torch.allclose(centre(policy, ctx), exec_view(x, policy.n_action_steps, policy.real_dim), atol=1e-5)
    assert agent.fingerprint != Plain(SHIPPED).fingerprint


def test_exploring_agents_are_told_apart_by_their_fingerprint() -> None:
    prints = {Plain(SHIPPED).fingerprint, *(Exploring(Path(SHIPPED), s).fingerprint for s in (0.02, 0.05))}
    assert len(prints) == 3


def test_a_trial_that_safety_stops_is_a_failure_with_a_film(tmp_path: Path) -> None:
    """Joints thrown about by far more than a first command may differ from the measured pose."""
    run = TwinTrials(load_rig().with_image_size(128, 96), {"wild": Exploring(SHIPPED, 100.0, probability=1.0)})
    outcome = run("wild", "pick_peach", seeds("tuning", "pick_peach", 1)[0], tmp_path / "film.mp4")
    assert not outcome.success and outcome.terminated and outcome.end_reason == "safety stop" and outcome.steps == 0
    assert (tmp_path / "film.mp4").stat().st_size > 0
