"""No input makes the filter's output violate a declared limit: any sequence of jumps, stalls, old decisions and nonsense."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
from armflow.robot.collision import Surroundings
from armflow.robot.errors import SafetyStop
from armflow.robot.rig import ARMS, DEFAULT_RIG, Rig, load_rig
from armflow.robot.safety import ENGAGE_FROM, JointSafety, SafetyCfg
from armflow.robot.types import ArmCommand, ArmSpec, ArmState, Floats
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

TIGHT = SafetyCfg(tcp_min=(0.2, -0.4, 0.02), tcp_max=(0.75, 0.4, 0.6))  # it has to bind
TWINS = ("fr3_table", "xarm7_table")
RIGS = {name: replace(load_rig(DEFAULT_RIG.with_name(f"{name}.toml")), safety=TIGHT) for name in TWINS}
RIG = RIGS["fr3_table"]
SPEC, HOME = ARMS[RIG.arm.model], np.array(RIG.arm.home_q)
EXAMPLES = 250
ROUNDING = 1e-9  # rad per period, and m
NONSENSE = (np.nan, np.inf, -np.inf, 1e39, -1e300)

kinds = st.sampled_from(["jump", "walk", "push", "oscillate", "repeat", "old", "future", "nonsense", "period", "lost"])


@dataclass(frozen=True)
class Input:
    """One call of the filter."""

    q: Floats
    gripper: float = 0.5
    dt: float = 0.0  # s, added to the period
    age_s: float = 0.0
    lost: bool = False  # the arm measures nothing


def inputs(kind: str, n: int, size: float, rng: np.random.Generator, home: Floats) -> Iterator[Input]:
    """`n` inputs of a kind, about `size` rad from `home`; the last one of some kinds is refused."""
    push, walk = home + size * rng.standard_normal(7), home.copy()
    noise = rng.standard_normal((n, 7))
    for i in range(n):
        last = i == n - 1
        match kind:
            case "jump":
                yield Input(home + size * noise[i], gripper=3 * noise[i, 0])
            case "walk":
                walk = walk + 0.1 * size * noise[i]
                yield Input(walk)
            case "push" | "repeat":
                yield Input(push if kind == "push" else home)
            case "oscillate":
                yield Input(home + size * np.sin(i * (0.05 + np.abs(noise[0]))) * np.sign(noise[0]))
            case "old":
                yield Input(push, age_s=float(0.3 * rng.random()))
            case "future":
                yield Input(push, age_s=-1.0 if i % 5 == 3 else 0.0)
            case "nonsense":
                bad = push.copy()
                bad[rng.integers(7)] = rng.choice(NONSENSE) if last else push[0]
                yield Input(bad)
            case "period":
                yield Input(push, dt=float(rng.choice([-1.0, 0.01, np.nan])) if last else 0.0)
            case _:
                yield Input(push, lost=last)


def paths(safety: JointSafety, todo: Iterator[Input], dt: float, home: Floats) -> Iterator[Floats]:
    """(n + 1, 7) positions of every stretch between two stops, from the measured pose on. The arm follows at once."""
    zeros, q = np.zeros(7), home
    safety.reset(ArmState(0.0, q, zeros, zeros, 1.0))
    path = [q]
    for each in todo:
        measured = np.full(7, np.nan) if each.lost else q
        period = dt + each.dt if len(path) > 1 else dt  # the first one after a start defines it
        try:
            state = ArmState(0.0, measured, zeros, zeros, 1.0)
            sent = safety(ArmCommand(each.q, each.gripper), state, period, each.age_s).command
        except SafetyStop:
            with pytest.raises(SafetyStop, match="acknowledge"):
                safety(ArmCommand(q, 0.5), ArmState(0.0, q, zeros, zeros, 1.0), dt)
            yield np.array(path)
            safety.acknowledge()
            safety.reset(ArmState(0.0, q, zeros, zeros, 1.0))
            path = [q]
            continue
        assert 0.0 <= sent.gripper <= 1.0
        q = sent.q
        path.append(q)
    yield np.array(path)


def check(path: Floats, spec: ArmSpec, cfg: SafetyCfg, dt: float, surroundings: Surroundings | None) -> None:
    """Every declared limit, on the differences of consecutive positions; the arm stands before the first."""
    steps = np.diff(path, axis=0)
    if not len(steps):
        return
    share = np.ones(len(steps))
    if cfg.engage_s > 0:
        share = np.minimum(1.0, ENGAGE_FROM + (1 - ENGAGE_FROM) * dt * np.arange(len(steps)) / cfg.engage_s)
    changes = np.diff(steps, axis=0, prepend=0.0)
    jolts = np.diff(changes, axis=0, prepend=0.0)
    assert (path >= spec.q_min + cfg.joint_margin_rad - ROUNDING).all()
    assert (path <= spec.q_max - cfg.joint_margin_rad + ROUNDING).all()
    assert (np.abs(steps) <= share[:, None] * cfg.speed_scale * spec.dq_max * dt + ROUNDING).all()
    assert (np.abs(changes) <= cfg.acceleration_scale * spec.ddq_max * dt**2 + ROUNDING).all()
    if spec.jerk_max is not None:
        assert (np.abs(jolts) <= cfg.jerk_scale * spec.jerk_max * dt**3 + ROUNDING).all()
    if surroundings is None:
        return
    places = [surroundings.look(q) for q in path]
    assert not [place for place in places if place.flag]
    speeds = np.linalg.norm(np.diff([place.tcp for place in places], axis=0), axis=1) / dt
    assert (speeds <= share * cfg.tcp_speed_m_s + 1e-6).all()


configs = st.builds(
    SafetyCfg,
    joint_margin_rad=st.floats(0, 0.2),
    speed_scale=st.floats(0.02, 1),
    acceleration_scale=st.floats(0.02, 7),
    jerk_scale=st.floats(0.02, 1),
    start_tolerance_rad=st.just(np.inf),
    engage_s=st.one_of(st.just(0.0), st.floats(0.01, 3)),
    tcp_speed_m_s=st.floats(0.02, 2),
    blocked_stop_s=st.one_of(st.just(np.inf), st.floats(0.1, 2)),
)
stretch = st.tuples(kinds, st.integers(1, 40), st.floats(0.01, 4), st.integers(0, 2**32 - 1))
rates = st.sampled_from([5.0, 10.0, 15.0, 50.0, 200.0, 500.0])


@pytest.fixture(scope="module")
def surroundings() -> Surroundings:
    return Surroundings(RIG)


@pytest.fixture(scope="module", params=TWINS)
def cell(request: pytest.FixtureRequest) -> tuple[Rig, Surroundings]:
    """Every built-in arm in its cell."""
    rig = RIGS[request.param]
    return rig, Surroundings(rig)


def commands(
    rig: Rig, cfg: SafetyCfg, hz: float, todo: list[tuple[str, int, float, int]], surroundings: Surroundings | None
) -> int:
    """Play inputs through a new filter and check what came out; returns how many there were."""
    spec, home = ARMS[rig.arm.model], np.array(rig.arm.home_q)
    safety = JointSafety(spec, cfg, surroundings)
    every = (i for kind, n, size, seed in todo for i in inputs(kind, n, size, np.random.default_rng(seed), home))
    for path in paths(safety, every, 1 / hz, home):
        check(path, spec, cfg, 1 / hz, surroundings)
    return sum(n for _, n, _, _ in todo)


@settings(max_examples=30)
@given(configs, rates, st.lists(stretch, min_size=1, max_size=12))
def test_no_sequence_of_inputs_violates_a_limit(
    cell: tuple[Rig, Surroundings], cfg: SafetyCfg, hz: float, todo: list[tuple[str, int, float, int]]
):
    rig, surroundings = cell
    commands(rig, cfg, hz, todo, None)
    commands(rig, cfg, hz, todo, surroundings)


@settings(max_examples=30)
@given(st.lists(stretch, min_size=1, max_size=5))
def test_in_the_shipped_twin_only_range_and_speed_change_a_command(todo: list[tuple[str, int, float, int]]):
    """To the last bit: what was recorded and published of the twin stays what it was."""
    rig, zeros = load_rig(), np.zeros(7)
    safety = JointSafety(SPEC, replace(rig.safety, start_tolerance_rad=np.inf), Surroundings(rig))
    q, dt, cfg = HOME, 1 / rig.control_hz, rig.safety
    safety.reset(ArmState(0.0, HOME, zeros, zeros, 1.0))
    for asked in (
        i.q for kind, n, size, seed in todo for i in inputs(kind, n, size, np.random.default_rng(seed), HOME)
    ):
        if np.abs(asked).max() < 1e38:  # not what is refused as nonsense
            in_range = np.clip(asked, SPEC.q_min + cfg.joint_margin_rad, SPEC.q_max - cfg.joint_margin_rad)
            step = cfg.speed_scale * SPEC.dq_max * dt
            expected = np.clip(in_range, q - step, q + step)
            lagging = ArmState(0.0, HOME, zeros, zeros, 1.0)
            q = safety(ArmCommand(asked, 0.5), lagging, dt, age_s=0.3).command.q
            np.testing.assert_array_equal(q, expected)


def test_a_command_costs_less_than_half_a_millisecond(surroundings: Surroundings):
    """CPU time of this thread, in the best of twenty runs: a busy machine is not a defect."""
    zeros, rng, costs = np.zeros(7), np.random.default_rng(0), []
    for _ in range(20):
        safety = JointSafety(SPEC, replace(RIG.safety, start_tolerance_rad=np.inf, blocked_stop_s=np.inf), surroundings)
        safety.reset(ArmState(0.0, HOME, zeros, zeros, 1.0))
        q, asked = HOME, [ArmCommand(HOME + rng.standard_normal(7), 1.0) for _ in range(50)]
        start = time.thread_time()
        for cmd in asked:
            q = safety(cmd, ArmState(0.0, q, zeros, zeros, 1.0), 0.1).command.q
        costs.append((time.thread_time() - start) / len(asked))
    assert min(costs) < 0.0005


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=EXAMPLES, phases=[Phase.generate])
@given(configs, rates, st.lists(stretch, min_size=10, max_size=10), st.integers(0, 19))
def test_a_million_commands_violate_no_limit(
    surroundings: Surroundings, cfg: SafetyCfg, hz: float, todo: list[tuple[str, int, float, int]], which: int
):
    """250 sequences of ten stretches of 400 inputs each; one in twenty knows the cell, too, which costs four times as much."""
    full = [(kind, 400, size, seed) for kind, _, size, seed in todo]
    assert commands(RIG, cfg, hz, full, surroundings if which == 0 else None) * EXAMPLES == 1_000_000
