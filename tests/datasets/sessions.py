"""Recording sessions to be killed: run as a script, forks one for each line "NUMBER SPOOL DATASET" it reads.

Forked and not started, since importing takes a hundred times as long as an episode of these. A session says on standard
output what it does, one JSON list a line; the script adds ["over", NUMBER] when a session's process is gone.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from armflow.datasets.labels import EpisodeLabel
from armflow.datasets.recorder import Recorder, RecorderCfg
from armflow.datasets.schema import Schema, make_schema
from armflow.datasets.spool_file import SpoolFile
from armflow.robot import fr3
from armflow.robot.clock import Clock, MonotonicClock
from armflow.robot.control import Decision, LoopCfg, Step, StepSink, run_episode
from armflow.robot.fakes import FakeArm, FakeCamera
from armflow.robot.rig import load_rig
from armflow.robot.safety import JointSafety
from armflow.robot.types import ArmCommand, ControlMode, Observation, RgbdFrame

FPS = 200  # as many moments to be killed at as possible
EPISODES = 12  # of a session that nobody kills
TASK = "hold still"
GREY_TOLERANCE = 4  # grey levels that an image of one colour may change by when it is compressed
RAMP_RAD = 0.001  # per step, on joint 1; well below what the safety filter lets pass
Q0 = (fr3.SPEC.q_min + fr3.SPEC.q_max) / 2


class NumberedCamera(FakeCamera):
    """Every image tells its frame number."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock, "head", width=32, height=24, fps=FPS)

    def latest(self, *, max_age_s: float) -> RgbdFrame:
        frame = super().latest(max_age_s=max_age_s)
        frame.rgb[:], frame.depth_mm[:] = grey(frame.frame_number), depth_mm(frame.frame_number)
        return frame


def grey(frame_number: int) -> int:
    """Grey level of an image: neighbours are far apart, so that compression cannot mix them up."""
    return frame_number * 37 % 256


def depth_mm(frame_number: int) -> int:
    return 1 + frame_number % 4000


def schema() -> Schema:
    return make_schema(fr3.SPEC, [NumberedCamera(MonotonicClock()).spec], FPS)


# This loop runs faster than any arm's: commands shall be recorded as they are asked for.
JUMPY = replace(fr3.SPEC, ddq_max=np.full(7, 1e9), jerk_max=None)


def length_of(seed: int) -> int:
    """Steps of the episode with this seed."""
    return int(np.random.default_rng(seed).integers(10, 45))


def action(seed: int, steps: int) -> np.ndarray:
    """(steps, 8) what the arm is told: joint 1 counts the steps, the gripper tells the seed."""
    vectors = np.tile(np.append(Q0, seed % 64 / 64), (steps, 1))
    vectors[:, 0] += RAMP_RAD * np.arange(1, steps + 1)
    return vectors.astype(np.float32)


class Ramp:
    """CommandSource of `action`."""

    def __init__(self, seed: int) -> None:
        self._gripper, self._count = seed % 64 / 64, 0

    def wants_frames(self) -> bool:
        return True

    def next(self, obs: Observation) -> Decision:
        self._count += 1
        q = Q0.copy()
        q[0] += RAMP_RAD * self._count
        return Decision(ArmCommand(q, self._gripper), ControlMode.HUMAN)


class Counted:
    """StepSink that says how many steps the recorder before it has taken."""

    def __init__(self, seed: int) -> None:
        self._seed, self._count = seed, 0

    def add(self, step: Step) -> None:
        self._count += 1
        say("added", self._seed, self._count)

    def abort(self, reason: str) -> None:
        say("aborted", self._seed, reason)


def record_episode(recorder: Recorder, seed: int, length: int, *sinks: StepSink) -> Path:
    """One episode through the control loop, saved; returns its spool file."""
    clock = MonotonicClock()
    recorder.start(TASK, seed=seed)
    result = run_episode(
        arm=FakeArm(clock, q=Q0),
        cameras={"head": NumberedCamera(clock)},
        source=Ramp(seed),
        safety=JointSafety(JUMPY, load_rig().safety),
        clock=clock,
        cfg=LoopCfg(fps=FPS, max_steps=length),
        sinks=(recorder, *sinks),
    )
    return recorder.save(EpisodeLabel("success", terminated=True, loop=result.stats))


def session(number: int, spool: Path, root: Path) -> None:
    with Recorder(RecorderCfg(spool, root), schema()) as recorder:
        for seed in range(number * EPISODES, (number + 1) * EPISODES):
            path = record_episode(recorder, seed, length_of(seed), Counted(seed))
            say("saved", seed, str(path))


def children(pid: int) -> list[int]:
    """Processes that this one has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def say(*message: object) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")  # in one piece, whatever else is being said


def say_what_is_flushed() -> None:
    """Say how many frames are in a spool file whenever it has been flushed, by its path."""
    append = SpoolFile.append

    def append_and_say(self: SpoolFile, arrays: dict[str, np.ndarray], count: int) -> None:
        append(self, arrays, count)
        say("flushed", self._file.filename, self.length)

    SpoolFile.append = append_and_say  # type: ignore[method-assign]


def main() -> None:
    say_what_is_flushed()
    for line in sys.stdin:
        number, spool, root = line.split()
        if (pid := os.fork()) == 0:
            say("began", int(number), os.getpid())
            session(int(number), Path(spool), Path(root))
            os._exit(0)
        os.waitpid(pid, 0)
        say("over", int(number))


if __name__ == "__main__":
    main()
