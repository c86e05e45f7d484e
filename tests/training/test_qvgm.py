"""Q-VGM and its ascent (methods 5; T2, T3, T5.1 to T5.6, T9 to T12 of section 12)."""

from collections.abc import Callable

import pytest
import torch
from armflow.robot.errors import ArmflowError, ConfigError
from armflow.training.critics.ascent import AscentCfg, ascend
from armflow.training.critics.ensemble import CriticEnsemble
from armflow.training.critics.qfunction import QFunction, scaled, value_and_gradient
from armflow.training.critics.space import CriticSpace
from armflow.training.extraction.controls import constant_direction, mean_direction, no_op
from armflow.training.extraction.qvgm import QVGM, QVGMCfg
from armflow.training.extraction.time_gates import CleanSpaceGate, LateGate, PowerGate, TimeGate
from armflow.training.flow import sample, times
from armflow.training.gaussian_toy import GaussianFlow, empty_context
from armflow.training.policy import Context, VelocityField
from torch import Tensor, nn

K = 10
WIDE = CriticSpace(torch.full((1, 1), -500.0), torch.full((1, 1), 500.0))
SLOPE = constant_direction(torch.ones(1, 1))  # Q = A


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Matched:
    """The policy that Q-VGM asks for, at every state: v_base + h_eff where the gate is open."""

    def __init__(self, base: VelocityField, q_fn: QFunction, space: CriticSpace, cfg: QVGMCfg) -> None:
        self.base, self.q_fn, self.space, self.cfg = base, q_fn, space, cfg
        self.chunk_size, self.action_dim = base.chunk_size, base.action_dim

    def velocity(self, ctx: Context, x: Tensor, t: Tensor) -> Tensor:
        v = self.base.velocity(ctx, x, t)
        k = int((times(self.cfg.flow_steps) - t[0]).abs().argmin())
        if self.cfg.gate.weights(self.cfg.flow_steps)[k] == 0:
            return v
        start = self.space.view(x - t[:, None, None] * v)
        move = ascend(self.q_fn, start, self.space, self.cfg.ascent).chunk - start
        return v - self.space.embed(move, like=x) / t[:, None, None]


class Tabled(nn.Module):
    """A base with one trainable velocity per flow step: enough to match targets that do not depend on the state."""

    def __init__(self, base: VelocityField, flow_steps: int) -> None:
        super().__init__()
        self.base, self.flow_steps = base, flow_steps
        self.chunk_size, self.action_dim = base.chunk_size, base.action_dim
        self.residual = nn.Parameter(torch.zeros(flow_steps, base.chunk_size, base.action_dim))

    def velocity(self, ctx: Context, x: Tensor, t: Tensor) -> Tensor:
        k = ((1 - t) * self.flow_steps).round().long()
        return self.base.velocity(ctx, x, t) + self.residual[k]


def displacement(policy: VelocityField, base: VelocityField, flow_steps: int = K) -> Tensor:
    ctx, eps = empty_context(8), noise(8, base.chunk_size, base.action_dim)
    return sample(policy, ctx, eps, flow_steps=flow_steps) - sample(base, ctx, eps, flow_steps=flow_steps)


# --- the ascent ---


def test_linear_critic_is_climbed_to_the_last_step() -> None:
    """T5.1: ||g|| = 5, G = 2: J steps of alpha times a gradient clipped to norm 2."""
    space = CriticSpace(-torch.ones(1, 2), torch.ones(1, 2))
    a = ascend(
        constant_direction(torch.tensor([[3.0, 4.0]])),
        torch.zeros(3, 1, 2),
        space,
        AscentCfg(ascent_steps=4, step_size=0.05, grad_clip=2.0),
    )
    assert a.best_step.tolist() == [4, 4, 4]
    assert torch.allclose(a.chunk[0], 4 * 0.05 * 2.0 * torch.tensor([[0.6, 0.8]]))
    assert torch.allclose(a.q_best - a.q_start, torch.full((3,), 4 * 0.05 * 2.0 * 5.0))


def test_best_of_all_steps_wins_not_the_last_nor_the_first_peak() -> None:
    """T5.2: Q = [1, 2, 1.5, 2.5] along the path selects step 3; with [1, 2, 1.5, 2] the earlier of the equals."""
    for values, best in (([1.0, 2.0, 1.5, 2.5], 3), ([1.0, 2.0, 1.5, 2.0], 1), ([1.0, 0.5, 0.9, 1.0], 0)):
        calls = iter(values)

        def q_fn(chunk: Tensor, calls=calls) -> Tensor:
            return (chunk - chunk.detach()).sum((-2, -1))[None] + next(calls)  # value as listed, gradient 1

        a = ascend(q_fn, torch.zeros(2, 1, 1), WIDE, AscentCfg(ascent_steps=3, step_size=0.1))
        assert a.best_step.tolist() == [best, best]
        assert torch.allclose(a.chunk, torch.full((2, 1, 1), 0.1 * best))


