import json
from dataclasses import replace

import pytest
from armflow.datasets.schema import Column, Schema, check_compatible, make_schema, schema_from_info
from armflow.datasets.synthetic import SyntheticCfg, synthetic_arm, synthetic_cameras, synthetic_schema
from armflow.robot.errors import ConfigError, SchemaMismatch


def test_columns_are_those_of_the_design(schema: Schema) -> None:
    assert list(schema.columns) == [
        "observation.state",
        "action",
        "action.requested",
        "observation.velocity",
        "observation.effort",
        "observation.images.head",
        "observation.images.head_depth",
        "observation.images.front",
        "observation.images.front_depth",
        "next.reward",
        "next.done",
        "next.success",
        "control_mode",
        "safety_flags",
        "chunk_index",
        "chunk_step",
        "capture_time.arm",
        "capture_time.head",
        "frame_number.head",
        "capture_time.front",
        "frame_number.front",
        "timestamp",
        "frame_index",
        "episode_index",
        "index",
        "task_index",
    ]
    assert schema.action_names == (*(f"joint{i}.pos" for i in range(1, 8)), "gripper.pos")
    assert schema.columns["observation.images.head_depth"].depth


def test_json_round_trip_is_identity(schema: Schema) -> None:
    assert schema_from_info(json.loads(schema.to_json())) == schema


def test_every_difference_is_explained_at_once(schema: Schema) -> None:
    names = list(schema.action_names)
    names[0], names[1] = names[1], names[0]
    columns = dict(schema.columns)
    columns["action"] = replace(columns["action"], names=tuple(names))
    columns["observation.images.head"] = Column("video", (480, 640, 3), ("height", "width", "channels"))
    del columns["observation.images.front"]
    columns["observation.images.wrist"] = schema.columns["observation.images.head"]
    found = Schema("synthetic", 30, columns)

    with pytest.raises(SchemaMismatch) as caught:
        check_compatible(found, schema)

    message = str(caught.value)
    assert "fps: found 30, expected 10" in message
    assert "action: order of entries: found [joint2.pos, joint1.pos" in message
    assert "observation.images.head: found size 480x640x3, expected 32x48x3" in message
    assert "camera front (observation.images.front) is missing" in message
    assert "camera wrist (observation.images.wrist) is not expected" in message


def test_extra_columns_can_be_allowed(schema: Schema) -> None:
    wanted = {name: schema.columns[name] for name in ("observation.state", "action")}
    check_compatible(schema, Schema(schema.robot, schema.fps, wanted), allow_extra=True)
    with pytest.raises(SchemaMismatch):
        check_compatible(schema, Schema(schema.robot, schema.fps, wanted))


def test_depth_can_be_left_out_per_camera() -> None:
    schema = make_schema(synthetic_arm(), synthetic_cameras(SyntheticCfg()), 10, depth=["front"])
    assert schema.cameras == ("head", "front")
    assert schema.depth_cameras == ("front",)


def test_rates_and_names_that_lerobot_cannot_store_are_refused() -> None:
    cameras = synthetic_cameras(SyntheticCfg())
    with pytest.raises(ConfigError, match="12.5 Hz"):
        make_schema(synthetic_arm(), cameras, 12.5)
    with pytest.raises(ConfigError, match="camera names"):
        make_schema(synthetic_arm(), synthetic_cameras(SyntheticCfg(cameras=("head", "head_depth"))), 10)
    with pytest.raises(ConfigError, match="unknown cameras"):
        make_schema(synthetic_arm(), cameras, 10, depth=["wrist"])


def test_schemas_of_equal_rigs_agree() -> None:
    check_compatible(synthetic_schema(SyntheticCfg()), synthetic_schema(SyntheticCfg()))
