"""Critic space: what the critic sees of a chunk, and the box around it (methods 1.4, 1.5; T5)."""

import pytest
import torch
from armflow.robot.errors import ConfigError
from armflow.training.critics.space import CriticSpace


def test_view_and_embed_are_transposes(space: CriticSpace, rng: torch.Generator) -> None:
    x = torch.randn(5, 7, 4, generator=rng)  # horizon 7, 4 dims of which 2 are real
    chunk = torch.randn(5, 3, 2, generator=rng)
    assert torch.allclose((space.view(x) * chunk).sum(), (x * space.embed(chunk, like=x)).sum())
    assert torch.equal(space.view(space.embed(chunk, like=x)), chunk)
    assert space.embed(chunk, like=x).count_nonzero() == chunk.numel()


def test_gradients_reenter_with_zeros_elsewhere(space: CriticSpace) -> None:
    x = torch.randn(5, 7, 4, requires_grad=True)
    space.view(x).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, space.embed(torch.ones(5, 3, 2), like=x))


def test_projection_keeps_a_start_outside_the_box_but_lets_it_go_no_further(space: CriticSpace) -> None:
    start = torch.full((1, 3, 2), 2.5)  # the box ends at 2
    assert torch.equal(space.project(start, start), start)
    assert torch.equal(space.project(start + 1, start), start)
    assert torch.equal(space.project(start - 1, start), start - 1)
    inside = torch.zeros(1, 3, 2)
    assert torch.equal(space.project(inside + 9, inside), torch.full((1, 3, 2), 2.0))


def test_box_of_data_contains_it_per_dimension(rng: torch.Generator) -> None:
    chunks = torch.randn(50, 3, 2, generator=rng) * torch.tensor([1.0, 10.0])
    box = CriticSpace.of_data(chunks)
    assert torch.equal(box.high[0], chunks.amax((0, 1)))
    assert torch.equal(box.clamp(chunks), chunks)
    wide = CriticSpace.of_data(chunks, margin=0.1)
    assert torch.allclose(wide.high - wide.low, 1.2 * (box.high - box.low))


def test_uniform_fills_the_box(space: CriticSpace, rng: torch.Generator) -> None:
    u = space.uniform(1000, 2, rng=rng)
    assert u.shape == (1000, 2, 3, 2)
    assert u.min() >= -2 and u.max() <= 2
    assert u.std().item() == pytest.approx(4 / 12**0.5, rel=0.03)


def test_empty_or_nan_boxes_are_refused() -> None:
    one = torch.ones(3, 2)
    with pytest.raises(ConfigError):
        CriticSpace(one, one)
    with pytest.raises(ConfigError):
        CriticSpace(one * float("nan"), one)
    with pytest.raises(ConfigError):
        CriticSpace(-one, torch.ones(3))
