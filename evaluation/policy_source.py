"""A flow policy as a source of commands: look, sample a chunk, execute its first steps, look again."""

from collections import deque
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..robot.control import Decision
from ..robot.errors import SchemaMismatch
from ..robot.types import ArmCommand, ControlMode, Observation
from ..training.flow import sample
from ..training.policy import Context, FlowPolicy, ObsBatch

Sampler = Callable[[Context, Generator], Tensor]
"""One observation's context -> flow chunk (1, h, d). Steering methods are other samplers of the same policy."""


def plain_sampler(policy: FlowPolicy, flow_steps: int, noise_std: float = 1.0) -> Sampler:
    """The policy as it is."""

    def draw(ctx: Context, rng: Generator) -> Tensor:
        return sample(policy, ctx, noise_std * noise_like(policy, 1, rng), flow_steps=flow_steps)

    return draw


def noise_like(policy: FlowPolicy, n: int, rng: Generator) -> Tensor:
    """(n, h, d) standard normal."""
    return torch.randn(n, policy.chunk_size, policy.action_dim, generator=rng)


class PolicySource:
    """CommandSource that runs a policy chunk by chunk."""

    def __init__(self, policy: FlowPolicy, sampler: Sampler, instruction: str, rng: Generator) -> None:
        self._policy, self._sampler, self._instruction, self._rng = policy, sampler, instruction, rng
        self._queue: deque[ArmCommand] = deque()
        self._chunk = -1

    def wants_frames(self) -> bool:
        return not self._queue

    def next(self, obs: Observation) -> Decision:
        if not self._queue:
            self._queue.extend(self._plan(obs))
            self._chunk += 1
        step = self._policy.n_action_steps - len(self._queue)
        return Decision(self._queue.popleft(), ControlMode.POLICY, self._chunk, step)

    def replan(self) -> None:
        """Forget the chunk that is being executed: the next command is of one sampled from what is seen then."""
        self._queue.clear()

    @torch.no_grad()
    def _plan(self, obs: Observation) -> list[ArmCommand]:
        batch = obs_batch(obs, self._instruction)
        x = self._sampler(self._policy.encode(batch), self._rng)
        actions = self._policy.from_flow(x, batch.state)[0, : self._policy.n_action_steps].numpy()
        return [ArmCommand.from_vector(a) for a in actions]


def obs_batch(obs: Observation, instruction: str) -> ObsBatch:
    """One observation of the control loop as a batch of one."""
    if not obs.frames:
        raise SchemaMismatch("the policy needs camera images, but the rig has no cameras")
    images = {name: torch.from_numpy(f.rgb.copy()).permute(2, 0, 1)[None] for name, f in obs.frames.items()}
    return ObsBatch(images, torch.from_numpy(obs.arm.vector)[None], [instruction])
