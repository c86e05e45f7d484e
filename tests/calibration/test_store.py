import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from armflow.calibration.store import CameraCalibration, from_spec, read_set, to_texts
from armflow.datasets.synthetic import SyntheticCfg, synthetic_cameras
from armflow.robot.errors import CalibrationError


@pytest.fixture
def head() -> CameraCalibration:
    return from_spec(synthetic_cameras(SyntheticCfg())[0], date="2026-03-01")


def test_json_round_trip_keeps_every_number(head: CameraCalibration) -> None:
    moved = head.X_BC.copy()
    moved[:3, 3] = (1 / 3, np.pi, -1e-9)
    original = replace(head, X_BC=moved, translation_uncertainty_m=0.0021)
    restored = CameraCalibration.from_json(original.to_json())
    assert np.array_equal(restored.X_BC, moved)
    assert restored.to_json() == original.to_json()
    assert restored.hash == original.hash


def test_the_hash_changes_with_any_content(head: CameraCalibration) -> None:
    K = head.K.copy()
    K[0, 2] += 1e-6
    hashes = {head.hash, replace(head, K=K).hash, replace(head, serial="x").hash, replace(head, date="2026-03-02").hash}
    assert len(hashes) == 4


def test_impossible_calibrations_are_refused(head: CameraCalibration) -> None:
    with pytest.raises(CalibrationError, match="camera head: K must be finite"):
        replace(head, K=np.full((3, 3), np.nan))
    with pytest.raises(CalibrationError, match="no rotation"):
        replace(head, X_BC=2 * np.eye(4))
    with pytest.raises(CalibrationError, match="not a camera calibration"):
        CameraCalibration.from_json('{"camera": "head"}')


def test_a_set_can_be_read_back_as_a_dataset_stores_it(head: CameraCalibration, tmp_path: Path) -> None:
    texts = to_texts({"head": head})
    path = tmp_path / "set.json"
    path.write_text(json.dumps({camera: json.loads(text) for camera, text in texts.items()}))
    assert read_set(path)["head"].hash == head.hash
    with pytest.raises(CalibrationError, match=r"cannot be read"):
        read_set(tmp_path / "none.json")
