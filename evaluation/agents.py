"""What can be put on the arm: a checkpoint as it is, or a checkpoint steered by a critic at test time.

An agent is described by a small value that can be saved, hashed and sent to a worker; `load` turns it into samplers.
"""

from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Generator, Tensor

from ..robot.kinematics import Kinematics
from ..robot.rig import ArmCfg
from ..robot.types import Floats
from ..training import run
from ..training.critics.ascent import AscentCfg, embedded_ascent
from ..training.critics.qfunction import QFunction
from ..training.flow import sample
from ..training.pi05_mini.load import load_policy
from ..training.pi05_mini.modeling_pi05_mini import PI05MiniPolicy
from ..training.policy import Context, ObsBatch
from ..training.prefix_cache import prefix_hash
from ..training.proposals import centre
from ..training.stages.critic import load_critic
from ..training.stages.rlt import load_rlt
from ..training.stages.sft import weights_hash
from ..training.steering.best_of_n import BestOfNCfg, best_of_n, candidate_noise
from ..training.steering.q_guidance import QGFCfg, climb, qgf
from .policy_source import Sampler, noise_like, plain_sampler


@dataclass(frozen=True, eq=False)
class LoadedAgent:
    """A policy and how to draw chunks from it."""

    policy: PI05MiniPolicy
    sampler: Sampler


class Agent(Protocol):
    """Description of something that can act."""

    checkpoint: Path

    def load(self) -> LoadedAgent: ...

    @property
    def fingerprint(self) -> str:
        """Changes with the weights and with every setting that changes behaviour."""
        ...


@dataclass(frozen=True)
class Plain:
    """The checkpoint as it is; with `noise_std` 0, control: only the middle of what it would do, at every step."""

    checkpoint: Path
    flow_steps: int = 10
    noise_std: float = 1.0  # of what the flow starts from; it was trained for 1

    def load(self) -> LoadedAgent:
        policy = load_policy(self.checkpoint)
        return LoadedAgent(policy, plain_sampler(policy, self.flow_steps, self.noise_std))

    @property
    def fingerprint(self) -> str:
        return f"plain {weights_hash(self.checkpoint)} flow_steps={self.flow_steps} noise_std={self.noise_std}"


@dataclass(frozen=True)
class Exploring:
    """The checkpoint, with some chunks bent so that the tool ends up a little elsewhere.

    A policy that does nearly the same in the same state teaches a critic nothing about what else could be done there.
    """

    checkpoint: Path
    offset_std_m: float  # per axis, of where the tool is when the chunk has been executed
    probability: float = 0.5  # that a chunk is bent; the others are the policy's own
    flow_steps: int = 10
    arm: ArmCfg = ArmCfg()  # that the checkpoint moves

    def load(self) -> LoadedAgent:
        policy = load_policy(self.checkpoint)
        plain = plain_sampler(policy, self.flow_steps)
        kinematics = Kinematics(self.arm)

        def draw(ctx: Context, rng: Generator) -> Tensor:
            x = plain(ctx, rng)
            bends = float(torch.rand((), generator=rng)) < self.probability
            offset_m = self.offset_std_m * torch.randn(3, generator=rng).double().numpy()
            if not bends:
                return x
            actions = policy.from_flow(x, ctx.state)[0].double().numpy()
            bent = bend(actions, offset_m, policy.n_action_steps, kinematics)
            return policy.to_flow(torch.from_numpy(bent).float()[None], ctx.state)

        return LoadedAgent(policy, draw)

    @property
    def fingerprint(self) -> str:
        settings = f"{self.offset_std_m} m with {self.probability}"
        return f"exploring {settings} {weights_hash(self.checkpoint)} flow_steps={self.flow_steps}"


def bend(actions: Floats, offset_m: Floats, n_steps: int, kinematics: Kinematics) -> Floats:
    """Joint targets and gripper (h, 8) with the tool displaced by `offset_m` (3,) after `n_steps`, in proportion before,
    and by as much afterwards."""
    ramp = np.minimum(np.arange(1, len(actions) + 1) / n_steps, 1.0)
    bent = actions.copy()
    bent[:, :-1] += ramp[:, None] * kinematics.shift(actions[n_steps - 1, :-1], offset_m)
    return bent


