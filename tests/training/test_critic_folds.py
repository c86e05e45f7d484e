"""Returns are foretold by heads that have not seen the episode: what was learned by heart must not look like knowledge."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from armflow.robot.errors import ConfigError
from armflow.training.critics.ensemble import CriticCfg
from armflow.training.critics.objective import ChunkBatch
from armflow.training.critics.sarsa import SarsaCfg
from armflow.training.loop import TrainCfg, train
from armflow.training.stages.critic import ChunkData, CriticStage, CriticStageCfg, head_shares

NOWHERE = Path("nowhere")
CFG = CriticStageCfg(
    (NOWHERE,), NOWHERE, NOWHERE, NOWHERE, z_noise=0.0, batch_size=64, objective=SarsaCfg(monte_carlo=1.0),
    network=CriticCfg(n_heads=5, hidden=(64, 64), proprio_width=8), train=TrainCfg(steps=300, lr=3e-3),
)  # fmt: skip
EPISODES, CHUNKS = 80, 5  # of every episode


def data(*, knowable: bool) -> ChunkData:
    """Episodes whose chunks all have one return: that of the first number of z, or one that nothing foretells."""
    rng = torch.Generator().manual_seed(0)
    episode = torch.arange(EPISODES).repeat_interleave(CHUNKS)
    n = len(episode)
    z = torch.randn(EPISODES, 16, generator=rng)[episode]
    g = (z[:, 0] > 0).float() if knowable else torch.randint(2, (EPISODES,), generator=rng).float()[episode]
    proprio, chunk = torch.randn(n, 4, generator=rng), torch.randn(n, 3, 2, generator=rng)
    batch = ChunkBatch(
        z=z, proprio=proprio, chunk=chunk, centre=chunk, reward=g, bootstrap=torch.ones(n),
        terminated=torch.ones(n, dtype=torch.bool), next_z=z, next_proprio=proprio, next_chunk=chunk, next_centre=chunk,
        mc_return=g, proposals=chunk[:, None].repeat(1, 2, 1, 1), weight=torch.ones(n),
    )  # fmt: skip
    return ChunkData(batch, episode, episode >= 72)


def foretold(*, knowable: bool, out: Path) -> tuple[float, float]:
    """Correlation with the return, by the heads that have not seen the episode and by all heads."""
    d = data(knowable=knowable)
    stage = CriticStage(d, CFG)
    honest = train(stage, CFG.train, out)["held_out/correlation"]
    with torch.no_grad():
        q = stage.critic.q(d.batch.z, d.batch.proprio, d.batch.chunk).mean(0)
    return honest, float(torch.corrcoef(torch.stack([q, d.batch.mc_return]))[0, 1])


def test_returns_learned_by_heart_are_not_foretold(tmp_path: Path) -> None:
    honest, by_heart = foretold(knowable=False, out=tmp_path)
    assert by_heart > 0.8 and abs(honest) < 0.3


def test_returns_that_the_state_shows_are_foretold(tmp_path: Path) -> None:
    honest, _ = foretold(knowable=True, out=tmp_path)
    assert honest > 0.6


def test_every_episode_is_left_out_by_as_many_heads(rng: torch.Generator) -> None:
    share = head_shares(50, replace(CFG, network=replace(CFG.network, n_heads=10)), rng)
    assert ((share == 0).sum(1) == 2).all() and ((share == 0).sum(0) == 10).all()
    assert share.mean(1).std() > 0.1  # the rest by chance
    equal = head_shares(50, replace(CFG, bayesian_bootstrap=False), rng)
    assert set(equal.flatten().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("folds", [1, 6])
def test_more_parts_than_heads_or_one_part_cannot_be_left_out(folds: int, rng: torch.Generator) -> None:
    with pytest.raises(ConfigError, match="folds must be from 2 to the number of heads, 5"):
        head_shares(50, replace(CFG, folds=folds), rng)
