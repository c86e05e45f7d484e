"""What the base policy would do: samples of its chunks in critic space, and their mean, the critic's centre."""

import numpy as np
import torch
from rich.progress import track
from torch import Generator, Tensor

from .flow import sample
from .pi05_mini.modeling_pi05_mini import PI05MiniPolicy
from .policy import Context, exec_view
from .prefix_cache import PrefixCache, modules_hash

FLOW_STEPS = 5  # half of what acting takes: enough to know where the policy is going
N_PROPOSALS = 4  # per state: their mean is the centre of a critic's residuals, Cal-QL and the gates use them all
BATCH = 64


@torch.inference_mode()
def propose(policy: PI05MiniPolicy, ctx: Context, rng: Generator) -> Tensor:
    """(b, N_PROPOSALS, C, d) base-policy chunks in critic space."""
    b = len(ctx.state)
    noise = torch.randn(b * N_PROPOSALS, policy.chunk_size, policy.action_dim, generator=rng)
    x = sample(policy, ctx.repeat_interleave(N_PROPOSALS), noise, flow_steps=FLOW_STEPS)
    return exec_view(x, policy.n_action_steps, policy.real_dim).unflatten(0, (b, N_PROPOSALS))


def base_proposals(policy: PI05MiniPolicy, cache: PrefixCache) -> Tensor:
    """`propose` for every row of a cache, (rows, N_PROPOSALS, C, d); kept on disk beside it."""
    path = cache.folder / f"proposals-{modules_hash(policy.expert)}.npy"
    if not path.exists():
        rng = Generator().manual_seed(0)
        rows = torch.arange(len(cache)).split(BATCH)
        parts = [propose(policy, cache.context(r), rng).numpy() for r in track(rows, "what the base would do")]
        part = path.with_suffix(".part.npy")
        np.save(part, np.concatenate(parts))
        part.rename(path)
    return torch.from_numpy(np.load(path))
