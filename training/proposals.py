"""What the base policy would do: its chunk without noise, what a critic measures distances from, and samples."""

from collections.abc import Callable

import numpy as np
import torch
from rich.progress import track
from torch import Generator, Tensor

from .flow import sample
from .pi05_mini.modeling_pi05_mini import PI05MiniPolicy
from .policy import Context, exec_view
from .prefix_cache import PrefixCache, modules_hash

FLOW_STEPS = 5  # of a proposal, half of what acting takes: enough to know where the policy is going
N_PROPOSALS = 4  # per state, for Cal-QL and the gates
CENTRE_STEPS = 10  # as acting
BATCH = 64


@torch.inference_mode()
def centre(policy: PI05MiniPolicy, ctx: Context) -> Tensor:
    """(b, C, d) the base policy's chunk from noise zero, in critic space: the middle of what it would do, with no chance
    in it. A mean over a few samples would be off by a good part of the very spread that a critic of distances sees."""
    noise = torch.zeros(len(ctx.state), policy.chunk_size, policy.action_dim)
    return exec_view(sample(policy, ctx, noise, flow_steps=CENTRE_STEPS), policy.n_action_steps, policy.real_dim)


@torch.inference_mode()
def propose(policy: PI05MiniPolicy, ctx: Context, rng: Generator) -> Tensor:
    """(b, N_PROPOSALS, C, d) base-policy chunks in critic space."""
    b = len(ctx.state)
    noise = torch.randn(b * N_PROPOSALS, policy.chunk_size, policy.action_dim, generator=rng)
    x = sample(policy, ctx.repeat_interleave(N_PROPOSALS), noise, flow_steps=FLOW_STEPS)
    return exec_view(x, policy.n_action_steps, policy.real_dim).unflatten(0, (b, N_PROPOSALS))


def base_centres(policy: PI05MiniPolicy, cache: PrefixCache) -> Tensor:
    """`centre` for every row of a cache, (rows, C, d)."""
    return _kept(policy, cache, "centres", lambda ctx: centre(policy, ctx))


def base_proposals(policy: PI05MiniPolicy, cache: PrefixCache) -> Tensor:
    """`propose` for every row of a cache, (rows, N_PROPOSALS, C, d)."""
    rng = Generator().manual_seed(0)
    return _kept(policy, cache, "proposals", lambda ctx: propose(policy, ctx, rng))


def _kept(policy: PI05MiniPolicy, cache: PrefixCache, name: str, compute: Callable[[Context], Tensor]) -> Tensor:
    """One row per row of the cache, on disk beside it."""
    path = cache.folder / f"{name}-{modules_hash(policy.expert)}.npy"
    if not path.exists():
        rows = torch.arange(len(cache)).split(BATCH)
        parts = [compute(cache.context(r)).numpy() for r in track(rows, f"{name} of the base policy")]
        part = path.with_suffix(".part.npy")
        np.save(part, np.concatenate(parts))
        part.rename(path)
    return torch.from_numpy(np.load(path))
