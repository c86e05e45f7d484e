"""The network of pi05-mini: the structure of pi0.5 at a millionth of a data centre.

    images -> vision tower ─┐
    text   -> embeddings  ──┼─> prefix transformer -> keys and values of every layer (frozen after pretraining, cached)
    state  -> projection  ──┘                                   │
    noisy chunk x, time t -> action expert (adaptive RMS norm) ─┴─> velocity

As in pi0.5 (Gemma), prefix and expert have the same number of layers, layer l of the expert attends to the keys and values
of layer l of the prefix and to its own, and there is one key-value head for several query heads.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class NetworkCfg:
    """Sizes. The defaults are what ships."""

    n_cameras: int = 2
    image_height: int = 96
    image_width: int = 128
    vision_channels: tuple[int, ...] = (32, 64, 96, 160, 192)
    """Channels after each halving of the resolution; five halvings give 3 x 4 tokens per camera."""
    vocabulary_size: int = 64
    max_words: int = 14
    state_dim: int = 8
    action_dim: int = 8
    chunk_size: int = 16
    width: int = 192
    expert_width: int = 128
    layers: int = 4
    heads: int = 4
    head_dim: int = 48
    mlp_ratio: float = 2.5
    n_grounding: int = 9
    """Outputs of the grounding head: positions of the named thing, of its target and of the tool, (3,) m each."""

    @property
    def image_tokens(self) -> int:
        scale = 2 ** len(self.vision_channels)
        return (self.image_height // scale) * (self.image_width // scale)


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), eps=1e-6) * (1 + self.scale)


class AdaRMSNorm(nn.Module):
    """RMS norm whose scale, shift and output gate come from the flow time (pi0.5's expert). Starts as identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 3 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        """x (b, h, w), cond (b, w) -> normalised (b, h, w) and gate (b, 1, w)."""
        scale, shift, gate = self.modulation(cond)[:, None].chunk(3, dim=-1)
        return F.rms_norm(x, (x.shape[-1],), eps=1e-6) * (1 + scale) + shift, 1 + gate


class GatedMLP(nn.Module):
    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        hidden = round(width * ratio)
        self.up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down(F.gelu(gate, approximate="tanh") * value)


class Attention(nn.Module):
    """Multi-query attention: `heads` queries share one key and one value per token."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self._heads, self._head_dim = heads, head_dim
        self.query = nn.Linear(width, heads * head_dim, bias=False)
        self.key_value = nn.Linear(width, 2 * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, width, bias=False)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (b, n, head_dim) each."""
        key, value = self.key_value(x).chunk(2, dim=-1)
        return key, value

    def forward(self, x: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """x (b, n, w) attends to key and value (b, m, head_dim); bias (b, 1, m) is added to the scores.

        One key for all heads lets the heads join the query rows: two plain batched products, which on a CPU beat the
        fused kernels, in the backward pass threefold.
        """
        b, n, _ = x.shape
        q = self.query(x).view(b, n * self._heads, self._head_dim)
        scores = torch.baddbmm(bias, q, key.transpose(1, 2), alpha=self._head_dim**-0.5)  # (b, n * heads, m)
        y = torch.bmm(scores.softmax(-1), value)
        return self.out(y.view(b, n, -1))


def attention_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(b, m) bool -> (b, 1, m): zero where there is a token, hugely negative where there is padding."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, -1e4)[:, None]


class ResBlock(nn.Module):
    """Halves the resolution, then refines it with one residual convolution."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(c_in, c_out, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(c_out)
        self.refine = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norm1(self.down(x)))
        return x + F.silu(self.norm2(self.refine(x)))


class VisionTower(nn.Module):
    """(n, 3, h, w) in [-1, 1] -> (n, tokens, width)."""

    def __init__(self, cfg: NetworkCfg) -> None:
        super().__init__()
        first, *rest = cfg.vision_channels
        self.stem = nn.Sequential(
            nn.Conv2d(3, first, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(first), nn.SiLU()
        )
        channels = (first, *rest)
        self.blocks = nn.Sequential(*(ResBlock(a, b) for a, b in zip(channels, rest, strict=False)))
        self.project = nn.Linear(channels[-1], cfg.width)

    def forward(self, images: Tensor) -> Tensor:
        x = images.contiguous(memory_format=torch.channels_last)
        x = self.blocks(self.stem(x))  # (n, c, h/32, w/32)
        return self.project(x.flatten(2).transpose(1, 2))


class PrefixLayer(nn.Module):
    def __init__(self, cfg: NetworkCfg) -> None:
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(cfg.width), RMSNorm(cfg.width)
        self.attention = Attention(cfg.width, cfg.heads, cfg.head_dim)
        self.mlp = GatedMLP(cfg.width, cfg.mlp_ratio)

    def forward(self, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.norm1(x)
        key, value = self.attention.project(y)
        x = x + self.attention(y, key, value, bias)
        return x + self.mlp(self.norm2(x)), key, value


class Prefix(nn.Module):
    """The vision-language part. Token order: cameras in order, words, state, one grounding token."""

    def __init__(self, cfg: NetworkCfg) -> None:
        super().__init__()
        self.cfg = cfg
        self.vision = VisionTower(cfg)
        self.position = nn.Parameter(0.02 * torch.randn(cfg.n_cameras, cfg.image_tokens, cfg.width))
        self.words = nn.Embedding(cfg.vocabulary_size, cfg.width)
        self.word_position = nn.Parameter(0.02 * torch.randn(cfg.max_words, cfg.width))
        self.state = nn.Sequential(nn.Linear(cfg.state_dim, cfg.width), nn.SiLU(), nn.Linear(cfg.width, cfg.width))
        self.grounding_token = nn.Parameter(0.02 * torch.randn(cfg.width))
        self.layers = nn.ModuleList(PrefixLayer(cfg) for _ in range(cfg.layers))
        self.norm = RMSNorm(cfg.width)
        self.grounding = nn.Linear(cfg.width, cfg.n_grounding)

    def forward(
        self, images: Tensor, words: Tensor, word_mask: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """images (b, cams, 3, h, w) in [-1, 1], words (b, n) int, word_mask (b, n) bool, state (b, 8) normalised.

        Returns keys and values (b, layers, tokens, head_dim), last-layer tokens (b, tokens, w), mask (b, tokens).
        """
        b, cameras = images.shape[:2]
        seen = self.vision(images.flatten(0, 1)).view(b, cameras, -1, self.cfg.width) + self.position
        text = self.words(words) + self.word_position[: words.shape[1]]
        x = torch.cat(
            [seen.flatten(1, 2), text, self.state(state)[:, None], self.grounding_token.expand(b, 1, -1)], dim=1
        )
        always = torch.ones(b, cameras * self.cfg.image_tokens, dtype=torch.bool, device=x.device)
        mask = torch.cat([always, word_mask, always[:, :2]], dim=1)  # (b, tokens)
        bias, keys, values = attention_bias(mask, x.dtype), [], []
        for layer in self.layers:
            x, key, value = layer(x, bias)
            keys.append(key)
            values.append(value)
        return torch.stack(keys, 1), torch.stack(values, 1), self.norm(x), mask


class ExpertLayer(nn.Module):
    def __init__(self, cfg: NetworkCfg) -> None:
        super().__init__()
        self.norm1, self.norm2 = AdaRMSNorm(cfg.expert_width), AdaRMSNorm(cfg.expert_width)
        self.attention = Attention(cfg.expert_width, cfg.heads, cfg.head_dim)
        self.mlp = GatedMLP(cfg.expert_width, cfg.mlp_ratio)

    def forward(self, x: Tensor, cond: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        y, gate = self.norm1(x, cond)
        own_key, own_value = self.attention.project(y)
        keys, values = torch.cat([key, own_key], dim=1), torch.cat([value, own_value], dim=1)
        x = x + gate * self.attention(y, keys, values, bias)
        y, gate = self.norm2(x, cond)
        return x + gate * self.mlp(y)


MIN_TIME = 0.1  # t of the last of 10 flow steps; nothing asks for the velocity below it


class ActionExpert(nn.Module):
    """Velocity of the flow, given the prefix's keys and values.

    Inside it predicts the clean chunk A, and v = (x - A) / t: the last step of the flow then ends on A itself. A network
    that predicts v has to let the noise pass through to subtract it, and what it loses there jitters in every action.
    """

    def __init__(self, cfg: NetworkCfg) -> None:
        super().__init__()
        w = cfg.expert_width
        self.cfg = cfg
        self.action_in = nn.Linear(cfg.action_dim, w)
        self.position = nn.Parameter(0.02 * torch.randn(cfg.chunk_size, w))
        self.time = nn.Sequential(nn.Linear(w, w), nn.SiLU(), nn.Linear(w, w), nn.SiLU())
        self.layers = nn.ModuleList(ExpertLayer(cfg) for _ in range(cfg.layers))
        self.norm = AdaRMSNorm(w)
        self.action_out = nn.Linear(w, cfg.action_dim)
        nn.init.zeros_(self.action_out.weight)
        nn.init.zeros_(self.action_out.bias)

    def forward(self, keys: Tensor, values: Tensor, mask: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """keys, values (b, layers, m, d), mask (b, m), x (b, h, action_dim), t (b,) -> velocity (b, h, action_dim)."""
        cond = self.time(sinusoidal(t, self.cfg.expert_width))
        own = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        y = self.action_in(x) + self.position[: x.shape[1]]
        bias = attention_bias(torch.cat([mask, own], dim=1), y.dtype)
        for i, layer in enumerate(self.layers):
            y = layer(y, cond, keys[:, i], values[:, i], bias)
        clean = self.action_out(self.norm(y, cond)[0])
        return (x - clean) / t.clamp(min=MIN_TIME)[:, None, None]


def sinusoidal(t: Tensor, width: int, min_period: float = 4e-3, max_period: float = 4.0) -> Tensor:
    """(b,) times in [0, 1] -> (b, width) sines and cosines, periods as in pi0.5."""
    fraction = torch.linspace(0.0, 1.0, width // 2, device=t.device)
    period = min_period * (max_period / min_period) ** fraction
    angle = t[:, None].float() * (2 * math.pi / period)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
