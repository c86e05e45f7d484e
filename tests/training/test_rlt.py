"""RL token and probes (methods 3; T3.1, T3.2, T3.3, T3.5)."""

import pytest
import torch
from armflow.robot.errors import ConfigError
from armflow.training.probe import probe_accuracy, probe_r2
from armflow.training.rlt import RLTCfg, RLToken, mean_pool, normalise, reconstruction_error

B, M, W = 4, 10, 12


@pytest.fixture
def rlt(rng: torch.Generator) -> RLToken:
    return RLToken(RLTCfg(width=16, n_heads=4, max_tokens=16), token_width=W, rng=rng)


@pytest.fixture
def tokens(rng: torch.Generator) -> torch.Tensor:
    return torch.randn(B, M, W, generator=rng)


@pytest.fixture
def mask() -> torch.Tensor:
    mask = torch.ones(B, M, dtype=torch.bool)
    mask[:, 3:5] = False  # an absent camera in the middle
    mask[0, 8:] = False  # a short instruction
    return mask


def test_a_perfect_decoder_has_no_loss_and_cosine_one(tokens: torch.Tensor, mask: torch.Tensor) -> None:
    x = normalise(tokens, mask)
    loss, cosine = reconstruction_error(x, x, mask)
    assert loss == 0
    assert cosine.item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("j", [0, 4, 9])
def test_decoder_never_sees_the_token_it_predicts(j: int, rlt: RLToken, tokens: torch.Tensor) -> None:
    mask = torch.ones(B, M, dtype=torch.bool)
    z = rlt.encode(tokens, mask)
    before = rlt.decode(z, tokens, mask)
    changed = tokens.clone()
    changed[:, j] = torch.randn(B, W)
    after = rlt.decode(z, changed, mask)
    assert torch.equal(after[:, : j + 1], before[:, : j + 1])
    if j + 1 < M:
        assert not torch.allclose(after[:, j + 1], before[:, j + 1])


def test_every_prediction_depends_on_the_rl_token(rlt: RLToken, tokens: torch.Tensor, mask: torch.Tensor) -> None:
    z = rlt.encode(tokens, mask)
    difference = rlt.decode(z, tokens, mask) - rlt.decode(z.roll(1, 0), tokens, mask)
    assert (difference.abs().amax(-1) > 0).all()


def test_padding_is_never_read(rlt: RLToken, tokens: torch.Tensor, mask: torch.Tensor, rng: torch.Generator) -> None:
    changed = torch.where(mask[..., None], tokens, torch.full_like(tokens, float("nan")))
    assert torch.equal(rlt.encode(changed, mask), rlt.encode(tokens, mask))
    assert torch.equal(mean_pool(changed, mask), mean_pool(tokens, mask))
    losses = [rlt.reconstruction_loss(t, mask, rng)[0] for t in (tokens, changed)]
    assert torch.equal(losses[0], losses[1])
    real = tokens.clone()
    real[:, 0] += torch.randn(B, W)  # the check itself must be able to fail
    assert not torch.equal(rlt.encode(real, mask), rlt.encode(tokens, mask))


def test_more_padding_changes_nothing(rlt: RLToken, tokens: torch.Tensor, mask: torch.Tensor) -> None:
    longer = torch.cat([tokens, torch.randn(B, 5, W)], 1)
    longer_mask = torch.cat([mask, torch.zeros(B, 5, dtype=torch.bool)], 1)
    assert torch.allclose(rlt.encode(longer, longer_mask), rlt.encode(tokens, mask), atol=1e-5)
    assert torch.allclose(mean_pool(longer, longer_mask), mean_pool(tokens, mask), atol=1e-6)
    short, padded = (
        rlt.reconstruction_loss(t, m, torch.Generator())[0] for t, m in ((tokens, mask), (longer, longer_mask))
    )
    assert torch.allclose(short, padded, atol=1e-5)


def test_no_gradient_reaches_the_policys_tokens(rlt: RLToken, tokens: torch.Tensor, mask: torch.Tensor) -> None:
    tokens.requires_grad_()
    loss, _ = rlt.reconstruction_loss(tokens, mask, torch.Generator())
    loss.backward()
    assert tokens.grad is None
    for name, p in rlt.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, name


def test_huge_activations_do_not_own_the_loss(rlt: RLToken, tokens: torch.Tensor, mask: torch.Tensor) -> None:
    loss, _ = rlt.reconstruction_loss(tokens * 1000 + 50, mask, torch.Generator())
    assert torch.allclose(loss, rlt.reconstruction_loss(tokens, mask, torch.Generator())[0], atol=1e-3)


def test_training_makes_the_token_carry_what_is_in_the_prefix(mask: torch.Tensor) -> None:
    """Tokens that all follow from two hidden numbers: the decoder must get them from z, and a probe reads them."""
    g = torch.Generator().manual_seed(0)
    rlt = RLToken(RLTCfg(width=32, n_heads=4, max_tokens=16, hidden_teacher=0.5), token_width=W, rng=g)
    hidden = torch.randn(256, 2, generator=g)
    basis = torch.randn(2, M * W, generator=g)
    data = (hidden @ basis).view(256, M, W) + 0.1 * torch.randn(256, M, W, generator=g)
    seen = mask[:1].expand(256, -1)
    before = rlt.held_out(data[200:], seen[200:])
    optimiser = torch.optim.Adam(rlt.parameters(), lr=3e-3)
    for _ in range(120):
        rows = torch.randint(200, (32,), generator=g)
        loss, _ = rlt.reconstruction_loss(data[rows], seen[rows], g)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    after = rlt.held_out(data[200:], seen[200:])
    assert after["rlt/held_out_cosine"] > 0.8 > before["rlt/held_out_cosine"] + 0.5
    assert after["rlt/z_gain"] > 0.1 > abs(before["rlt/z_gain"])
    with torch.no_grad():
        z = rlt.encode(data, seen)
    # the direction of the hidden numbers: LayerNorm removed their length
    target = torch.nn.functional.normalize(hidden, dim=1)
    assert probe_r2(z, target, torch.arange(200), torch.arange(200, 256)) > 0.8


def test_a_longer_prefix_than_configured_is_refused(rlt: RLToken) -> None:
    with pytest.raises(ConfigError, match="17 tokens, max_tokens is 16"):
        rlt.encode(torch.zeros(1, 17, W), torch.ones(1, 17, dtype=torch.bool))


def test_probe_reads_what_is_linear_and_finds_nothing_in_noise(rng: torch.Generator) -> None:
    f = torch.randn(300, 5, generator=rng)
    train, test = torch.arange(200), torch.arange(200, 300)
    y = f @ torch.randn(5, 2, generator=rng) + 3
    assert probe_r2(f, y, train, test) > 0.99
    assert probe_accuracy(f, y[:, 0] > 3, train, test) > 0.9
    noise = torch.randn(300, 5, generator=rng)
    assert probe_r2(noise, y, train, test) < 0.1
    assert probe_accuracy(noise, y[:, 0] > 3, train, test) < 0.65


def test_probe_never_looks_at_the_test_targets(rng: torch.Generator) -> None:
    f, y = torch.randn(60, 50, generator=rng), torch.randn(60, generator=rng)  # more features than it can bear
    train, test = torch.arange(40), torch.arange(40, 60)
    assert probe_r2(f, y, train, test) < 0.5
    assert probe_r2(f, y, torch.arange(60), test) > 0.5
