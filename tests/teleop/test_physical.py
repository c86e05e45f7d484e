"""A session on hardware, by hand or of a policy, with an arm and cameras that are doubles: home, wait for a person, record,
again."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

import numpy as np
import pytest
from armflow import cli
from armflow.datasets.episodes import load_episodes, open_dataset
from armflow.datasets.labels import EpisodeLabel
from armflow.robot.clock import SimClock
from armflow.robot.drivers.franka import FrankaCfg
from armflow.robot.drivers.opencv import OpenCVCfg
from armflow.robot.errors import ConfigError, SafetyStop, SchemaMismatch
from armflow.robot.fakes import FakeArm, FakeCamera
from armflow.robot.rig import Rig
from armflow.robot.safety import JointSafety
from armflow.robot.station import Station
from armflow.robot.types import ArmState, ControlMode
from armflow.teleop import physical
from armflow.teleop.collect import recorded_labels
from armflow.teleop.device import TeleopEvent, TeleopInput, ToolDelta
from armflow.teleop.physical import demonstrate_on, roll_out_on
from armflow.tests.teleop.doubles import Planner

INSTRUCTION = "put the peach into the bowl"


class Script:
    """HandDevice that idles, then is held for a while, then says what it was told to, episode after episode; None is that the
    person presses Ctrl-C."""

    name, usage = "script", "nobody has to do anything"

    def __init__(self, events: Sequence[TeleopEvent | None], *, moving: bool = True) -> None:
        """`moving`: up while it is held, or it is held still."""
        self._events, self._up_m = iter(events), 0.005 * moving
        self._event: TeleopEvent | None = None
        self._over = False  # nothing more is wanted
        self._reads = 0

    def __enter__(self) -> "Script":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def start_episode(self, gripper: float) -> None:
        self._reads, (self._event, self._over) = 0, next(((e, False) for e in self._events), (None, True))

    def read(self, state: ArmState) -> TeleopInput:
        self._reads += 1
        if self._over:
            return TeleopInput(False, None, 1.0, TeleopEvent.DISCARD)
        if self._reads > 15 and self._event is None:
            raise KeyboardInterrupt
        up = ToolDelta(np.array([0.0, 0.0, self._up_m]), np.zeros(3))
        return TeleopInput(self._reads > 3, up, 1.0, self._event if self._reads > 15 else None)


@dataclass
class Policy:
    """PlannerFactory that keeps account of what it is asked for."""

    move_rad: float = 0.002
    operator: str = "policy"
    policy_hash: str = "0123456789abcdef"
    asked: list[str | tuple[str, int]] = field(default_factory=list)

    def prepare(self, rig: Rig) -> None:
        self.asked.append("prepare")

    def __call__(self, instruction: str, seed: int) -> Planner:
        self.asked.append((instruction, seed))
        return Planner(self.move_rad)


@pytest.fixture
def opened() -> list[FakeArm]:
    """The arms that were engaged."""
    return []


@pytest.fixture
def hardware(rig: Rig, monkeypatch: pytest.MonkeyPatch, opened: list[FakeArm]) -> Rig:
    """A rig whose devices are opened as doubles."""
    rig = replace(
        rig,
        franka=FrankaCfg("nowhere"),
        cameras=tuple(replace(c, opencv=OpenCVCfg(Path("none.avi"))) for c in rig.cameras),
    )

    @contextmanager
    def open_station(rig: Rig) -> Iterator[Station]:
        clock = SimClock()
        arm = FakeArm(clock, q=np.array(rig.arm.home_q) + 0.2)
        opened.append(arm)
        cameras = {c.name: FakeCamera(clock, c.name, width=c.width, height=c.height, fps=c.fps) for c in rig.cameras}
        yield Station(rig, arm, cameras, JointSafety(arm.spec, rig.safety), clock, None)

    monkeypatch.setattr(physical, "open_station", open_station)
    return rig


RollOut = Callable[..., None]


@pytest.fixture
def roll_out(hardware: Rig, tmp_path: Path) -> RollOut:
    """roll_out(events, episodes, policy): a session into the dataset `rollouts`."""

    def _roll_out(
        said: Sequence[TeleopEvent | None], episodes: int, policy: Policy | None = None, max_seconds: float = 9.0
    ) -> None:
        roll_out_on(
            hardware, INSTRUCTION, episodes, tmp_path / "rollouts", device=Script(said, moving=False),
            policy=policy or Policy(), seeds=range(70, 90), max_seconds=max_seconds, rerun=False,
        )  # fmt: skip

    return _roll_out


def labels(root: Path) -> list[EpisodeLabel]:
    return [e.label for e in open_dataset(root).episodes if e.label]


# --- demonstrations


@pytest.mark.slow
def test_demonstrations_are_recorded_until_there_are_enough(hardware: Rig, tmp_path: Path):
    said = [TeleopEvent.SUCCESS, TeleopEvent.FAILURE, TeleopEvent.DISCARD, TeleopEvent.SUCCESS, TeleopEvent.SUCCESS]
    demonstrate_on(hardware, INSTRUCTION, 2, tmp_path / "demos", device=Script(said), rerun=False)
    episodes = open_dataset(tmp_path / "demos").episodes
    assert [e.label.outcome for e in episodes if e.label] == ["success", "failure", "success"]
    assert {e.task for e in episodes} == {INSTRUCTION}
    assert {e.label.operator for e in episodes if e.label} == {"script"}


def test_discard_before_an_episode_ends_the_session(hardware: Rig, tmp_path: Path):
    demonstrate_on(hardware, INSTRUCTION, 5, tmp_path / "demos", device=Script([TeleopEvent.SUCCESS]), rerun=False)
    assert len(open_dataset(tmp_path / "demos").episodes) == 1


def test_a_rig_that_is_hardware_asks_for_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "rig.toml"
    for arguments in (["rig", "new", str(out)], ["collect", "demos", "--rig", str(out), "--out", str(tmp_path / "d")]):
        monkeypatch.setattr(sys, "argv", ["armflow", *arguments])
        if arguments[0] == "rig":
            cli.main()
        else:
            with pytest.raises(SystemExit):
                cli.main()
    assert "is hardware: say what is demonstrated (--instruction)" in " ".join(capsys.readouterr().err.split())


# --- a policy's rollouts

WORKED, FAILED, DISCARD = TeleopEvent.SUCCESS, TeleopEvent.FAILURE, TeleopEvent.DISCARD


@pytest.mark.slow
def test_rollouts_are_recorded_and_a_second_session_goes_on(roll_out: RollOut, hardware: Rig, tmp_path: Path):
    root, policy = tmp_path / "rollouts", Policy()
    demonstrate_on(hardware, INSTRUCTION, 1, root, device=Script([WORKED]), rerun=False)
    roll_out([WORKED, DISCARD, FAILED], 2, policy)
    assert policy.asked == ["prepare", *((INSTRUCTION, seed) for seed in (70, 71, 72))]
    demonstration, *recorded = labels(root)
    assert (demonstration.operator, demonstration.seed) == ("script", None), "it does not count as a rollout"
    assert [(e.outcome, e.terminated, e.seed) for e in recorded] == [("success", True, 70), ("failure", True, 72)]
    assert {(e.operator, e.policy_hash, e.task) for e in recorded} == {
        ("policy, script", policy.policy_hash, INSTRUCTION)
    }
    for episode in load_episodes(open_dataset(root))[1:]:
        assert set(episode.control_mode) == {ControlMode.POLICY}
        assert np.abs(episode.action[0, :7] - hardware.arm.home_q).max() < 0.03, "it begins at home"

    again = Policy()
    roll_out([WORKED, WORKED], 4, again)
    assert [e.seed for e in labels(root)[1:]] == [70, 72, 71, 73], "no two episodes share their noise"
    roll_out([], 4, finished := Policy())
    assert finished.asked == ["prepare"]


@pytest.mark.slow
def test_a_rollout_that_takes_too_long_is_cut_off(roll_out: RollOut, tmp_path: Path):
    roll_out([WORKED], 1, max_seconds=1.0)
    (label,) = labels(tmp_path / "rollouts")
    assert (label.outcome, label.terminated, label.failure_tag) == ("failure", False, "time limit")
    assert label.loop is not None and label.loop.steps == 10


@pytest.mark.slow
def test_ctrl_c_ends_the_session_and_what_was_saved_is_saved(roll_out: RollOut, opened: list[FakeArm], tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        roll_out([WORKED, None], 5)
    assert [e.seed for e in labels(tmp_path / "rollouts")] == [70]
    assert opened[0].holding


@pytest.mark.slow
def test_a_policy_that_asks_for_nonsense_ends_the_session(roll_out: RollOut, opened: list[FakeArm], tmp_path: Path):
    with pytest.raises(SafetyStop, match="command is not finite"):
        roll_out([FAILED], 2, Policy(move_rad=np.nan))
    assert opened[0].holding
    assert recorded_labels(tmp_path / "rollouts") == []


def test_a_policy_that_does_not_fit_is_refused_before_the_arm_is_engaged(roll_out: RollOut, opened: list[FakeArm]):
    class Unfit(Policy):
        def prepare(self, rig: Rig) -> None:
            raise SchemaMismatch("another arm")

    with pytest.raises(SchemaMismatch, match="another arm"):
        roll_out([WORKED], 1, Unfit())
    with pytest.raises(ConfigError, match="a control period or more, got 0.01 s"):
        roll_out([WORKED], 1, max_seconds=0.01)
    assert not opened