def test_keep_best_never_loses(make_critic: Callable[..., CriticEnsemble], space: CriticSpace) -> None:
    for seed in range(10):
        q_fn = make_critic(seed).at(noise(64, 6), noise(64, 4))
        a = ascend(q_fn, noise(5, 64, 3, 2), space, AscentCfg(step_size=200.0))  # far too long
        assert (a.q_best >= a.q_start).all()
        assert (a.best_step < 5).any()
        assert torch.allclose(q_fn(a.chunk).mean(0), a.q_best, atol=1e-5)


def test_ascent_stays_in_the_box(make_critic: Callable[..., CriticEnsemble]) -> None:
    box = CriticSpace(torch.full((3, 2), -0.1), torch.full((3, 2), 0.2))
    q_fn = make_critic().at(noise(16, 6), noise(16, 4))
    a = ascend(q_fn, box.clamp(noise(16, 3, 2)), box, AscentCfg(step_size=1.0))
    assert torch.equal(box.clamp(a.chunk), a.chunk)


def test_a_critic_that_is_not_finite_stops_the_update() -> None:
    with pytest.raises(ArmflowError, match="NaN"):
        ascend(lambda chunk: chunk.sum((-2, -1))[None] * float("nan"), torch.zeros(1, 1, 1), WIDE, AscentCfg())


def test_a_clip_or_cap_of_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="grad_clip"):
        AscentCfg(grad_clip=0.0)
    with pytest.raises(ConfigError, match="max_displacement"):
        QVGMCfg(max_displacement=0.0)


# --- what the matched policy does: golden numbers of methods 5.4 ---


@pytest.mark.parametrize(
    ("std", "last_steps", "expected", "digits"),
    [
        (0.5, 10, 2.72433, 1e-5),
        (0.5, 9, 2.676, 1e-3),
        (0.5, 5, 2.31087, 1e-5),
        (0.1, 10, 1.488, 1e-3),
        (0.1, 9, 1.482, 1e-3),
        (0.1, 5, 1.427, 1e-3),
        (0.05, 10, 1.173, 1e-3),
        (0.05, 9, 1.170, 1e-3),
        (0.05, 5, 1.153, 1e-3),
        (0.0, 10, 1.0, 1e-6),
        (0.0, 5, 1.0, 1e-6),
    ],
)
def test_matching_moves_the_final_action_by_the_known_factor(
    std: float, last_steps: int, expected: float, digits: float
) -> None:
    cfg = QVGMCfg(ascent=AscentCfg(), gate=LateGate(last_steps))
    base = GaussianFlow(0.3, std)
    policy = Matched(base, SLOPE, WIDE, cfg)
    target = 5 * 0.02  # J alpha
    moved = displacement(policy, base) / target
    assert torch.allclose(moved, torch.full_like(moved, expected), atol=2 * digits)
    loss, metrics = QVGM(cfg, policy, base, WIDE).loss(empty_context(8), noise(8, 1, 1), SLOPE)
    assert loss.item() == pytest.approx(0.0, abs=1e-9)
    assert metrics["qvgm/final_displacement"].item() == pytest.approx(expected * target, abs=2 * digits)
    assert metrics["qvgm/final_q_gain"].item() == pytest.approx(expected * target, abs=2 * digits)
    assert metrics["qvgm/best_step_5"] == 1 and metrics["qvgm/improved"] == 1 and metrics["qvgm/best_step"] == 5


@pytest.mark.parametrize("gate", [LateGate(5), LateGate(10), PowerGate(1.0), CleanSpaceGate(5)])
def test_a_few_gradient_steps_reach_the_target_velocity(gate: TimeGate) -> None:
    """h_eff = -J alpha clip_G(g) / t_k; its sign is right, and only gated steps learn. The loss is quadratic in the
    table, with curvature 2 s_k / K: the last step size solves each entry exactly."""
    base, cfg = GaussianFlow(), QVGMCfg(gate=gate)
    policy = Tabled(base, K)
    qvgm, weights = QVGM(cfg, policy, base, WIDE), gate.weights(K)
    loss, _ = qvgm.loss(empty_context(8), noise(8, 1, 1), SLOPE)
    loss.backward()
    assert policy.residual.grad is not None
    with torch.no_grad():
        policy.residual.sub_(policy.residual.grad * (K / (2 * weights.clamp(min=1e-9)))[:, None, None])
    expected = torch.where(weights > 0, -0.1 / times(K), 0.0)
    assert torch.allclose(policy.residual.flatten(), expected, atol=1e-5)
    assert qvgm.loss(empty_context(8), noise(8, 1, 1), SLOPE)[0].item() == pytest.approx(0.0, abs=1e-8)
    assert (displacement(policy, base) > 0.1).all()


