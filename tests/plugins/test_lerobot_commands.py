"""LeRobot's own commands find the plugins and drive the twin: teleoperate, record, replay, roll a policy out."""

import os
import pty
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from armflow.robot import fr3
from armflow.robot.rig import load_rig
from armflow.training.pi05_mini.load import SHIPPED

from .conftest import PLUGINS

pytestmark = pytest.mark.slow
NAMES = list(fr3.SPEC.action_names)
WIDTH, HEIGHT = 128, 96
TWIN = ("--robot.type=armflow", f"--robot.image_size=[{WIDTH},{HEIGHT}]", "--robot.seed=3")
SCRIPTED = ("--teleop.type=armflow", "--teleop.device=scripted")
PATIENCE_S = 250.0  # then a command hangs


@dataclass(frozen=True)
class Commands:
    """LeRobot's commands in an environment with the plugins, and no display, network or home."""

    site: Path
    home: Path

    def run(self, name: str, *options: str, next_episode_on: str | None = None) -> str:
        """All that the command says. A person at its terminal presses `n` as soon as it says `next_episode_on`."""
        path = os.pathsep.join(filter(None, [str(self.site), os.environ.get("PYTHONPATH")]))
        env = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "HF_LEROBOT_HOME")}
        env |= {"PYTHONPATH": path, "HF_HOME": str(self.home), "COLUMNS": "200"}
        person, terminal = pty.openpty()
        command = [str(Path(sys.executable).with_name(name)), *options]
        process = subprocess.Popen(
            command, env=env, stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        hangs = threading.Timer(PATIENCE_S, process.kill)
        said = ""
        try:
            hangs.start()
            assert process.stdout is not None
            for line in process.stdout:
                said += line
                if next_episode_on is not None and next_episode_on in line:
                    os.write(person, b"n")
            assert process.wait() == 0, said
        finally:
            hangs.cancel()
            process.kill()
            process.wait()
            os.close(person)
            os.close(terminal)
        return said


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    """Installed into a folder of their own as wheels: LeRobot finds plugins by the names of distributions."""
    folder = tmp_path_factory.mktemp("plugins")
    sources = shutil.copytree(PLUGINS, folder / "sources", ignore=shutil.ignore_patterns("build", "*.egg-info"))
    site = folder / "site"
    uv = [
        str(Path(sys.executable).with_name("uv")),
        "pip",
        "install",
        "--quiet",
        "--offline",
        "--python",
        sys.executable,
    ]
    plugins = [str(path) for path in sources.iterdir() if path.is_dir()]
    subprocess.run([*uv, "--no-deps", "--no-build-isolation", "--target", str(site), *plugins], check=True)
    return Commands(site, folder / "home")


@pytest.fixture(scope="module")
def recorded(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One demonstration, and what the command said."""
    root = tmp_path_factory.mktemp("recorded") / "demo"
    said = commands.run(
        "lerobot-record", *TWIN, *SCRIPTED, f"--dataset.root={root}", "--dataset.repo_id=armflow/demo",
        "--dataset.no_stamp=true", "--dataset.single_task=put the peach in the bowl", "--dataset.fps=10",
        "--dataset.num_episodes=1", "--dataset.episode_time_s=100", "--dataset.push_to_hub=false",
        "--play_sounds=false", "--display_data=false",
        next_episode_on="twin: success",
    )  # fmt: skip
    return root, said


def actions_sent(said: str) -> int:
    """What the robot says when it is disconnected."""
    found = re.search(r"(\d+) actions sent", said)
    assert found, said
    return int(found[1])


def test_teleoperate(commands: Commands) -> None:
    said = commands.run("lerobot-teleoperate", *TWIN, *SCRIPTED, "--fps=10", "--teleop_time_s=2")
    assert 1 <= actions_sent(said) <= 21  # a busy machine is slower


def test_the_scripted_operator_records_a_success(recorded: tuple[Path, str]) -> None:
    from lerobot.datasets import LeRobotDataset

    root, said = recorded
    assert "twin: success" in said
    data = LeRobotDataset("armflow/demo", root=root)
    assert (data.num_episodes, data.fps, data.num_frames) == (1, 10, actions_sent(said))
    assert data.meta.robot_type == "armflow"
    for column in ("observation.state", "action"):
        assert data.features[column]["names"] == NAMES
    rows = data.hf_dataset.with_format("numpy")
    state, action = np.stack(rows["observation.state"]), np.stack(rows["action"])
    assert np.abs(state[0, :7] - load_rig().arm.home_q).max() < 0.2  # rad, of a start that is drawn
    assert (action[:, :7] > fr3.SPEC.q_min).all() and (action[:, :7] < fr3.SPEC.q_max).all()
    assert np.abs(np.diff(action[:, :7], axis=0)).max() < 0.3  # rad: targets do not jump
    assert np.abs(state[1:, :7] - action[:-1, :7]).max() < 0.2  # rad: the arm follows
    assert action[:, 7].min() == 0.0 and action[-1, 7] == 1.0  # it grasped and let go
    frames: Any = data
    first, last = frames[0], frames[-1]
    for camera in ("head", "front"):
        image = first[f"observation.images.{camera}"]
        assert image.shape == (3, HEIGHT, WIDTH) and image.std() > 0.05
        assert (image - last[f"observation.images.{camera}"]).abs().mean() > 0.002  # something has moved
    assert first["task"] == "put the peach in the bowl"


def test_replay(commands: Commands, recorded: tuple[Path, str]) -> None:
    root, said = recorded
    replayed = commands.run(
        "lerobot-replay", *TWIN, f"--dataset.root={root}", "--dataset.repo_id=armflow/demo", "--dataset.episode=0",
        "--play_sounds=false",
    )  # fmt: skip
    assert actions_sent(replayed) == actions_sent(said)


def test_rollout_of_the_shipped_policy(commands: Commands) -> None:
    """Its type and its processors are found, and the arm goes back to where it started, at another rate."""
    said = commands.run(
        "lerobot-rollout", *TWIN, f"--policy.path={SHIPPED}", "--task=put the peach in the bowl", "--fps=10",
        "--duration=2", "--play_sounds=false",
    )  # fmt: skip
    assert "type=pi05_mini" in said and "Could not return" not in said
    assert actions_sent(said) > 150  # 3 s at 50 Hz to return, and what the policy did
