"""RL token: one vector that says what the frozen prefix said (arXiv 2604.23073; methods 3).

    z_rl  = g([z_1 .. z_M, e_rl])_{M+1}                                             encoder
    L_rec = mean_i || h(d([z_rl, sg z_1 .. sg z_{i-1}]))_i - sg z_i ||^2              causal, teacher-forced decoder

Tokens z_i are the prefix outputs of the VLA through a LayerNorm without scale and shift: a few huge activations would
otherwise be the whole error. Padding is excluded from attention and loss, and its content is never read.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cosine_similarity, gelu, layer_norm, scaled_dot_product_attention

from ..robot.errors import ConfigError


@dataclass(frozen=True)
class RLTCfg:
    """The defaults are the papers'."""

    width: int = 2048  # of z_rl and of both transformers
    n_layers: int = 2  # of the encoder, and of the decoder
    n_heads: int = 8  # of attention
    max_tokens: int = 1024  # longest prefix, padding included
    hidden_teacher: float = 0.0  # share of the decoder's input tokens blanked in training: above 0 it must read z_rl


class RLToken(nn.Module):
    """Encoder-decoder over the tokens (b, M, token_width) of a frozen prefix; mask (b, M) is False on padding."""

    def __init__(self, cfg: RLTCfg, *, token_width: int, rng: Generator) -> None:
        super().__init__()
        self.cfg = cfg
        self.token_in = nn.Linear(token_width, cfg.width)
        self.e_rl = nn.Parameter(torch.empty(cfg.width))
        self.encoder_positions = nn.Parameter(torch.empty(cfg.max_tokens, cfg.width))
        self.decoder_positions = nn.Parameter(torch.empty(cfg.max_tokens, cfg.width))
        self.encoder = nn.ModuleList(_Block(cfg.width, cfg.n_heads) for _ in range(cfg.n_layers))
        self.decoder = nn.ModuleList(_Block(cfg.width, cfg.n_heads) for _ in range(cfg.n_layers))
        self.token_out = nn.Linear(cfg.width, token_width)  # h
        for embedding in (self.e_rl, self.encoder_positions, self.decoder_positions):
            nn.init.normal_(embedding, std=0.02, generator=rng)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=rng)
                nn.init.zeros_(module.bias)

    def encode(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """z_rl (b, width), of unit mean square per sample."""
        return self._encode(normalise(tokens, mask), mask)

    def decode(self, z: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Predictions of the normalised tokens (b, M, token_width). Entry i has seen z and tokens 1 .. i-1 only."""
        return self._decode(z, normalise(tokens, mask), mask)

    def reconstruction_loss(self, tokens: Tensor, mask: Tensor, rng: Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error per entry over real tokens."""
        x = normalise(tokens, mask)
        # blanked teacher tokens are hidden from the decoder's input, not from the targets
        blanked = torch.rand(mask.shape, generator=rng, device=rng.device).to(x.device) < self.cfg.hidden_teacher
        prediction = self._decode(self._encode(x, mask), x, mask & ~blanked)
        loss, cosine = reconstruction_error(prediction, x, mask)
        return loss, {"rlt/loss": loss.detach(), "rlt/cosine": cosine.detach()}

    @torch.no_grad()
    def held_out(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Scores on data not trained on. `rlt/z_gain` is what the error rises by with the z of the next sample in the
        batch: about 0 where the decoder ignores z_rl and copies its neighbours, however high the cosine."""
        x = normalise(tokens, mask)
        z = self._encode(x, mask)
        error, cosine = reconstruction_error(self._decode(z, x, mask), x, mask)
        foreign, _ = reconstruction_error(self._decode(z.roll(1, 0), x, mask), x, mask)
        return {"rlt/held_out_loss": error, "rlt/held_out_cosine": cosine, "rlt/z_gain": foreign - error}

    def _encode(self, x: Tensor, mask: Tensor) -> Tensor:
        b, m = mask.shape
        if m > self.cfg.max_tokens:
            raise ConfigError(f"RL token: prefix of {m} tokens, max_tokens is {self.cfg.max_tokens}")
        h = self.token_in(x) + self.encoder_positions[:m]  # (b, M, width)
        h = torch.cat([h, self.e_rl.expand(b, 1, -1)], 1)  # (b, M + 1, width)
        seen = torch.cat([mask, mask.new_ones(b, 1)], 1)  # (b, M + 1), everyone sees every real token and e_rl
        for block in self.encoder:
            h = block(h, seen[:, None, None])
        return _norm(h[:, -1])  # (b, width)

    def _decode(self, z: Tensor, x: Tensor, teacher: Tensor) -> Tensor:
        """teacher (b, M): which normalised tokens x (b, M, token_width) the decoder may read as inputs."""
        b, m = teacher.shape
        teacher_in = self.token_in(x) * teacher[..., None]
        h = torch.cat([z[:, None], teacher_in[:, :-1]], 1) + self.decoder_positions[:m]  # (b, M, width), shifted
        seen = torch.cat([teacher.new_ones(b, 1), teacher[:, :-1]], 1)  # (b, M) inputs: z, then real tokens
        causal = torch.ones(m, m, dtype=torch.bool, device=x.device).tril()
        # a hidden input attends to what came before it, and is itself seen by nobody
        for block in self.decoder:
            h = block(h, seen[:, None, None] & causal)  # (b, 1, M, M)
        return self.token_out(_norm(h))


def normalise(tokens: Tensor, mask: Tensor) -> Tensor:
    """LayerNorm without scale and shift, in fp32, zeros on padding, no gradient: (b, M, w), (b, M) -> (b, M, w)."""
    return torch.where(mask[..., None], _norm(tokens.detach().float()), 0.0)


def reconstruction_error(prediction: Tensor, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error per entry and mean cosine over real tokens: (b, M, w), (b, M, w), (b, M) -> two scalars."""
    n = mask.sum().clamp(min=1)
    error = (prediction - x).square().mean(-1)  # (b, M)
    cosine = cosine_similarity(prediction, x, dim=-1)  # (b, M)
    return (error * mask).sum() / n, (cosine * mask).sum() / n


def mean_pool(tokens: Tensor, mask: Tensor) -> Tensor:
    """The control that an RL token must beat: mean of the normalised real tokens (b, w)."""
    return normalise(tokens, mask).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


class _Block(nn.Module):
    """Pre-norm attention and MLP, no dropout."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)

    def forward(self, h: Tensor, seen: Tensor) -> Tensor:
        """h (b, n, width); seen (b, 1, n or 1, n) bool, True where a query may look at a key."""
        q, k, v = (
            part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (b, heads, n, width / heads)
            for part in self.qkv(self.attention_norm(h)).chunk(3, -1)
        )
        a = scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).flatten(-2)  # (b, n, width)
        h = h + self.attention_out(a)
        return h + self.mlp_out(gelu(self.mlp_in(self.mlp_norm(h))))


def _norm(x: Tensor) -> Tensor:
    return layer_norm(x, x.shape[-1:])
