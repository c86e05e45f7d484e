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
from ..teleop.collect import Autonomous, CollectCfg, Job, Scripted, SourceFactory, collect, recorded_labels
from ..teleop.device import HandDevice
from ..teleop.expert import unsteady
from ..teleop.gamepad import GamepadDevice
from ..teleop.keyboard import KeyboardDevice
from ..teleop.leader import LeaderCfg, LeaderDevice
from ..teleop.physical import demonstrate_on, roll_out_on
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
NEVER_STILL = {  # devices that cannot say "go on" to a policy by being held still, and why
    "terminal": "there only a key that moves the arm is a dead-man",
    "leader": "it always wants the arm somewhere",
}
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
    max_seconds: float = 60.0,
    rerun: bool = False,
    instruction: str = "",
    twin: bool = False,
) -> None:
    """Record labelled rollouts of a policy: in the twin autonomous, or one by one with a person who can take over; on your
    arm with a person who holds the dead-man, and the policy acts only while it is held.

    Whether it is your arm is the rig file's matter: one with a section of an arm's driver is hardware. There the same command
    goes on where the last session ended.

    Args:
        policy: Checkpoint, or the folder of the stage that made it.
        out: LeRobot dataset to make, or to go on with.
        tasks: What to try.
        episodes: Attempts per task (on hardware: of the instruction) that the dataset is to have; failures are kept, they are
            what the critic learns from.
        exploration: Standard deviation per axis, m, of where the tool is moved to in every other chunk; 0 for none. For
            a policy that hardly varies by itself: it would teach its critic nothing.
        repetition: Which of the ten independent sets of seeds.
        image_size: Width and height of the recorded images, px (on hardware they are as the rig says).
        workers: Episodes simulated at a time (not with --takeover).
        rig: Rig file.
        takeover: Device to take the arm over with, in real time: while its dead-man is held, the person moves the arm, then
            the policy goes on. With a rig that is hardware, and in its dry run: the policy acts while the dead-man is held,
            the arm stays when it is let go, and who moves the device meanwhile moves the arm. How, and how an episode is
            ended by hand, is printed.
        leader: TOML file that describes the leader arm of `--takeover leader`.
        max_seconds: Time limit of an episode with --takeover, s, pauses included; what is cut off is no success, but it is
            truncated, not terminated.
        rerun: Show the episode live in Rerun (with --takeover).
        instruction: What is attempted, in words (on hardware).
        twin: A dry run in the twin of a rig that is hardware.
    """
    cell = load_rig(rig)
    on_arm = cell.is_hardware and not twin
    hold_to_run = [name for name in get_args(HandName) if name not in NEVER_STILL]
    if cell.is_hardware and takeover in NEVER_STILL:
        raise ConfigError(
            f"rig {cell.name} is hardware: a policy acts only while a dead-man is held, and the {takeover} cannot be held "
            f"still ({NEVER_STILL[takeover]}); devices that can: {', '.join(hold_to_run)}"
        )
    if on_arm and (takeover is None or not instruction):
        raise ConfigError(
            f"rig {cell.name} is hardware: say what is attempted (--instruction) and with what somebody holds the dead-man "
            f"(--takeover {', '.join(hold_to_run)}), or add --twin for a dry run"
        )
    in_hand = None if takeover is None else hand_device(takeover, cell, leader)
    # Imported here: demonstrations are recorded on computers that need no torch models.
    from .agent_source import AgentFactory
    from .agents import Exploring, Plain

    factory = AgentFactory(Exploring(policy, exploration, arm=cell.arm) if exploration else Plain(policy))
    if on_arm and in_hand is not None:
        noise = seeds("rollouts", instruction, SLOT, repetition)
        roll_out_on(
            cell, instruction, episodes, out, device=in_hand, policy=factory, seeds=noise, max_seconds=max_seconds, rerun=rerun
        )  # fmt: skip
        return
    jobs = rollout_jobs(tasks, episodes, repetition)
    in_twin = cell.with_image_size(*image_size)
    if in_hand is not None:
        teleoperate(
            in_twin, jobs, out, device=in_hand, clock=MonotonicClock(), rerun=rerun, policy=factory,
            hold_to_run=cell.is_hardware, max_seconds=max_seconds,
        )  # fmt: skip
        return
    collect(in_twin, jobs, Autonomous(factory), out, CollectCfg(workers))


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
