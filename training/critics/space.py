"""Critic space: the executed prefix of a flow chunk, real dims only, and the box in which the critic is trusted.

Quantile-normalised actions leave [-1, 1], so the box is that of the data (methods 1.5), the same one everywhere:
Cal-QL's uniform proposals, the ascent of Q-VGM and Q-guidance, the clip of QGF.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from ...robot.errors import ConfigError
from ..policy import exec_view
from .qfunction import clip_norm


@dataclass(frozen=True, eq=False)
class CriticSpace:
    """Box of critic chunks. C = n_action_steps executed steps, d = real dims."""

    low: Tensor  # (C, d) normalised
    high: Tensor  # (C, d) normalised
    directions: Tensor | None = None  # (C d, k) orthogonal: an ascent moves along these only, measured in their lengths

    def __post_init__(self) -> None:
        if self.low.ndim != 2 or self.low.shape != self.high.shape:
            raise ConfigError(
                f"critic space: low and high must both be (C, d), got {tuple(self.low.shape)} and "
                f"{tuple(self.high.shape)}"
            )
        if not bool((self.low < self.high).all()):  # also catches NaN
            raise ConfigError("critic space: every lower bound must be below its upper bound")

    @classmethod
    def of_data(cls, chunks: Tensor, *, margin: float = 0.0) -> Self:
        """Per-dim minimum and maximum of (n, C, d) chunks, pooled over steps, widened by `margin` x range per side."""
        flat = chunks.flatten(0, 1)  # (n C, d)
        low, high = flat.amin(0), flat.amax(0)
        slack = margin * (high - low)
        n_action_steps = chunks.shape[1]
        return cls((low - slack).repeat(n_action_steps, 1), (high + slack).repeat(n_action_steps, 1))

    @property
    def n_action_steps(self) -> int:
        return self.low.shape[0]

    @property
    def real_dim(self) -> int:
        return self.low.shape[1]

    @property
    def log_volume(self) -> float:
        """log of the box's volume; minus the log-density of `uniform`."""
        return float((self.high - self.low).double().log().sum())

    def view(self, x: Tensor) -> Tensor:
        """Flow chunk (..., h, d_flow) -> critic chunk (..., C, d)."""
        return exec_view(x, self.n_action_steps, self.real_dim)

    def embed(self, chunk: Tensor, like: Tensor) -> Tensor:
        """Critic chunk (..., C, d) -> (..., h, d_flow) of `like`, zeros elsewhere: the transpose of `view`."""
        h, d = like.shape[-2:]
        return pad(chunk, (0, d - self.real_dim, 0, h - self.n_action_steps))

    def clamp(self, chunk: Tensor) -> Tensor:
        """Nearest point of the box; its gradient is zero outside."""
        return torch.minimum(torch.maximum(chunk, self.low), self.high)

    def project(self, chunk: Tensor, start: Tensor) -> Tensor:
        """Nearest point of the box widened to contain `start`: an ascent never leaves the box, and one that does not
        move stays where it is, even outside."""
        return torch.minimum(torch.maximum(chunk, torch.minimum(self.low, start)), torch.maximum(self.high, start))

    def uphill(self, grad: Tensor, max_norm: float) -> Tensor:
        """One ascent's move (..., C, d) for a gradient, clipped to `max_norm`.

        In normalised units, or with directions D in units of their lengths: D clip(D^T grad), steepest ascent in the
        metric in which the policy's own spread is a sphere. Away from what the policy does, a critic knows nothing.
        """
        if self.directions is None:
            return clip_norm(grad, max_norm)
        along = clip_norm((grad.flatten(-2) @ self.directions)[..., None], max_norm)[..., 0]  # (..., k)
        return (along @ self.directions.T).unflatten(-1, self.low.shape)

    def gradient_of(self, move: Tensor) -> Tensor:
        """The gradient (..., C, d) whose unclipped `uphill` is `move` (..., C, d)."""
        if self.directions is None:
            return move
        along = move.flatten(-2) @ self.directions / self.directions.square().sum(0).square()  # (..., k)
        return (along @ self.directions.T).unflatten(-1, self.low.shape)

    def uniform(self, *lead: int, rng: Generator) -> Tensor:
        """(*lead, C, d) uniform in the box."""
        u = torch.rand(*lead, *self.low.shape, generator=rng, device=rng.device).to(self.low)
        return self.low + u * (self.high - self.low)

    def to(self, device: torch.device | str) -> Self:
        directions = None if self.directions is None else self.directions.to(device)
        return type(self)(self.low.to(device), self.high.to(device), directions)
