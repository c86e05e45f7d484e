"""A twin ready for episodes: reset to a task and a seed, then run through the one control loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..arm import ArmDriver
from ..black_box import BlackBox
from ..camera import Camera
from ..clock import Clock, SimClock
from ..collision import Surroundings
from ..control import CommandSource, EpisodeResult, LoopCfg, StepSink, run_episode
from ..errors import ConfigError
from ..rig import DESCRIPTIONS, Rig
from ..safety import JointSafety, SafetyFilter
from ..types import CameraSpec
from .devices import TwinArm, TwinCamera
from .render import SceneRenderer
from .scene import build_cell
from .sim import Twin
from .task import Judge, Layout, Task
from .world import World


@dataclass(frozen=True, eq=False)
class Episode:
    """Everything one episode in the twin needs."""

    layout: Layout
    twin: Twin
    world: World
    judge: Judge
    arm: ArmDriver
    cameras: dict[str, Camera]
    safety: SafetyFilter
    renderer: Callable[[], SceneRenderer]


def episode_rng(task: Task, seed: int) -> np.random.Generator:
    """Draws the layout of an episode first, then its sensor noise."""
    return np.random.default_rng([seed, *task.name.encode()])


class Cell:
    """Context manager that owns models and renderers; consecutive episodes of a task share them."""

    def __init__(self, rig: Rig, clock: Clock | None = None) -> None:
        """Raises ConfigError if there is no twin of the rig's arm."""
        if rig.arm.model not in DESCRIPTIONS:
            there_are = ", ".join(DESCRIPTIONS)
            raise ConfigError(f"rig {rig.name}: there is no twin of the {rig.arm.model}, only of: {there_are}")
        self.rig, self.clock = rig, clock or SimClock()
        self._surroundings = Surroundings(rig)
        self._key: object = None
        self._twin: Twin | None = None
        self._renderer: SceneRenderer | None = None

    def __enter__(self) -> "Cell":
        return self

    def __exit__(self, *_: object) -> None:
        self._close_renderer()

    def reset(self, task: Task, seed: int) -> Episode:
        """The same task and seed always give the same episode start and the same sensor noise."""
        rng = episode_rng(task, seed)
        layout = task.layout(rng, np.array(self.rig.arm.home_q))
        twin = self._twin_for(layout)
        twin.place(layout.poses, layout.home_q)
        world = World(twin)
        return Episode(
            layout=layout,
            twin=twin,
            world=world,
            judge=Judge(world, layout),
            arm=TwinArm(twin, rng),
            cameras={spec.name: TwinCamera(twin, spec, self._shared_renderer, rng) for spec in self._specs(layout)},
            safety=JointSafety(twin.arm.spec, self.rig.safety, self._surroundings),
            renderer=self._shared_renderer,
        )

    def run(
        self,
        episode: Episode,
        source: CommandSource,
        *,
        max_steps: int = LoopCfg.max_steps,
        sinks: tuple[StepSink, ...] = (),
        black_box: BlackBox | None = None,
    ) -> EpisodeResult:
        """Let `source` drive the episode of the last reset, at the rig's rate, until the judge or `max_steps` ends it."""
        return run_episode(
            arm=episode.arm,
            cameras=episode.cameras,
            source=source,
            safety=episode.safety,
            clock=self.clock,
            cfg=LoopCfg(fps=self.rig.control_hz, max_steps=max_steps),
            monitor=episode.judge,
            sinks=sinks,
            black_box=black_box,
        )

    def _specs(self, layout: Layout) -> Sequence[CameraSpec]:
        return layout.cameras or [c.spec() for c in self.rig.cameras]

    def _twin_for(self, layout: Layout) -> Twin:
        if self._twin is None or layout.model_key != self._key:
            self._close_renderer()
            model = build_cell(self.rig, layout.things, appearance=layout.appearance, cameras=layout.cameras)
            self._twin, self._key = Twin(self.rig, model, self.clock), layout.model_key
        return self._twin

    def _close_renderer(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _shared_renderer(self) -> SceneRenderer:
        """Made on first use: an episode without images needs no OpenGL."""
        if self._renderer is None:
            assert self._twin is not None
            self._renderer = SceneRenderer(self._twin.model)
        return self._renderer
