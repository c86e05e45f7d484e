"""Demonstrations until there are enough that succeeded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
import pytest
from armflow.datasets.episodes import load_episodes, open_dataset
from armflow.datasets.labels import newest_labels
from armflow.evaluation import collect_commands
from armflow.evaluation.collect_commands import HandName, demonstrate, hand_device, rollouts
from armflow.robot.clock import SimClock
from armflow.robot.control import CommandSource
from armflow.robot.errors import ConfigError, DataError
from armflow.robot.rig import Rig, load_rig
from armflow.robot.rig_commands import TEMPLATES
from armflow.robot.seeds import seeds
from armflow.robot.twin.cell import Episode
from armflow.robot.types import ArmState, ControlMode
from armflow.teleop.collect import Scripted
from armflow.teleop.device import TeleopEvent, TeleopInput, ToolDelta
from armflow.teleop.expert import ExpertCfg
from armflow.training.pi05_mini.load import SHIPPED
from armflow.training.stages.sft import weights_hash

TASKS = ("pick_peach", "stack_bowls")


@dataclass(frozen=True)
class Moody:
    """Gets nowhere with some seeds."""

    fails: frozenset[int]
    tried: Path  # a line per attempt, since workers are processes
    operator: str = "moody"
    policy_hash: str = ""

    def __call__(self, episode: Episode, rig: Rig, seed: int) -> CommandSource:
        with self.tried.open("a") as file:
            file.write(f"{seed}\n")
        return Scripted(ExpertCfg(speed_m_s=0.01, slow_m_s=0.01) if seed in self.fails else ExpertCfg())(
            episode, rig, seed
        )


@pytest.mark.slow
def test_failed_attempts_are_made_up_for_and_not_made_again(tmp_path: Path) -> None:
    peach, bowls = (seeds("demos", t, 4, 9) for t in TASKS)
    operator = Moody(frozenset({peach[0], peach[2]}), tmp_path / "tried")
    rig, out = load_rig().with_image_size(32, 24), tmp_path / "demos"
    demonstrate(rig, TASKS, 2, operator, out, repetition=9, workers=1)
    kept = {label.seed for label in newest_labels(out).values()}
    assert kept == {peach[1], peach[3], bowls[0], bowls[1]}
    attempts = [int(line) for line in operator.tried.read_text().split()]
    assert sorted(attempts) == sorted({*peach, *bowls[:2]})
    again = Moody(frozenset(), tmp_path / "again")  # all that is there is enough
    demonstrate(rig, TASKS, 2, again, out, repetition=9, workers=1)
    assert {label.seed for label in newest_labels(out).values()} == kept
    assert not again.tried.exists(), "nothing was tried again"


@pytest.mark.slow
def test_an_operator_who_never_succeeds_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect_commands, "MAX_ATTEMPTS", 2)
    hopeless = Moody(frozenset(seeds("demos", "pick_peach", 9, 9)), tmp_path / "tried")
    with pytest.raises(DataError, match=r"0 of 2 attempts at pick_peach succeeded, 1 were asked for;.*--tremor"):
        demonstrate(
            load_rig().with_image_size(32, 24), TASKS[:1], 1, hopeless, tmp_path / "demos", repetition=9, workers=1
        )
    assert len(hopeless.tried.read_text().split()) == 2


class Joystick:
    """HandDevice: nobody holds it for 12 readings, then it is held still for 6, then let go, and it ends the episode."""

    name, usage = "joystick", "hold it"

    def __init__(self, control_hz: float) -> None:
        self._readings = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def start_episode(self, gripper: float) -> None: ...

    def read(self, state: ArmState) -> TeleopInput:
        self._readings += 1
        event = TeleopEvent.FAILURE if self._readings > 35 else None
        return TeleopInput(12 < self._readings <= 18, None, 1.0, event)


@pytest.mark.slow
def test_a_person_takes_over_from_the_shipped_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(collect_commands.HAND_DEVICES, "gamepad", Joystick)
    monkeypatch.setattr(collect_commands, "MonotonicClock", SimClock)
    rollouts(SHIPPED, tmp_path / "out", tasks=("pick_peach",), episodes=1, repetition=9, takeover="gamepad")
    (episode,) = load_episodes(open_dataset(tmp_path / "out"))
    assert episode.ref.label is not None
    assert (episode.ref.label.outcome, episode.ref.label.policy_hash) == ("failure", weights_hash(SHIPPED))
    policy, person = ControlMode.POLICY, ControlMode.INTERVENTION
    assert episode.control_mode.tolist() == [policy] * 12 + [person] * (6 + 5) + [policy] * 12
    assert episode.columns["chunk_step"][23] == 0, "a new plan"
    assert episode.columns["chunk_index"][23] == episode.columns["chunk_index"][11] + 1
    q = episode.action[:, :7]
    assert abs(q[12:24] - q[11:23]).max() < 0.06, "no jump, neither way"


class DeadMan(Joystick):
    """Held and still but for two readings, let go for four, and a success at the end. It is picked up after three readings."""

    def read(self, state: ArmState) -> TeleopInput:
        self._readings += 1
        n = self._readings - 4  # of the episode
        up = ToolDelta(np.array([0.0, 0.0, 0.01 * (16 <= n < 18)]), np.zeros(3))
        event = TeleopEvent.SUCCESS if n >= 30 else None
        return TeleopInput(n >= 0 and not 8 <= n < 12, up, 1.0, event)


@pytest.mark.slow
def test_a_dry_run_of_hardware_is_held_to_run(hardware: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(collect_commands.HAND_DEVICES, "gamepad", DeadMan)
    monkeypatch.setattr(collect_commands, "MonotonicClock", SimClock)
    rollouts(
        SHIPPED, tmp_path / "out", tasks=("pick_peach",), episodes=1, repetition=9, takeover="gamepad", rig=hardware, twin=True
    )  # fmt: skip
    (episode,) = load_episodes(open_dataset(tmp_path / "out"))
    policy, person, nobody = ControlMode.POLICY, ControlMode.INTERVENTION, ControlMode.PAUSE
    assert episode.control_mode.tolist() == (
        [policy] * 7 + [nobody] * 4 + [policy] * 4 + [person] * (2 + 5) + [policy] * 7
    )  # one reading was that which began the episode
    assert episode.columns["chunk_step"][11] == episode.columns["chunk_step"][22] == 0, "new plans"
    q = episode.columns["action.requested"][:, :7]
    assert abs(q[1:] - q[:-1]).max() < 0.06, "no jump, neither way"
    np.testing.assert_array_equal(q[7:11], np.tile(q[7], (4, 1)))


@pytest.fixture
def hardware(tmp_path: Path) -> Path:
    """A rig file of an FR3 that is nowhere."""
    path = tmp_path / "rig.toml"
    path.write_text(TEMPLATES["fr3_realsense"].read_text())
    return path


def test_a_policy_on_hardware_needs_a_hand_on_a_dead_man_that_can_be_still(hardware: Path, tmp_path: Path) -> None:
    def refused(message: str, **options: Any) -> None:
        with pytest.raises(ConfigError, match=message):
            rollouts(SHIPPED, tmp_path / "out", rig=hardware, **options)

    needs = (
        r"my_cell is hardware: say what is attempted \(--instruction\) .* \(--takeover keyboard, spacemouse, gamepad"
    )
    refused(needs, instruction="put the peach into the bowl")
    refused(needs, takeover="gamepad")
    for twin in (False, True):
        for name in ("leader", "terminal"):
            refused(
                f"the {name} cannot be held still .*devices that can: keyboard, spacemouse", takeover=name, twin=twin
            )
    assert not (tmp_path / "out").exists()


def test_every_device_on_offer_is_one_of_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "leader.toml").write_text(LEADER)
    made = {name: hand_device(name, load_rig(), tmp_path / "leader.toml").name for name in get_args(HandName)}
    assert made == {name: name for name in get_args(HandName)}
    assert {*made, "scripted"} == set(get_args(collect_commands.DeviceName))


LEADER = """
type = "openarm_mini"
port = "/dev/ttyACM0"
id = "desk"
joints = ["a", "b", "c", "d", "e", "f", "g"]
signs = [1, 1, 1, 1, 1, 1, -1]
offsets_rad = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
clutch = "terminal"
"""


def test_a_leader_is_held_by_the_clutch_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "leader.toml"
    path.write_text(LEADER)
    assert "hold shift and a letter" in hand_device("leader", load_rig(), path).usage
    path.write_text(LEADER.replace("terminal", "voice"))
    with pytest.raises(ConfigError, match=r"leader.toml: there is no clutch 'voice'; devices: keyboard, .*terminal"):
        hand_device("leader", load_rig(), path)
    path.write_text(LEADER.replace('"a", ', "").replace("[1, 1, ", "[1, ").replace("[0.0, ", "["))
    with pytest.raises(ConfigError, match="openarm_mini is given with 6 joints, the arm has 7"):
        hand_device("leader", load_rig(), path)
    with pytest.raises(ConfigError, match="needs --leader FILE"):
        hand_device("leader", load_rig(), None)
