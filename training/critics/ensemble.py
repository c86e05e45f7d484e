"""Chunk critic: an ensemble of full heads with the action injected at every hidden layer (Q-VGM App. A, methods 2.5).

    s_m   = LN([z_rl ; W_m p])                                   state, per head m
    h_1   = act(LN(U_1m s_m + V_1m a + b_1m))                    a = flattened executed chunk
    h_i   = act(LN(U_im h_{i-1} + V_im a + b_im))
    Q_m   = w_m h_L + c_m

Heads share nothing: a shared trunk collapses their disagreement. They run as one batched product per layer.
LayerNorms carry no scale or shift, which makes the paper's shape (2304, 35, 1024, 512) exactly 2,939,393 parameters
per head without W_m.
"""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import layer_norm, silu

from ...robot.errors import ConfigError
from .qfunction import QFunction, advantage


@dataclass(frozen=True)
class CriticCfg:
    """Shape of every head. The defaults are the paper's hidden sizes."""

    n_heads: int = 5  # independent critics; 2 suffice for TD, 5 to 10 give a usable disagreement
    hidden: tuple[int, ...] = (1024, 512)  # widths of the hidden layers
    proprio_width: int = 256  # width of W_p p, so that 8 joints are not drowned by the RL token
    mahalanobis: int | None = None
    """None: heads see the chunk. k: they see how far it is from the base policy's chunk without noise, one number, the
    squared Mahalanobis distance along the k directions in which the data differ most from that."""

    def __post_init__(self) -> None:
        if self.mahalanobis is not None and self.mahalanobis < 1:
            raise ConfigError(f"critic: mahalanobis must be >= 1 or None (the whole chunk), got {self.mahalanobis}")

    @property
    def relative(self) -> bool:
        """Whether heads see chunks relative to the base policy's."""
        return self.mahalanobis is not None


def embedded_critic() -> CriticCfg:
    """For a 2-core CPU and a few hundred rollouts.

    So few binary outcomes do not determine a slope along every direction of a chunk: an ascent along all of them ends where
    the policy has never been. Where it matters that a chunk is unusual for the policy they do determine, so that is what
    these heads see; ten, for a usable disagreement.
    """
    return CriticCfg(n_heads=10, hidden=(256, 256), proprio_width=64, mahalanobis=40)


class HeadLinear(nn.Module):
    """One linear layer per head, as nn.Linear would initialise it for `fan_in` inputs."""

    def __init__(self, n_heads: int, n_in: int, n_out: int, *, fan_in: int, bias: bool, rng: Generator) -> None:
        super().__init__()
        bound = 1 / math.sqrt(fan_in)
        self.weight = nn.Parameter(torch.empty(n_heads, n_in, n_out).uniform_(-bound, bound, generator=rng))
        self.bias = nn.Parameter(torch.empty(n_heads, 1, n_out).uniform_(-bound, bound, generator=rng)) if bias else 0.0

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """(heads, n, in) -> (heads, n, out), `plus` (heads, n, out) added."""
        if plus is not None:
            return torch.baddbmm(plus, x, self.weight) + self.bias
        if isinstance(self.bias, Tensor):
            return torch.baddbmm(self.bias, x, self.weight)
        return torch.bmm(x, self.weight)


