"""What an agent does to a checkpoint, on the shipped weights."""

from pathlib import Path

import pytest
import torch
from armflow.evaluation.agents import Exploring, Plain
from armflow.evaluation.twin_trials import TwinTrials
from armflow.robot.rig import load_rig
from armflow.robot.seeds import seeds
from armflow.training.pi05_mini.load import SHIPPED
from armflow.training.policy import Context, ObsBatch


@pytest.fixture(scope="module")
def ctx() -> Context:
    images = {name: torch.zeros(1, 3, 96, 128, dtype=torch.uint8) for name in ("head", "front")}
    return Plain(SHIPPED).load().policy.encode(ObsBatch(images, torch.zeros(1, 8), ["put the peach in the bowl"]))


def _draw(agent: Plain | Exploring, ctx: Context) -> torch.Tensor:
    with torch.no_grad():
        return agent.load().sampler(ctx, torch.Generator().manual_seed(3))


def test_exploration_is_one_offset_of_the_joints_per_chunk(ctx: Context) -> None:
    moved = _draw(Exploring(SHIPPED, 0.05), ctx) - _draw(Plain(SHIPPED), ctx)
    joints, rest = moved[0, :, :7], moved[0, :, 7:]
    assert torch.allclose(joints, joints[:1].expand_as(joints), atol=1e-6) and bool((joints[0].abs() > 0).all())
    assert bool((rest == 0).all()), "the gripper does what the policy wants"


def test_exploring_agents_are_told_apart_by_their_fingerprint() -> None:
    prints = {Plain(SHIPPED).fingerprint, *(Exploring(Path(SHIPPED), s).fingerprint for s in (0.02, 0.05))}
    assert len(prints) == 3


def test_a_trial_that_safety_stops_is_a_failure_with_a_film(tmp_path: Path) -> None:
    """Joints thrown about by far more than a first command may differ from the measured pose."""
    run = TwinTrials(load_rig().with_image_size(128, 96), {"wild": Exploring(SHIPPED, 100.0)})
    outcome = run("wild", "pick_peach", seeds("tuning", "pick_peach", 1)[0], tmp_path / "film.mp4")
    assert not outcome.success and outcome.terminated and outcome.end_reason == "safety stop" and outcome.steps == 0
    assert (tmp_path / "film.mp4").stat().st_size > 0
