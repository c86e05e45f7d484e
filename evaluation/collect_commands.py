"""`armflow collect ...`."""

from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Literal, get_args

from rich.console import Console

from ..robot.clock import MonotonicClock
from ..robot.errors import ConfigError, DataError
from ..robot.rig import ARMS, DEFAULT_RIG, Rig, load_rig
from ..robot.seeds import SLOT, seeds
from ..robot.toml_cfg import load
from ..teleop.browser import BrowserDevice
from ..teleop.collect import CollectCfg, Job, Scripted, SourceFactory, collect, recorded_labels
from ..teleop.device import HandDevice
from ..teleop.expert import unsteady
from ..teleop.gamepad import GamepadDevice
from ..teleop.keyboard import KeyboardDevice
from ..teleop.leader import LeaderCfg, LeaderDevice
from ..teleop.physical import demonstrate_on
from ..teleop.session import teleoperate
from ..teleop.spacemouse import SpaceMouseDevice
from ..teleop.terminal import TerminalDevice

TaskName = Literal["pick_peach", "stack_bowls"]
HandName = Literal["keyboard", "spacemouse", "gamepad", "terminal", "browser", "leader"]
DeviceName = Literal[HandName, "scripted"]
HAND_DEVICES: dict[str, Callable[[float], HandDevice]] = {  # made for a control rate, Hz
    "keyboard": KeyboardDevice,
    "spacemouse": SpaceMouseDevice,
    "gamepad": GamepadDevice,
    "terminal": TerminalDevice,
    "browser": BrowserDevice,
}  # a leader is made of a file and of one of these
TREMOR_M = 0.033  # of the scripted operator's hand
MAX_ATTEMPTS = 20  # per demonstration asked for; who needs more should not be imitated


def demos(
    out: Path,
    tasks: tuple[TaskName, ...] = ("pick_peach", "stack_bowls"),
    episodes: int = 30,
    device: DeviceName = "scripted",
    leader: Path | None = None,
    tremor: float = TREMOR_M,
    repetition: int = 0,
    image_size: tuple[int, int] = (128, 96),
    workers: int = 2,
    rig: Path = DEFAULT_RIG,
    rerun: bool = False,
    instruction: str = "",
    twin: bool = False,
) -> None:
    """Record demonstrations by hand, on your arm or in the twin in real time, or by the twin's scripted operator.

    Whether it is your arm is the rig file's matter: one with a section of an arm's driver is hardware.

    Args:
        out: LeRobot dataset to make, or to go on with.
        tasks: What to demonstrate.
        episodes: Successful demonstrations per task.
        device: Who demonstrates, or with what: keyboard (needs an X display), spacemouse (by USB; extra `spacemouse`),
            gamepad (extra `gamepad`), terminal (keys in this terminal, as over SSH), browser (keys, mouse or
            fingers on a page, as over SSH; extra `browser`), leader (an arm to lead with; extra `leader`) or the scripted
            operator.
        leader: TOML file that describes the leader arm (armflow/teleop/README.md).
        tremor: Standard deviation, m, of the scripted operator's unsteady hand; 0 for a path as clean as can be.
        repetition: Which of the ten independent sets of seeds.
        image_size: Width and height of the recorded images, px.
        workers: Episodes simulated at a time (scripted operator only).
        rig: Rig file.
        rerun: Show the episode live in Rerun (not of the scripted operator).
        instruction: What is demonstrated, in words (on hardware; images are recorded as the rig says).
        twin: A dry run in the twin of a rig that is hardware.
    """
    cell = load_rig(rig)
    if cell.is_hardware and not twin:
        if device == "scripted" or not instruction:
            raise ConfigError(
                f"rig {cell.name} is hardware: say what is demonstrated (--instruction) and with what "
                f"(--device {', '.join(get_args(HandName))}), or add --twin for a dry run"
            )
        in_hand = hand_device(device, cell, leader)
        demonstrate_on(cell, instruction, episodes, out, device=in_hand, rerun=rerun)
        return
    cell = cell.with_image_size(*image_size)
    if device != "scripted":
        jobs = [Job(t, s) for t in tasks for s in seeds("demos", t, episodes, repetition)]
        in_hand = hand_device(device, cell, leader)
        teleoperate(cell, jobs, out, device=in_hand, clock=MonotonicClock(), rerun=rerun)
        return
    demonstrate(cell, tasks, episodes, Scripted(unsteady(tremor)), out, repetition=repetition, workers=workers)


