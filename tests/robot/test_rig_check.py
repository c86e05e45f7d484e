"""`armflow rig`: what a rig file that parses may still get wrong."""

import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from armflow import cli
from armflow.robot.drivers.franka import FrankaCfg
from armflow.robot.drivers.realsense import RealSenseCfg
from armflow.robot.findings import Finding
from armflow.robot.rig import Rig, load_rig
from armflow.robot.rig_check import check_rig
from armflow.robot.rig_commands import TEMPLATES

TODAY = date(2026, 11, 22)


def hardware() -> Rig:
    rig = load_rig()
    cameras = tuple(replace(c, realsense=RealSenseCfg()) for c in rig.cameras)
    return replace(rig, cameras=cameras, franka=FrankaCfg("172.16.0.2"), safety=replace(rig.safety, speed_scale=0.3))


def camera(rig: Rig, **changes: object) -> Rig:
    return replace(rig, cameras=(replace(rig.cameras[0], **changes), *rig.cameras[1:]))  # type: ignore[arg-type]


def worst(rig: Rig) -> list[Finding]:
    return [f for f in check_rig(rig, TODAY) if f.level != "ok"]


def test_the_shipped_twin_and_a_rig_as_it_should_be_are_in_order():
    assert worst(load_rig()) == []
    assert worst(hardware()) == []


@pytest.mark.parametrize(
    ("change", "level", "subject", "found"),
    [
        (lambda r: camera(r, fps=5.0), "error", "camera head: rate", "looks 10 times a second"),
        (lambda r: camera(r, quat_wxyz=(1.0, 0.0, 0.0, 0.0)), "error", "camera head: view", "sees 0 of the 4"),
        (lambda r: camera(r, fx=1500.0, fy=1500.0), "warning", "camera head: view", "sees [1-3] of the 4"),
        (lambda r: camera(r, calibration_date="yesterday"), "error", "head: calibration", "'yesterday'"),
        (lambda r: camera(r, calibration_date="2027-01-01"), "error", "head: calibration", "40 days in the future"),
        (lambda r: camera(r, calibration_date="2026-01-01"), "warning", "head: calibration", "325 days old"),
        (lambda r: camera(r, calibration_date="1970-01-01"), "warning", "head: calibration", "no date"),
        (lambda r: replace(r, safety=replace(r.safety, joint_margin_rad=0.45)), "error", "arm.home_q", "inside the safety"),
        (lambda r: replace(r, safety=replace(r.safety, speed_scale=0.6)), "warning", "safety.speed_scale", "60%"),
        (lambda r: replace(r, franka=replace(r.franka, speed_scale=0.2)), "error", "franka.speed_scale", "below"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found(change: Callable[[Rig], Rig], level: str, subject: str, found: str):
    import re

    findings = worst(change(hardware()))
    assert any(f.level == level and subject in f.subject and re.search(found, f.found) for f in findings), findings
    assert all(f.advice for f in findings)


def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert 'pip install "armflow[franka]"' in {f.advice for f in worst(hardware())}


def run(*arguments: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["armflow", "rig", *arguments])
        cli.main()


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_template_is_a_rig(template: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "cell" / "my.toml"
    run("new", str(out), "--template", template)
    run("check", str(out))
    assert "error" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run("new", str(out))
    assert "exists; choose another name" in capsys.readouterr().err


def test_an_error_is_an_exit_status(tmp_path: Path):
    out = tmp_path / "my.toml"
    out.write_text(TEMPLATES["fr3_realsense"].read_text().replace("fps = 30.0", "fps = 5.0"))
    with pytest.raises(SystemExit, match="1"):
        run("check", str(out))
