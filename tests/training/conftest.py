"""Small critics and batches for the maths tests."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from armflow.training.critics.ensemble import CriticCfg, CriticEnsemble
from armflow.training.critics.objective import ChunkBatch
from armflow.training.critics.space import CriticSpace

Z, PROPRIO, STEPS, DIM = 6, 4, 3, 2


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def make_critic() -> Callable[..., CriticEnsemble]:
    def make(seed: int = 0, n_heads: int = 4, hidden: tuple[int, ...] = (32, 32)) -> CriticEnsemble:
        return CriticEnsemble(
            CriticCfg(n_heads, hidden, proprio_width=8),
            z_dim=Z,
            proprio_dim=PROPRIO,
            chunk_shape=(STEPS, DIM),
            rng=torch.Generator().manual_seed(seed),
        )

    return make


@pytest.fixture
def make_batch() -> Callable[..., ChunkBatch]:
    def make(b: int = 16, n_proposals: int = 8, **fields: torch.Tensor) -> ChunkBatch:
        g = torch.Generator().manual_seed(1)
        batch = ChunkBatch(
            z=torch.randn(b, Z, generator=g),
            proprio=torch.randn(b, PROPRIO, generator=g),
            chunk=0.5 * torch.randn(b, STEPS, DIM, generator=g),
            centre=torch.zeros(b, STEPS, DIM),
            reward=torch.rand(b, generator=g),
            bootstrap=torch.full((b,), 0.9),
            terminated=torch.zeros(b, dtype=torch.bool),
            next_z=torch.randn(b, Z, generator=g),
            next_proprio=torch.randn(b, PROPRIO, generator=g),
            next_chunk=0.5 * torch.randn(b, STEPS, DIM, generator=g),
            next_centre=torch.zeros(b, STEPS, DIM),
            mc_return=torch.rand(b, generator=g),
            proposals=0.5 * torch.randn(b, n_proposals, STEPS, DIM, generator=g),
            weight=torch.ones(b),
        )
        return replace(batch, **fields)

    return make


@pytest.fixture
def space() -> CriticSpace:
    return CriticSpace(-2 * torch.ones(STEPS, DIM), 2 * torch.ones(STEPS, DIM))
