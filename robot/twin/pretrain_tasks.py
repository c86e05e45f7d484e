"""Varied pick-and-place scenes for pretraining: other objects, colours and words than the evaluation tasks."""

from dataclasses import replace

import numpy as np
from scipy.spatial.transform import Rotation

from ..geometry import pose
from ..rig import Rig
from ..types import CameraSpec, Floats
from .objects import Ball, Block, Bowl, Can, Rgba
from .scene import Appearance
from .task import Layout, Thing, jittered_home, place_apart, upright_pose

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.80, 0.15, 0.12),
    "green": (0.20, 0.60, 0.25),
    "blue": (0.15, 0.30, 0.75),
    "yellow": (0.92, 0.82, 0.20),
    "orange": (0.95, 0.50, 0.10),
    "purple": (0.48, 0.22, 0.60),
    "pink": (0.95, 0.60, 0.70),
    "white": (0.90, 0.90, 0.88),
    "grey": (0.50, 0.50, 0.52),
    "black": (0.12, 0.12, 0.14),
    "brown": (0.42, 0.26, 0.15),
    "cyan": (0.30, 0.75, 0.80),
}
X_RANGE, Y_RANGE = (0.36, 0.60), (-0.23, 0.23)  # m
VERBS = ("put", "place", "move", "set")
DISTRACTOR_RATE = 0.2
COLOUR_WORD_RATE = 0.7
CAMERA_SHIFT_M, CAMERA_TURN_RAD, CAMERA_ZOOM = 0.012, 0.012, 0.015  # standard deviations


class PretrainScenes:
    """Task that draws a new kind of scene for every seed."""

    name = "pretrain"

    def __init__(self, rig: Rig) -> None:
        self._cameras = [c.spec() for c in rig.cameras]

    def layout(self, rng: np.random.Generator, home_q: Floats) -> Layout:
        colours = list(rng.permutation(list(COLOURS)))
        movable, noun = _movable(rng, "movable", colours[0])
        target, target_noun, preposition = _target(rng, "target", colours[1], movable)
        things: list[Thing] = [movable, target]
        if rng.random() < DISTRACTOR_RATE:
            things.append(_movable(rng, "distractor", colours[2])[0])
        ambiguous = len(things) > 2
        words = [str(rng.choice(VERBS)), "the", *_described(rng, colours[0], noun, ambiguous), preposition, "the",
                 *_described(rng, colours[1], target_noun, ambiguous)]  # fmt: skip
        centres = place_apart(rng, tuple(_radius(t) for t in things), X_RANGE, Y_RANGE, clearance=0.045)
        poses = {t.name: upright_pose(*xy, rng.uniform(-np.pi, np.pi)) for t, xy in zip(things, centres, strict=True)}
        return Layout(
            things=tuple(things),
            poses=poses,
            movable=movable,
            target=target,
            instruction=" ".join(words),
            home_q=jittered_home(rng, home_q, 0.06),
            appearance=_appearance(rng),
            cameras=tuple(jittered_camera(c, rng) for c in self._cameras),
        )


def _described(rng: np.random.Generator, colour: str, noun: str, ambiguous: bool) -> list[str]:
    return [colour, noun] if ambiguous or rng.random() < COLOUR_WORD_RATE else [noun]


def _rgba(rng: np.random.Generator, colour: str) -> Rgba:
    r, g, b = np.clip(np.array(COLOURS[colour]) + rng.normal(0, 0.05, 3), 0.03, 0.97)
    return (float(r), float(g), float(b), 1.0)


def _movable(rng: np.random.Generator, name: str, colour: str) -> tuple[Thing, str]:
    rgba = _rgba(rng, colour)
    match rng.choice(["ball", "block", "can", "cup"], p=[0.3, 0.2, 0.2, 0.3]):
        case "ball":
            radius = float(rng.uniform(0.022, 0.034))
            noun = str(rng.choice(["ball", "orange", "lemon", "plum"]))
            return Ball(name, radius, rgba, mass=float(rng.uniform(0.05, 0.15)), stem=bool(rng.random() < 0.3)), noun
        case "block":
            half = rng.uniform((0.018, 0.016, 0.016), (0.030, 0.030, 0.035))
            return Block(name, (float(half[0]), float(half[1]), float(half[2])), rgba), "block"
        case "can":
            radius, height = float(rng.uniform(0.018, 0.032)), float(rng.uniform(0.05, 0.085))
            return Can(name, radius, height, rgba), str(rng.choice(["can", "tin"]))
        case _:
            base = float(rng.uniform(0.026, 0.040))
            rim = base + float(rng.uniform(0.008, 0.016))
            height = float(rng.uniform(0.04, 0.065))
            noun = "bowl" if rim > 0.045 and height < 0.052 else "cup"
            return Bowl(name, rim, base, height, rgba, mass=0.1), noun


def _target(rng: np.random.Generator, name: str, colour: str, movable: Thing) -> tuple[Bowl, str, str]:
    """A vessel that the movable thing fits into; flat ones are things to put something on."""
    rgba = _rgba(rng, colour)
    if rng.random() < 0.5 and not isinstance(movable, Bowl):
        rim = float(rng.uniform(0.075, 0.105))
        noun = str(rng.choice(["plate", "tray", "dish"]))
        return Bowl(name, rim, rim - 0.02, float(rng.uniform(0.014, 0.024)), rgba, mass=0.25), noun, "on"
    base = float(rng.uniform(0.048, 0.062))
    rim = base + float(rng.uniform(0.018, 0.032))
    noun = str(rng.choice(["bowl", "basin", "basket"]))
    return Bowl(name, rim, base, float(rng.uniform(0.036, 0.055)), rgba, mass=0.3), noun, "in"


def _radius(thing: Thing) -> float:
    match thing:
        case Ball(radius=r) | Can(radius=r):
            return r
        case Block(half=half):
            return float(np.hypot(half[0], half[1]))
        case Bowl(rim_radius=r):
            return r


def _appearance(rng: np.random.Generator) -> Appearance:
    shade = rng.uniform(0.35, 0.85)
    table = np.clip(shade * np.array([1.0, 0.88, 0.75]) + rng.normal(0, 0.08, 3), 0.1, 0.95)
    floor = np.clip(rng.uniform(0.1, 0.6) + rng.normal(0, 0.04, 3), 0.02, 0.9)
    return Appearance(
        table=(*map(float, table), 1.0),  # type: ignore[arg-type]
        floor=(*map(float, floor), 1.0),  # type: ignore[arg-type]
        light=float(rng.uniform(0.45, 0.9)),
        light_pos=(float(rng.uniform(0.0, 1.2)), float(rng.uniform(-0.8, 0.8)), float(rng.uniform(1.5, 2.5))),
    )


def jittered_camera(camera: CameraSpec, rng: np.random.Generator) -> CameraSpec:
    """The camera as a careless person would mount it: a centimetre and most of a degree off, lens a percent off."""
    turn = Rotation.from_rotvec(rng.normal(0, CAMERA_TURN_RAD, 3)).as_matrix()
    X_BC = pose(camera.X_BC[:3, 3] + rng.normal(0, CAMERA_SHIFT_M, 3), camera.X_BC[:3, :3] @ turn)
    K = camera.K.copy()
    K[:2, :2] *= 1 + rng.normal(0, CAMERA_ZOOM)
    return replace(camera, X_BC=X_BC, K=K)