@dataclass(frozen=True)
class QSelection:
    """Best of N chunks by the critic."""

    checkpoint: Path
    critic: Path
    method: BestOfNCfg = field(default_factory=BestOfNCfg)

    def load(self) -> LoadedAgent:
        policy = load_policy(self.checkpoint)
        judge = _Judge(policy, self.critic)

        def draw(ctx: Context, rng: Generator) -> Tensor:
            noise = candidate_noise(policy, 1, self.method, rng)
            return best_of_n(policy, ctx, noise, judge.at(ctx), judge.space, self.method).x

        return LoadedAgent(policy, draw)

    @property
    def fingerprint(self) -> str:
        return f"q-selection {_critic_fingerprint(self)} {self.method}"


@dataclass(frozen=True)
class QGuidance:
    """Gradient ascent on the final chunk, keeping the best point (the Q-VGM paper's Q-guidance)."""

    checkpoint: Path
    critic: Path
    method: AscentCfg = field(default_factory=embedded_ascent)
    flow_steps: int = 10

    def load(self) -> LoadedAgent:
        policy = load_policy(self.checkpoint)
        judge = _Judge(policy, self.critic)

        def draw(ctx: Context, rng: Generator) -> Tensor:
            x = sample(policy, ctx, noise_like(policy, 1, rng), flow_steps=self.flow_steps)
            return climb(x, judge.at(ctx), judge.space, self.method)

        return LoadedAgent(policy, draw)

    @property
    def fingerprint(self) -> str:
        return f"q-guidance {_critic_fingerprint(self)} {self.method} flow_steps={self.flow_steps}"


@dataclass(frozen=True)
class FlowGuidance:
    """The critic's gradient inside the flow (QGF)."""

    checkpoint: Path
    critic: Path
    method: QGFCfg = field(default_factory=QGFCfg)
    flow_steps: int = 10

    def load(self) -> LoadedAgent:
        policy = load_policy(self.checkpoint)
        judge = _Judge(policy, self.critic)

        def draw(ctx: Context, rng: Generator) -> Tensor:
            guidance = qgf(judge.at(ctx), judge.space, self.method)
            return sample(policy, ctx, noise_like(policy, 1, rng), flow_steps=self.flow_steps, guidance=guidance)

        return LoadedAgent(policy, draw)

    @property
    def fingerprint(self) -> str:
        return f"flow-guidance {_critic_fingerprint(self)} {self.method} flow_steps={self.flow_steps}"


@dataclass(frozen=True)
class BlankedCameras:
    """Control: the checkpoint with every image black. A policy that sees must fail like this."""

    checkpoint: Path
    flow_steps: int = 10

    def load(self) -> LoadedAgent:
        policy = load_policy(self.checkpoint)
        sighted = policy.encode

        def blind(obs: ObsBatch) -> Context:
            return sighted(replace(obs, images={name: torch.zeros_like(x) for name, x in obs.images.items()}))

        policy.encode = blind  # type: ignore[method-assign]
        return LoadedAgent(policy, plain_sampler(policy, self.flow_steps))

    @property
    def fingerprint(self) -> str:
        return f"blanked cameras {weights_hash(self.checkpoint)} flow_steps={self.flow_steps}"


AnyAgent = Plain | Exploring | BlankedCameras | QSelection | QGuidance | FlowGuidance


class _Judge:
    """The critic of a policy, asked about one context at a time."""

    def __init__(self, policy: PI05MiniPolicy, critic: Path) -> None:
        self._policy, self._critic = policy, load_critic(critic)
        self._token = load_rlt(self._critic.rlt, prefix_hash(policy))
        self.space = self._critic.space

    def at(self, ctx: Context) -> QFunction:
        """What the critic says of chunks at this context."""
        # Half precision in between, as in the caches that RL token and critic were trained on.
        z = self._token.encode(ctx.tokens.half().float(), ctx.mask)
        proprio = self._policy.state_norm.normalise(ctx.state)
        return self._critic.judge(z, proprio, centre(self._policy, ctx) if self._critic.needs_centre else None)


def _critic_fingerprint(agent: QSelection | QGuidance | FlowGuidance) -> str:
    return f"{weights_hash(agent.checkpoint)} critic={run.file_hash(agent.critic / 'critic.safetensors')}"


@lru_cache(maxsize=8)
def load_cached(agent: AnyAgent) -> LoadedAgent:
    """Loaded once per process."""
    return agent.load()