def rollouts(
    policy: Path,
    out: Path,
    tasks: tuple[TaskName, ...] = ("pick_peach", "stack_bowls"),
    episodes: int = 200,
    exploration: float = 0.0,
    repetition: int = 0,
    image_size: tuple[int, int] = (128, 96),
    workers: int = 2,
    rig: Path = DEFAULT_RIG,
    takeover: HandName | None = None,
    leader: Path | None = None,
    rerun: bool = False,
) -> None:
    """Record labelled rollouts of a policy in the twin: autonomous, or one by one with a person who can take over.

    Args:
        policy: Checkpoint, or the folder of the stage that made it.
        out: LeRobot dataset to make, or to go on with.
        tasks: What to try.
        episodes: Attempts per task; failures are kept, they are what the critic learns from.
        exploration: Standard deviation per axis, m, of where the tool is moved to in every other chunk; 0 for none. For
            a policy that hardly varies by itself: it would teach its critic nothing.
        repetition: Which of the ten independent sets of seeds.
        image_size: Width and height of the recorded images, px.
        workers: Episodes simulated at a time (not with --takeover).
        rig: Rig file.
        takeover: Device to take the arm over with, in real time: while its dead-man is held, the person moves the arm, then
            the policy goes on. What it is held with and how an episode is ended by hand is printed.
        leader: TOML file that describes the leader arm of `--takeover leader`.
        rerun: Show the episode live in Rerun (with --takeover).
    """
    # Imported here: demonstrations are recorded on computers that need no torch models.
    from .agents import Exploring, Plain
    from .twin_trials import AgentFactory

    jobs = rollout_jobs(tasks, episodes, repetition)
    cell = load_rig(rig).with_image_size(*image_size)
    factory = AgentFactory(Exploring(policy, exploration, arm=cell.arm) if exploration else Plain(policy))
    if takeover is not None:
        in_hand = hand_device(takeover, cell, leader)
        teleoperate(cell, jobs, out, device=in_hand, clock=MonotonicClock(), rerun=rerun, policy=factory)
        return
    collect(cell, jobs, factory, out, CollectCfg(workers))


def hand_device(name: HandName, rig: Rig, leader: Path | None) -> HandDevice:
    """Not opened yet. Raises ConfigError if the leader's file is missing or wrong."""
    if name != "leader":
        return HAND_DEVICES[name](rig.control_hz)
    if leader is None:
        raise ConfigError("a leader arm needs --leader FILE, which says how its motors map to the arm's joints")
    cfg = load(LeaderCfg, leader, "leader file")
    if cfg.clutch not in HAND_DEVICES:
        raise ConfigError(f"{leader}: there is no clutch '{cfg.clutch}'; devices: {', '.join(HAND_DEVICES)}")
    clutch = HAND_DEVICES[cfg.clutch](rig.control_hz)
    return LeaderDevice(cfg, clutch, ARMS[rig.arm.model].joint_names, say=Console().print)


def demonstrate(
    rig: Rig, tasks: tuple[str, ...], n: int, operator: SourceFactory, out: Path, *, repetition: int, workers: int
) -> None:
    """Record the first `n` seeds of every task with which the operator succeeds. Failed attempts are not kept, and not made
    again: episodes are committed in the order of their seeds, so what lies before a kept one has been tried.

    Raises DataError if the operator hardly ever succeeds.
    """
    tried = dict.fromkeys(tasks, 0)  # seeds, from the first one on
    while True:
        kept = {label.seed for label in recorded_labels(out)}
        todo: list[list[Job]] = []
        for task in tasks:
            possible = seeds("demos", task, min(MAX_ATTEMPTS * n, SLOT), repetition)
            found = [i for i, seed in enumerate(possible) if seed in kept]
            if len(found) < n and tried[task] >= len(possible):
                raise DataError(
                    f"{out}: {len(found)} of {len(possible)} attempts at {task} succeeded, {n} were asked for; "
                    "an operator with a steadier hand (--tremor) succeeds more often"
                )
            start = max(tried[task], found[-1] + 1 if found else 0)
            tried[task] = start + max(0, n - len(found))
            todo.append([Job(task, seed) for seed in possible[start : tried[task]]])
        if not any(todo):
            return
        collect(rig, _in_turn(todo), operator, out, CollectCfg(workers, keep_failures=False))


def rollout_jobs(tasks: tuple[str, ...], n: int, repetition: int) -> list[Job]:
    """`n` rollouts of every task, tasks in turn."""
    return _in_turn([[Job(t, s) for s in seeds("rollouts", t, n, repetition)] for t in tasks])


def _in_turn(by_task: list[list[Job]]) -> list[Job]:
    return [job for row in zip_longest(*by_task) for job in row if job is not None]


COMMANDS = {"demos": demos, "rollouts": rollouts}
