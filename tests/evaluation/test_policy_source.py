"""A policy acts chunk by chunk and looks only when it plans."""

import numpy as np
import pytest
import torch
from armflow.evaluation.policy_source import PolicySource, plain_sampler
from armflow.robot.errors import SchemaMismatch
from armflow.robot.types import ArmState, ControlMode, Observation, RgbdFrame
from armflow.training.policy import Context, ObsBatch
from torch import Tensor


class CountingPolicy:
    """Velocity minus the noise direction: samples to the number of times it has looked."""

    chunk_size, n_action_steps, action_dim, real_dim = 4, 3, 8, 8

    def __init__(self) -> None:
        self.looks: list[ObsBatch] = []

    def encode(self, obs: ObsBatch) -> Context:
        self.looks.append(obs)
        one = torch.zeros(1, 1, 1, 1)
        return Context(one, one, torch.zeros(1, 1, 1), torch.ones(1, 1, dtype=torch.bool), obs.state)

    def velocity(self, ctx: Context, x: Tensor, t: Tensor) -> Tensor:
        return (x - len(self.looks)) / t[:, None, None]

    def to_flow(self, actions: Tensor, state: Tensor) -> Tensor:
        return actions

    def from_flow(self, x: Tensor, state: Tensor) -> Tensor:
        return x


def _observation(with_frames: bool) -> Observation:
    arm = ArmState(0.0, np.zeros(7), np.zeros(7), np.zeros(7), 1.0)
    frame = RgbdFrame(0.0, 0, np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.uint16))
    return Observation(0.0, arm, {"head": frame} if with_frames else {})


def _source(policy: CountingPolicy) -> PolicySource:
    return PolicySource(policy, plain_sampler(policy, 2), "put the ball", torch.Generator().manual_seed(0))


def test_it_looks_once_per_chunk_and_executes_the_first_steps() -> None:
    policy = CountingPolicy()
    source = _source(policy)
    seen = []
    for _ in range(7):
        decision = source.next(_observation(source.wants_frames()))
        seen.append((decision.chunk_index, decision.chunk_step, round(float(decision.command.q[0]), 4)))
    assert seen == [(0, 0, 1), (0, 1, 1), (0, 2, 1), (1, 0, 2), (1, 1, 2), (1, 2, 2), (2, 0, 3)]
    assert len(policy.looks) == 3
    assert policy.looks[0].instructions == ["put the ball"]
    assert tuple(policy.looks[0].images["head"].shape) == (1, 3, 4, 6)


def test_told_to_replan_it_looks_again_and_begins_a_new_chunk() -> None:
    policy = CountingPolicy()
    source = _source(policy)
    source.next(_observation(source.wants_frames()))
    assert not source.wants_frames()
    source.replan()
    assert source.wants_frames()
    decision = source.next(_observation(True))
    assert (decision.chunk_index, decision.chunk_step, len(policy.looks)) == (1, 0, 2)


def test_its_actions_are_marked_as_the_policys() -> None:
    source = _source(CountingPolicy())
    assert source.next(_observation(True)).mode is ControlMode.POLICY


def test_a_rig_without_cameras_is_refused() -> None:
    with pytest.raises(SchemaMismatch, match="no cameras"):
        _source(CountingPolicy()).next(_observation(False))
