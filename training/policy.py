"""The seam between a flow-matching policy and every method that trains or steers it.

Spaces:
    raw      absolute joint targets in rad and gripper opening, as in the dataset (b, h, 8)
    flow     normalised chunk of the policy, padded dims included, full horizon (b, chunk_size, action_dim)
    critic   the executed prefix of the flow chunk, real dims only (b, n_action_steps, real_dim): `exec_view`
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Protocol, Self

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ObsBatch:
    """What a policy sees: one instant of `b` robots."""

    images: dict[str, Tensor]  # camera name -> (b, 3, h, w) uint8
    state: Tensor  # (b, 8) joint positions, rad, then gripper opening
    instructions: list[str]  # length b


@dataclass(frozen=True, eq=False)
class Context:
    """Outputs of the frozen vision-language prefix for `b` observations: all that `velocity` needs of them."""

    keys: Tensor  # (b, layers, tokens, kv_width)
    values: Tensor  # (b, layers, tokens, kv_width)
    tokens: Tensor  # (b, tokens, width) last-layer outputs, input of the RL-token encoder
    mask: Tensor  # (b, tokens) bool, False on padding
    state: Tensor  # (b, 8) raw robot state; relative actions refer to it

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Self:
        return replace(self, **{f.name: fn(getattr(self, f.name)) for f in fields(self)})

    def __len__(self) -> int:
        return self.state.shape[0]

    def __getitem__(self, index: Tensor | slice) -> Self:
        return self._map(lambda x: x[index])

    def repeat_interleave(self, n: int) -> Self:
        """Each observation `n` times in a row: (b, ...) -> (b * n, ...)."""
        return self._map(lambda x: x.repeat_interleave(n, dim=0))

    def float(self) -> Self:
        return self._map(lambda x: x.float() if x.is_floating_point() else x)

    def to(self, device: torch.device | str) -> Self:
        return self._map(lambda x: x.to(device))

    @classmethod
    def cat(cls, parts: list[Self]) -> Self:
        return cls(**{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(cls)})


class VelocityField(Protocol):
    """The part of a policy that Q-VGM trains and every sampler needs."""

    @property
    def chunk_size(self) -> int: ...

    @property
    def action_dim(self) -> int: ...

    def velocity(self, ctx: Context, x: Tensor, t: Tensor) -> Tensor:
        """v(x, t | ctx) in our convention, t = 1 noise, t = 0 clean. x: (b, h, d), t: (b,) -> (b, h, d)."""
        ...


class FlowPolicy(VelocityField, Protocol):
    @property
    def n_action_steps(self) -> int: ...

    @property
    def real_dim(self) -> int: ...

    def encode(self, obs: ObsBatch) -> Context:
        """Run the frozen vision-language prefix, once per observation."""
        ...

    def to_flow(self, actions: Tensor, state: Tensor) -> Tensor:
        """Raw chunk (b, h, 8) and raw state (b, 8) -> flow space (b, h, d). Raises MissingStats."""
        ...

    def from_flow(self, x: Tensor, state: Tensor) -> Tensor:
        """Inverse of `to_flow` on the real dims: (b, h, d) -> (b, h, 8) raw."""
        ...


def exec_view(x: Tensor, n_action_steps: int, real_dim: int) -> Tensor:
    """Flow chunk (..., h, d) -> critic chunk (..., n_action_steps, real_dim), a view: gradients re-enter x with zeros
    on the steps that are not executed and on padded dims."""
    return x[..., :n_action_steps, :real_dim]