def test_gates_weigh_flow_steps_as_published() -> None:
    assert torch.allclose(PowerGate(2.0).weights(4), torch.tensor([0.0, 0.0625, 0.25, 0.5625]))
    assert LateGate(3).weights(5).tolist() == [0, 0, 1, 1, 1]
    assert torch.allclose(CleanSpaceGate(2).weights(4), torch.tensor([0.0, 0.0, 0.25, 0.0625]))
    with pytest.raises(ConfigError, match="weight zero"):
        QVGM(QVGMCfg(gate=LateGate(0)), GaussianFlow(), GaussianFlow(), WIDE)


# --- what must not happen ---


@pytest.mark.parametrize(
    ("ascent", "q_fn"),
    [(AscentCfg(step_size=0.0), SLOPE), (AscentCfg(ascent_steps=0), SLOPE), (AscentCfg(), no_op())],
)
@pytest.mark.parametrize("max_displacement", [None, 0.1])
def test_without_an_improvement_nothing_is_learnt(
    ascent: AscentCfg, q_fn: QFunction, max_displacement: float | None
) -> None:
    """T5.3, T9: exactly zero loss and zero gradient at initialisation, so the policy stays the base bit for bit."""
    base = GaussianFlow()
    policy = Tabled(base, K)
    qvgm = QVGM(QVGMCfg(ascent=ascent, max_displacement=max_displacement), policy, base, WIDE)
    loss, metrics = qvgm.loss(empty_context(8), noise(8, 1, 1), q_fn)
    loss.backward()
    assert loss == 0
    assert policy.residual.grad is not None and policy.residual.grad.count_nonzero() == 0
    assert metrics["qvgm/improved"] == 0 and metrics["qvgm/final_displacement"] == 0


def test_no_step_size_is_a_no_op_even_for_actions_outside_the_box(make_critic: Callable[..., CriticEnsemble]) -> None:
    box = CriticSpace(torch.full((3, 2), -0.1), torch.full((3, 2), 0.1))
    base = GaussianFlow(chunk_size=3, action_dim=2)
    q_fn = make_critic().at(noise(8, 6), noise(8, 4))
    cfg = QVGMCfg(ascent=AscentCfg(step_size=0.0))
    loss, _ = QVGM(cfg, Tabled(base, K), base, box).loss(empty_context(8), noise(8, 3, 2), q_fn)
    assert loss == 0


def test_only_the_policys_velocity_learns(make_critic: Callable[..., CriticEnsemble], space: CriticSpace) -> None:
    """T3, T5.5."""
    base, critic = Tabled(GaussianFlow(chunk_size=4, action_dim=3), K), make_critic()
    policy = Tabled(GaussianFlow(chunk_size=4, action_dim=3), K)
    z, proprio, eps = noise(8, 6), noise(8, 4), noise(8, 4, 3)
    for x in (z, proprio, eps):
        x.requires_grad_()
    loss, metrics = QVGM(QVGMCfg(), policy, base, space).loss(empty_context(8), eps, critic.at(z, proprio))
    loss.backward()
    assert policy.residual.grad is not None and policy.residual.grad[5:].count_nonzero() > 0
    assert policy.residual.grad[:5].count_nonzero() == 0  # closed gate
    assert all(p.grad is None for p in (*base.parameters(), *critic.parameters(), z, proprio, eps))
    assert all(not m.requires_grad for m in metrics.values())


def test_no_gradient_flows_along_the_trajectory() -> None:
    """The gradient of each step is that of its own velocity, at a state taken as given."""

    class Scaled(nn.Module):
        chunk_size, action_dim = 1, 1

        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor(0.3))

        def velocity(self, ctx: Context, x: Tensor, t: Tensor) -> Tensor:
            return GaussianFlow().velocity(ctx, x, t) + self.w * x

    policy, eps, steps = Scaled(), noise(8, 1, 1), 4
    cfg = QVGMCfg(gate=LateGate(4), flow_steps=steps)
    loss, _ = QVGM(cfg, policy, GaussianFlow(), WIDE).loss(empty_context(8), eps, SLOPE)
    loss.backward()
    expected, x = torch.tensor(0.0), eps
    with torch.no_grad():
        for t_k in times(steps):
            error = policy.w * x + 0.1 / t_k  # residual minus h_eff
            expected += (2 * error * x).mean() / steps
            x = x - policy.velocity(empty_context(8), x, t_k.expand(8)) / steps
    assert policy.w.grad is not None
    assert policy.w.grad.item() == pytest.approx(expected.item(), rel=1e-4)


