"""A session on hardware, with an arm and cameras that are doubles: home, wait for a person, record, again."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np
import pytest
from armflow import cli
from armflow.datasets.episodes import open_dataset
from armflow.robot.clock import SimClock
from armflow.robot.drivers.franka import FrankaCfg
from armflow.robot.drivers.opencv import OpenCVCfg
from armflow.robot.fakes import FakeArm, FakeCamera
from armflow.robot.rig import Rig
from armflow.robot.safety import JointSafety
from armflow.robot.station import Station
from armflow.robot.types import ArmState
from armflow.teleop import physical
from armflow.teleop.device import TeleopEvent, TeleopInput, ToolDelta
from armflow.teleop.physical import demonstrate_on

INSTRUCTION = "put the peach into the bowl"


class Script:
    """HandDevice that idles, then moves up for a while, then says what it was told to, episode after episode."""

    name, usage = "script", "nobody has to do anything"

    def __init__(self, events: list[TeleopEvent]) -> None:
        self._events = iter(events)
        self._event: TeleopEvent | None = None
        self._reads = 0

    def __enter__(self) -> "Script":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def start_episode(self, gripper: float) -> None:
        self._reads, self._event = 0, next(self._events, None)

    def read(self, state: ArmState) -> TeleopInput:
        self._reads += 1
        if self._event is None:
            return TeleopInput(False, None, 1.0, TeleopEvent.DISCARD)
        up = ToolDelta(np.array([0.0, 0.0, 0.005]), np.zeros(3))
        return TeleopInput(self._reads > 3, up, 1.0, self._event if self._reads > 15 else None)


@pytest.fixture
def hardware(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A rig whose devices are opened as doubles."""
    rig = replace(
        rig,
        franka=FrankaCfg("nowhere"),
        cameras=tuple(replace(c, opencv=OpenCVCfg(Path("none.avi"))) for c in rig.cameras),
    )

    @contextmanager
    def opened(rig: Rig) -> Iterator[Station]:
        clock = SimClock()
        arm = FakeArm(clock, q=np.array(rig.arm.home_q) + 0.2)
        cameras = {c.name: FakeCamera(clock, c.name, width=c.width, height=c.height, fps=c.fps) for c in rig.cameras}
        yield Station(rig, arm, cameras, JointSafety(arm.spec, rig.safety), clock, None)

    monkeypatch.setattr(physical, "open_station", opened)
    return rig


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
