"""`armflow bench ...`: speed as ratios, measured side by side in one run, because machines are shared and noisy."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Generator, Tensor

from ..robot.camera import Camera
from ..robot.rig import load_rig
from ..robot.twin.cell import Cell
from ..robot.twin.devices import TwinCamera
from ..robot.twin.sim import Twin
from ..robot.twin.tasks import TASKS
from ..robot.types import ArmCommand
from ..training.critics.ascent import embedded_ascent
from ..training.critics.ema import frozen_copy
from ..training.critics.ensemble import CriticEnsemble, embedded_critic
from ..training.critics.space import CriticSpace
from ..training.extraction.qvgm import QVGM, QVGMCfg
from ..training.flow import sample
from ..training.pi05_mini.load import SHIPPED, load_policy
from ..training.pi05_mini.modeling_pi05_mini import PI05MiniPolicy
from ..training.policy import Context, ObsBatch, VelocityField
from .bench_record import record

Z_WIDTH = 192  # of the embedded RL token


def twin(simulated_s: float = 30.0, frames: int = 50) -> None:
    """Physics against real time, and milliseconds per RGB-D pair of the two cameras.

    Args:
        simulated_s: How much time to simulate, s.
        frames: How many pairs to render at each size.
    """
    table = Table("what", "figure", title="twin")
    for name, task in TASKS.items():
        with Cell(load_rig()) as cell:
            episode = cell.reset(task, seed=0)
            table.add_row(
                f"{name}: physics, arm moving", f"{_real_time_factor(episode.twin, simulated_s):.0f} x real time"
            )
    for width, height in ((128, 96), (224, 224), (640, 480)):
        with Cell(load_rig().with_image_size(width, height)) as cell:
            episode = cell.reset(TASKS["pick_peach"], seed=0)
            pair = lambda e=episode: [_fresh(c) for c in e.cameras.values()]  # noqa: E731
            table.add_row(
                f"RGB-D pair {width}x{height}, noise model included", f"{1e3 * median_s(pair, frames):.1f} ms"
            )
    Console().print(table)


def _real_time_factor(twin: Twin, simulated_s: float) -> float:
    """Simulated seconds per second of one core, the arm sweeping back and forth and nothing rendered."""
    home = np.array(twin.rig.arm.home_q)
    start, clock = time.perf_counter(), twin.clock
    for i in range(round(simulated_s * twin.rig.control_hz)):
        sway = 0.3 * np.sin(0.5 * i) * np.eye(7)[0]
        twin.send(ArmCommand(home + sway, float(i % 20 < 10)))
        clock.sleep_until(clock.now() + 1 / twin.rig.control_hz)
        twin.sync()
    return simulated_s / (time.perf_counter() - start)


def _fresh(camera: Camera) -> None:
    assert isinstance(camera, TwinCamera)
    camera.forget()
    camera.latest(max_age_s=1e9)


def chunk(repeats: int = 30) -> None:
    """Latency of one chunk of pi05-mini: two images in, sixteen actions out, on this machine's cores.

    Args:
        repeats: Timed runs.
    """
    policy = load_policy(SHIPPED)
    obs, noise = _observations(policy, 1), torch.randn(1, policy.chunk_size, policy.action_dim)
    with torch.inference_mode():
        ctx = policy.encode(obs)
        encode = median_s(lambda: policy.encode(obs), repeats)
        flow = median_s(lambda: sample(policy, ctx, noise, flow_steps=policy.config.num_inference_steps), repeats)
    table = Table("part", "ms", title=f"pi05-mini chunk, {torch.get_num_threads()} threads")
    for name, seconds in (("prefix", encode), ("flow", flow), ("chunk", encode + flow)):
        table.add_row(name, f"{1e3 * seconds:.1f}")
    Console().print(table)


def qvgm_step(states: int = 64, repeats: int = 3) -> None:
    """A Q-VGM step with the prefix computed once per state, against a full forward pass for every flow step.

    Args:
        states: Batch size; as in training by default, and the ratio falls with it.
        repeats: Timed pairs of steps.
    """
    policy = load_policy(SHIPPED)
    obs = _observations(policy, states)
    noise = torch.randn(states, policy.chunk_size, policy.action_dim, generator=Generator().manual_seed(0))
    critic, space = _critic(policy)
    centre = torch.zeros(states, policy.n_action_steps, policy.real_dim)  # cached beside the prefix in a real step
    policy.requires_grad_(False)
    policy.expert.requires_grad_(True)
    base = frozen_copy(policy)

    def step(trained: VelocityField, reference: VelocityField) -> None:
        with torch.no_grad():
            ctx = policy.encode(obs)
        q_fn = critic.judge(torch.zeros(states, Z_WIDTH), policy.state_norm.normalise(obs.state), centre)
        loss, _ = QVGM(QVGMCfg(ascent=embedded_ascent()), trained, reference, space).loss(ctx, noise, q_fn)
        loss.backward()

    ratios, times = [], []
    for _ in range(repeats):
        naive = seconds_of(lambda: step(_Naive(policy, obs), _Naive(base, obs)))
        ours = seconds_of(lambda: step(policy, base))
        ratios.append(naive / ours)
        times.append((naive, ours))
    table = Table("full forward per flow step", "prefix once per state", "ratio", title=f"Q-VGM step, {states} states")
    for (naive, ours), ratio in zip(times, ratios, strict=True):
        table.add_row(f"{naive:.2f} s", f"{ours:.2f} s", f"{ratio:.1f} x")
    Console().print(table)
    Console().print(f"median ratio {statistics.median(ratios):.1f} x")


@dataclass(frozen=True, eq=False)
class _Naive:
    """A velocity field that looks at the images again in every flow step."""

    policy: PI05MiniPolicy
    obs: ObsBatch

    @property
    def chunk_size(self) -> int:
        return self.policy.chunk_size

    @property
    def action_dim(self) -> int:
        return self.policy.action_dim

    def velocity(self, ctx: Context, x: Tensor, t: Tensor) -> Tensor:
        n = len(x)  # Q-VGM follows the base on its first states only
        images = {name: image[:n] for name, image in self.obs.images.items()}
        with torch.no_grad():
            seen = self.policy.encode(ObsBatch(images, self.obs.state[:n], self.obs.instructions[:n]))
        return self.policy.velocity(seen, x, t)


def _observations(policy: PI05MiniPolicy, n: int) -> ObsBatch:
    cfg, rng = policy.config, Generator().manual_seed(0)
    size = (n, 3, cfg.image_height, cfg.image_width)
    images = {c: torch.randint(0, 256, size, generator=rng, dtype=torch.uint8) for c in cfg.cameras}
    return ObsBatch(images, policy.state_norm.q01.expand(n, -1).clone(), ["put the peach in the bowl"] * n)


def _critic(policy: PI05MiniPolicy) -> tuple[CriticEnsemble, CriticSpace]:
    shape = (policy.n_action_steps, policy.real_dim)
    ensemble = CriticEnsemble(
        embedded_critic(), z_dim=Z_WIDTH, proprio_dim=policy.real_dim, chunk_shape=shape, rng=Generator().manual_seed(0)
    )
    box = torch.full(shape, 1.5)
    return ensemble.requires_grad_(False), CriticSpace(-box, box, ensemble.directions)


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def median_s(work: Callable[[], object], repeats: int) -> float:
    """Median seconds over `repeats` runs after a warm-up."""
    work()
    return statistics.median(seconds_of(work) for _ in range(repeats))


COMMANDS = {"twin": twin, "record": record, "chunk": chunk, "qvgm-step": qvgm_step}