class CriticEnsemble(nn.Module):
    """`cfg.n_heads` critics of (z, proprio, chunk). Inputs are expected to be normalised, in float32."""

    def __init__(
        self, cfg: CriticCfg, *, z_dim: int, proprio_dim: int, chunk_shape: tuple[int, int], rng: Generator
    ) -> None:
        super().__init__()
        self.cfg = cfg
        self.chunk_shape = chunk_shape  # (C, d)
        n, action = cfg.n_heads, 1 if cfg.relative else math.prod(chunk_shape)
        widths = (z_dim + cfg.proprio_width, *cfg.hidden)
        self.proprio = HeadLinear(n, proprio_dim, cfg.proprio_width, fan_in=proprio_dim, bias=False, rng=rng)
        self.state_layers = nn.ModuleList()  # U_i, b_i
        self.action_layers = nn.ModuleList()  # V_i
        for n_in, n_out in zip(widths[:-1], widths[1:], strict=True):
            fan_in = n_in + action  # one layer on the concatenation [h ; a]
            self.state_layers.append(HeadLinear(n, n_in, n_out, fan_in=fan_in, bias=True, rng=rng))
            injection = HeadLinear(n, action, n_out, fan_in=fan_in, bias=False, rng=rng)
            if cfg.relative:  # what the data never shows must not get a slope by chance
                nn.init.zeros_(injection.weight)
            self.action_layers.append(injection)
        self.out = HeadLinear(n, widths[-1], 1, fan_in=widths[-1], bias=True, rng=rng)
        self.directions: Tensor | None  # (C d, k) orthogonal, each as long as the data's deviation along it
        self.register_buffer("directions", None)
        if cfg.mahalanobis is not None:
            if cfg.mahalanobis > math.prod(chunk_shape):
                raise ConfigError(f"critic: {cfg.mahalanobis} directions in chunks of {math.prod(chunk_shape)} numbers")
            self.directions = torch.eye(math.prod(chunk_shape))[:, : cfg.mahalanobis].clone()

    def fit_directions(self, chunk: Tensor, centre: Tensor) -> None:
        """Take the directions from data: chunks (n, C, d) and the base policy's (n, C, d). Raises if there are too few."""
        if self.directions is not None:
            if len(chunk) < self.directions.shape[1]:
                raise ConfigError(
                    f"critic: {len(chunk)} chunks do not have {self.directions.shape[1]} directions; collect more rollouts"
                )
            _, length, direction = torch.linalg.svd((chunk - centre).flatten(1).double(), full_matrices=False)
            deviation = (length / math.sqrt(len(chunk))).clamp(min=1e-4)
            self.directions.copy_((direction.T * deviation)[:, : self.cfg.mahalanobis])

    def q(self, z: Tensor, proprio: Tensor, chunk: Tensor, centre: Tensor | None = None) -> Tensor:
        """z (b, z), proprio (b, p), chunk (..., b, C, d), centre (b, C, d) -> (heads, ..., b)."""
        return self.at(z, proprio, centre)(chunk)

    def at(self, z: Tensor, proprio: Tensor, centre: Tensor | None = None) -> QFunction:
        """Q of these states as a function of the chunk; `centre` (b, C, d), the base policy's chunk without noise there, is
        needed by a critic of distances only. The state's share of the first layer, most of the work, is computed once
        here, however many candidates follow."""
        if centre is None and self.cfg.relative:
            raise ConfigError("critic: it sees how far a chunk is from the base policy's, and was not given that")
        n, b = self.cfg.n_heads, z.shape[0]
        p = self.proprio(proprio.expand(n, -1, -1))  # (n, b, proprio_width)
        s = _norm(torch.cat([z.expand(n, -1, -1), p], -1))  # (n, b, z + proprio_width)
        h_state = self.state_layers[0](s)  # (n, b, h_1)

        def q_fn(chunk: Tensor) -> Tensor:
            if chunk.shape[-3:] != (b, *self.chunk_shape):
                raise ConfigError(
                    f"critic: expected chunks (..., {b}, {self.chunk_shape[0]}, {self.chunk_shape[1]}), "
                    f"got {tuple(chunk.shape)}"
                )
            lead = chunk.shape[:-2]  # (..., b)
            a = self._seen(chunk, centre).flatten(0, -2).expand(n, -1, -1)  # (n, m b, C d or 1)
            h = self.action_layers[0](a).unflatten(1, (-1, b)) + h_state[:, None]  # (n, m, b, h_1)
            h = silu(_norm(h)).flatten(1, 2)  # (n, m b, h_1)
            for u, v in zip(self.state_layers[1:], self.action_layers[1:], strict=True):
                h = silu(_norm(u(h, plus=v(a))))  # (n, m b, h_i)
            return self.out(h).reshape(n, *lead)

        return q_fn

    def judge(self, z: Tensor, proprio: Tensor, centre: Tensor | None = None) -> QFunction:
        """What selection and ascents go by in these states: Q, over that of `centre` if the heads see chunks relative to
        it."""
        q_fn = self.at(z, proprio, centre)
        return advantage(q_fn, centre) if self.cfg.relative and centre is not None else q_fn

    def _seen(self, chunk: Tensor, centre: Tensor | None) -> Tensor:
        """What the heads see of a chunk (..., b, C, d): (..., b, C d), or (..., b, 1) of unit variance for Gaussian data."""
        if self.directions is None or centre is None:
            return chunk.flatten(-2)
        k = self.directions.shape[1]
        deviations = (chunk - centre).flatten(-2) @ (self.directions / self.directions.square().sum(0))  # (..., b, k)
        return (deviations.square().sum(-1, keepdim=True) - k) / math.sqrt(2 * k)


class ValueNet(nn.Module):
    """V(z, proprio) for IQL, the same shape as one head without the action."""

    def __init__(self, cfg: CriticCfg, *, z_dim: int, proprio_dim: int, rng: Generator) -> None:
        super().__init__()
        widths = (z_dim + cfg.proprio_width, *cfg.hidden)
        self.proprio = HeadLinear(1, proprio_dim, cfg.proprio_width, fan_in=proprio_dim, bias=False, rng=rng)
        self.layers = nn.ModuleList(
            HeadLinear(1, n_in, n_out, fan_in=n_in, bias=True, rng=rng)
            for n_in, n_out in zip(widths[:-1], widths[1:], strict=True)
        )
        self.out = HeadLinear(1, widths[-1], 1, fan_in=widths[-1], bias=True, rng=rng)

    def forward(self, z: Tensor, proprio: Tensor) -> Tensor:
        """z (b, z), proprio (b, p) -> (b,)."""
        h = _norm(torch.cat([z[None], self.proprio(proprio[None])], -1))  # (1, b, z + proprio_width)
        for layer in self.layers:
            h = silu(_norm(layer(h)))
        return self.out(h)[0, :, 0]


def _norm(x: Tensor) -> Tensor:
    return layer_norm(x, x.shape[-1:])
