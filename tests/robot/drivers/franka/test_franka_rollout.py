"""The shipped policy on the simulated FR3, through the command, with a hand on the dead-man."""

from pathlib import Path
from typing import Protocol, Self

import cv2
import numpy as np
import pytest
from armflow.datasets.episodes import load_episodes, open_dataset
from armflow.evaluation import collect_commands
from armflow.evaluation.collect_commands import rollouts
from armflow.robot.rig_commands import TEMPLATES
from armflow.robot.types import ArmState, ControlMode
from armflow.teleop.device import TeleopEvent, TeleopInput, ToolDelta
from armflow.teleop.handover import RETURN_RAD_S
from armflow.teleop.takeover import HOLD_S
from armflow.training.pi05_mini.load import SHIPPED

HZ = 10.0
HOLD = round(HOLD_S * HZ)
SCRIPT = (
    "." + "h" * 13 + "." * 8 + "h" * 6 + "u" * 5 + "h" * (HOLD + 4) + "."
)  # held, let go, held and moved up, at 10 Hz
INSTRUCTION = "put the peach into the bowl"


class SimulatedRobot(Protocol):
    """What the fixture gives, see `conftest.py`."""

    host: str


class Scripted:
    """HandDevice that is let go, follows `SCRIPT` from the reading on that begins the episode, and says that it worked."""

    name, usage = "scripted hand", "nobody has to do anything"

    def __init__(self, control_hz: float) -> None:
        self._left, self._gripper = SCRIPT, 1.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def start_episode(self, gripper: float) -> None:
        self._gripper = gripper

    def read(self, state: ArmState) -> TeleopInput:
        letter, self._left = self._left[:1], self._left[1:]
        up = ToolDelta(np.array([0.0, 0.0, 0.01 * (letter == "u")]), np.zeros(3))
        return TeleopInput(letter in ("h", "u"), up, self._gripper, None if letter else TeleopEvent.SUCCESS)


@pytest.mark.slow
def test_a_policy_is_held_to_run_on_the_arm(
    robot: SimulatedRobot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = tmp_path / "scene.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 30, (64, 48))
    for _ in range(3000):  # a minute and more: it is played once
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    rig = tmp_path / "rig.toml"
    text = TEMPLATES["fr3_realsense"].read_text().replace("172.16.0.2", robot.host)
    text = text.replace("width = 640\nheight = 480", "width = 64\nheight = 48").replace(
        "lock_exposure", "# lock_exposure"
    )
    rig.write_text(text.replace("[cameras.realsense]", f'[cameras.opencv]\nsource = "{video}"'))
    monkeypatch.setitem(collect_commands.HAND_DEVICES, "gamepad", Scripted)

    rollouts(SHIPPED, tmp_path / "out", episodes=1, rig=rig, takeover="gamepad", instruction=INSTRUCTION)

    (episode,) = load_episodes(open_dataset(tmp_path / "out"))
    label = episode.ref.label
    assert label is not None and label.loop is not None
    assert (label.outcome, label.operator, label.task) == ("success", "policy, scripted hand", INSTRUCTION)
    policy, person, nobody = ControlMode.POLICY, ControlMode.INTERVENTION, ControlMode.PAUSE
    assert episode.control_mode.tolist() == (
        [policy] * 12 + [nobody] * 8 + [policy] * 6 + [person] * (5 + HOLD) + [policy] * 4 + [nobody]
    )
    asked, q = episode.columns["action.requested"][:, :7], episode.state[:, :7]
    assert np.abs(np.diff(asked, axis=0)).max() < 0.1, "no jump of what is asked for"
    assert np.abs(asked[0] - q[0]).max() < RETURN_RAD_S / HZ + 1e-6, "the policy is led to its first command"
    assert np.abs(q[12] - q[0]).max() > 0.01, "the policy moves the arm"
    assert (asked[12:20] == asked[12]).all(), "and nobody does"
    assert np.abs(q[19] - q[17]).max() < 0.01, "the arm comes to rest"