def test_small_corrections_survive_a_bf16_policy() -> None:
    """T5.5: v = 32 in bf16, target 0.1. In bf16 the target would round away and the loss would be 0."""

    class Constant(nn.Module):
        chunk_size, action_dim = 1, 1

        def __init__(self) -> None:
            super().__init__()
            self.v = nn.Parameter(torch.tensor(32.0, dtype=torch.bfloat16))

        def velocity(self, ctx: Context, x: Tensor, t: Tensor) -> Tensor:
            return self.v.expand(x.shape)

    cfg = QVGMCfg(ascent=AscentCfg(ascent_steps=1, step_size=0.1), gate=LateGate(1), flow_steps=1)
    loss, _ = QVGM(cfg, Constant(), Constant(), WIDE).loss(empty_context(4), noise(4, 1, 1), SLOPE)
    assert loss.item() == pytest.approx(0.01, rel=1e-3)


def test_policy_and_base_agree_bit_for_bit_at_the_start(
    make_critic: Callable[..., CriticEnsemble], space: CriticSpace
) -> None:
    """T2, on a network whose rounding depends on the shape of its batch: both see identical inputs."""
    torch.manual_seed(0)

    class Net(nn.Module):
        chunk_size, action_dim = 4, 3

        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(13, 256), nn.SiLU(), nn.Linear(256, 12))

        def velocity(self, ctx: Context, x: Tensor, t: Tensor) -> Tensor:
            return self.net(torch.cat([x.flatten(1), t[:, None]], 1)).view_as(x)

    policy, base = Net(), Net()
    base.load_state_dict(policy.state_dict())
    q_fn = make_critic().at(noise(37, 6), noise(37, 4))
    _, metrics = QVGM(QVGMCfg(), policy, base, space).loss(empty_context(37), noise(37, 4, 3), q_fn)
    assert metrics["qvgm/residual_norm"] == 0
    assert metrics["qvgm/final_displacement"] < 1e-6  # measured on part of the batch, whose rounding differs
    assert metrics["qvgm/target_norm"] > 0


def test_targets_leave_padding_and_unexecuted_steps_alone(space: CriticSpace) -> None:
    """5.5 (e): h_eff is zero there, so those entries of the policy are held to the base."""
    base = GaussianFlow(chunk_size=5, action_dim=4)
    policy = Tabled(base, K)
    loss, _ = QVGM(QVGMCfg(), policy, base, space).loss(
        empty_context(8), noise(8, 5, 4), constant_direction(torch.ones(3, 2))
    )
    loss.backward()
    assert policy.residual.grad is not None
    late = policy.residual.grad[5:]
    assert (late[:, :3, :2] > 0).all()
    late[:, :3, :2] = 0
    assert late.count_nonzero() == 0


# --- trust region, controls, signs ---


@pytest.mark.parametrize("std", [0.1, 0.5])
@pytest.mark.parametrize("gate", [LateGate(10), LateGate(5), LateGate(1)])
def test_displacement_cap_bounds_the_final_action(std: float, gate: TimeGate) -> None:
    """Without it the same targets add up to 2.7 times their length (the golden numbers above)."""
    base, cap = GaussianFlow(0.3, std), 0.06
    cfg = QVGMCfg(gate=gate, max_displacement=cap)
    policy = Tabled(base, K)
    qvgm, optimiser = QVGM(cfg, policy, base, WIDE), torch.optim.SGD(policy.parameters(), lr=K / 2)
    for _ in range(12):  # a step's target depends on where the steps before it lead
        loss, _ = qvgm.loss(empty_context(8), noise(8, 1, 1), SLOPE)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    moved = displacement(policy, base)
    assert torch.allclose(moved, torch.full_like(moved, cap), atol=1e-4)
    assert qvgm.loss(empty_context(8), noise(8, 1, 1), SLOPE)[0].item() == pytest.approx(0.0, abs=1e-8)


def test_constant_direction_moves_every_state_alike(space: CriticSpace) -> None:
    """T5.6, T12: the displacement is the same in all states, of norm J alpha G."""
    m = noise(3, 2) * 10
    start = 0.1 * noise(5, 16, 3, 2)
    moved = ascend(constant_direction(m), start, space, AscentCfg()).chunk - start
    assert torch.allclose(moved, moved[0, 0].expand_as(moved), atol=1e-6)
    assert moved[0, 0].norm().item() == pytest.approx(5 * 0.02 * 1.0, abs=1e-6)
    base = GaussianFlow(chunk_size=3, action_dim=2)
    loss, metrics = QVGM(QVGMCfg(), Tabled(base, K), base, space).loss(
        empty_context(8), 0.1 * noise(8, 3, 2), constant_direction(m)
    )
    assert loss > 0 and metrics["qvgm/improved"] == 1


def test_mean_direction_is_the_critics_own_constant_bias(
    make_critic: Callable[..., CriticEnsemble], space: CriticSpace
) -> None:
    chunks, clip = noise(4, 16, 3, 2), 0.05
    q_fn = make_critic().at(noise(16, 6), noise(16, 4))
    m = mean_direction(q_fn, chunks, space, grad_clip=clip)
    _, grad = value_and_gradient(q_fn, chunks)
    clipped = grad * (clip / grad.norm(dim=(-2, -1), keepdim=True)).clamp(max=1)
    assert torch.nn.functional.cosine_similarity(m.flatten(), clipped.mean((0, 1)).flatten(), dim=0) > 0.9999
    assert m.norm().item() == pytest.approx(clipped.norm(dim=(-2, -1)).mean().item(), rel=1e-5)
    known = noise(3, 2)
    again = mean_direction(constant_direction(known), chunks, space, grad_clip=100.0)
    assert torch.allclose(again, known, atol=1e-6)


@pytest.mark.parametrize("gate", [LateGate(5), PowerGate(1.0)])
def test_q_vgm_raises_q_and_a_negated_critic_lowers_it(
    gate: TimeGate, make_critic: Callable[..., CriticEnsemble], space: CriticSpace
) -> None:
    """T10, T11: the policy that Q-VGM asks for, over random smooth critics."""
    base, cfg = GaussianFlow(chunk_size=4, action_dim=3), QVGMCfg(gate=gate)
    ctx, eps = empty_context(16), noise(16, 4, 3)
    x = sample(base, ctx, eps, flow_steps=K)
    up = down = 0
    for seed in range(20):
        q_fn = make_critic(seed).at(noise(16, 6, seed=seed), noise(16, 4, seed=seed + 100))
        q = [
            q_fn(space.view(sample(Matched(base, critic, space, cfg), ctx, eps, flow_steps=K))).mean()
            for critic in (q_fn, scaled(q_fn, -1.0))
        ]
        up += bool(q[0] > q_fn(space.view(x)).mean())
        down += bool(q[1] < q_fn(space.view(x)).mean())
    assert up >= 19
    assert down >= 19


def test_training_a_network_finds_the_better_action_of_each_state() -> None:
    """A bandit: state i wants action w_i. Trained end to end, every state must move towards its own wish; a constant
    bias could not, since the wishes lie on both sides."""
    torch.manual_seed(0)
    wish = torch.tensor([-1.0, 1.0]).repeat(16)
    base = GaussianFlow(0.0, 0.2)

    class Net(nn.Module):
        chunk_size, action_dim = 1, 1

        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 1))

        def velocity(self, ctx: Context, x: Tensor, t: Tensor) -> Tensor:
            features = torch.stack([ctx.state[:, 0], x[:, 0, 0], t], 1)
            return base.velocity(ctx, x, t) + self.net(features)[:, None]

    ctx = empty_context(32)
    ctx.state[:, 0] = wish
    policy = Net()
    space = CriticSpace(torch.full((1, 1), -2.0), torch.full((1, 1), 2.0))
    qvgm = QVGM(QVGMCfg(ascent=AscentCfg(grad_clip=10.0)), policy, base, space)
    optimiser = torch.optim.Adam(policy.parameters(), lr=1e-2)

    def q_fn(chunk: Tensor) -> Tensor:
        return -(chunk[..., 0, 0] - wish).square()[None]

    for i in range(150):
        loss, _ = qvgm.loss(ctx, noise(32, 1, 1, seed=i), q_fn)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    eps = noise(32, 1, 1, seed=999)
    moved = sample(policy, ctx, eps, flow_steps=K) - sample(base, ctx, eps, flow_steps=K)
    assert (moved[:, 0, 0] * wish > 0.1).all()
