"""An arm that armflow has no model of, out of an MJCF or URDF: what kinematics, safety filter and rig check make of it."""

import struct
from dataclasses import replace
from datetime import date
from pathlib import Path

import mujoco
import numpy as np
import pytest
from armflow.robot.arm_file import ArmFileCfg, ranges_beyond
from armflow.robot.clock import SimClock
from armflow.robot.collision import Surroundings
from armflow.robot.control import LoopCfg, run_episode
from armflow.robot.errors import ConfigError
from armflow.robot.fakes import FakeArm
from armflow.robot.kinematics import Kinematics
from armflow.robot.models import arm_model, has_model
from armflow.robot.openarm import RIGHT
from armflow.robot.rig import DEFAULT_RIG, ArmCfg, Rig, load_rig
from armflow.robot.rig_check import check_rig
from armflow.robot.safety import JointSafety
from armflow.robot.safety_cfg import SafetyCfg
from armflow.robot.twin.cell import Cell
from armflow.robot.types import ArmState, SafetyFlag
from armflow.teleop.device import TeleopInput, ToolDelta
from armflow.teleop.source import TeleopSource
from scipy.spatial.transform import Rotation

# An arm as an OpenArm is built: hangs from a shoulder 0.6 m up, beside its column, and bends its elbow forward. Per joint: where it is in
# the link before (m), its axis, its range (degrees), and how long the link is, downwards (m).
CHAIN = (
    ((0.0, -0.16, 0.6), (0, -1, 0), (-80, 80), 0.0),
    ((0.0, 0.0, 0.0), (1, 0, 0), (-10, 95), 0.0),
    ((0.0, 0.0, -0.05), (0, 0, 1), (-90, 90), 0.2),
    ((0.0, 0.0, -0.22), (0, -1, 0), (0, 140), 0.0),
    ((0.0, 0.0, -0.05), (0, 0, 1), (-90, 90), 0.15),
    ((0.0, 0.0, -0.2), (1, 0, 0), (-45, 45), 0.0),
    ((0.0, 0.0, -0.02), (0, -1, 0), (-85, 85), 0.05),
)
TOOL = (0.0, 0.0, -0.12)
JOINTS = tuple(f"right_j{i}" for i in range(1, 8))
HOME = (0.2, 0.1, 0.0, 1.3, 0.0, 0.0, 0.0)
RADIUS = 0.04


def urdf(*, mesh: str = "", flipped: bool = False) -> str:
    """With a finger, a second arm's joint, a visual whose file is missing, and the tool as a link without mass."""
    links = ['<link name="base"><visual><geometry><mesh filename="none.stl"/></geometry></visual><collision>'
             '<origin xyz="0 0 0.3"/><geometry><cylinder radius="0.06" length="0.5"/></geometry></collision></link>']  # fmt: skip
    joints, parent = [], "base"
    for i, (at, axis, (low, high), length) in enumerate(CHAIN):
        shape = f'<cylinder radius="{RADIUS}" length="{length}"/>' if length else f'<sphere radius="{RADIUS}"/>'
        if mesh and i == 0:
            shape = f'<mesh filename="{mesh}"/>'
        collision = f'<collision><origin xyz="0 0 {-length / 2}"/><geometry>{shape}</geometry></collision>'
        links.append(f'<link name="link{i + 1}">{collision}</link>')
        if flipped and i == 1:
            axis, low, high = tuple(-x for x in axis), -high, -low
        joints.append(_joint(JOINTS[i], "revolute", parent, f"link{i + 1}", at, axis, np.radians((low, high))))
        parent = f"link{i + 1}"
    links += ['<link name="tcp"/>', '<link name="finger"><collision><geometry><box size="0.02 0.1 0.04"/></geometry>'
              '</collision></link>', '<link name="left"/>']  # fmt: skip
    joints += [_joint("tool", "fixed", parent, "tcp", TOOL, (1, 0, 0), (0, 0)),
               _joint("finger", "prismatic", parent, "finger", (0, 0, -0.08), (0, 1, 0), (0, 0.04)),
               _joint("left_j1", "revolute", "base", "left", (0, 0.2, 0.6), (0, 1, 0), (-1, 1))]  # fmt: skip
    return f'<robot name="arm">{"".join(links + joints)}</robot>'


def _joint(name: str, kind: str, parent: str, child: str, at: object, axis: object, limits: object) -> str:
    words = [" ".join(map(str, np.array(x).tolist())) for x in (at, axis)]
    low, high = np.array(limits).tolist()
    return (f'<joint name="{name}" type="{kind}"><parent link="{parent}"/><child link="{child}"/>'
            f'<origin xyz="{words[0]}"/><axis xyz="{words[1]}"/>'
            f'<limit lower="{low}" upper="{high}" effort="1" velocity="1"/></joint>')  # fmt: skip


def mjcf() -> str:
    """The same in degrees, with a floor, a motor, a keyframe, an equality and visuals."""
    body = ""
    for i, (at, axis, (low, high), length) in reversed(list(enumerate(CHAIN))):
        inside = body or (
            f'<site name="grasp" pos="{" ".join(map(str, TOOL))}"/><body pos="0 0 -0.08">'
            '<joint name="finger" type="slide" axis="0 1 0" range="0 0.04"/>'
            '<geom type="box" size="0.01 0.05 0.02"/></body>'
        )
        shape = (f'<geom type="cylinder" fromto="0 0 0 0 0 {-length}" size="{RADIUS}"/>' if length else
                 f'<geom type="sphere" size="{RADIUS}"/>')  # fmt: skip
        body = (f'<body name="link{i + 1}" pos="{" ".join(map(str, at))}"><joint name="{JOINTS[i]}" range="{low} {high}" '
                f'axis="{" ".join(map(str, axis))}"/>{shape}'
                f'<geom type="box" size="1 1 1" contype="0" conaffinity="0"/>{inside}</body>')  # fmt: skip
    return (
        '<mujoco><option><flag contact="disable"/></option><worldbody><geom type="plane" size="1 1 1"/>'
        f'<body name="base"><geom type="cylinder" fromto="0 0 0.05 0 0 0.55" size="0.06"/>{body}</body></worldbody>'
        f'<actuator><motor joint="{JOINTS[0]}"/></actuator><keyframe><key qpos="0 0 0 0 0 0 0 0"/></keyframe>'
        f'<equality><joint joint1="finger" polycoef="0.02 0 0 0 0"/></equality></mujoco>'
    )


FILES = {"arm.urdf": (urdf(), "tcp"), "arm.xml": (mjcf(), "grasp")}


def arm_in(folder: Path, name: str = "arm.urdf", text: str = "", **changes: object) -> ArmCfg:
    content, tool = FILES[name]
    (folder / name).write_text(text or content)
    file = replace(ArmFileCfg(folder / name, JOINTS, tool), **changes)  # type: ignore[arg-type]
    return ArmCfg(RIGHT.name, HOME, file)


@pytest.fixture(params=FILES)
def arm(request: pytest.FixtureRequest, tmp_path: Path) -> ArmCfg:
    return arm_in(tmp_path, request.param)


def rig_with(arm: ArmCfg) -> Rig:
    safety = SafetyCfg(engage_s=0.0, tcp_min=(0.1, -0.5, 0.0))
    return replace(load_rig(), arm=arm, safety=safety)


def pose_by_hand(q: np.ndarray) -> np.ndarray:
    X = np.eye(4)
    for (at, axis, _, _), angle in zip(CHAIN, q, strict=True):
        step = np.eye(4)
        step[:3, :3], step[:3, 3] = Rotation.from_rotvec(angle * np.array(axis)).as_matrix(), at
        X = X @ step
    X[:3, 3] += X[:3, :3] @ np.array(TOOL)
    return X


def test_forward_kinematics_is_the_files(arm: ArmCfg):
    kinematics = Kinematics(arm)
    for q in np.random.default_rng(0).uniform(RIGHT.q_min, RIGHT.q_max, (50, 7)):
        np.testing.assert_allclose(kinematics.forward(q), pose_by_hand(q), atol=1e-9)


def test_inverse_kinematics_gets_there_inside_the_arms_own_range(arm: ArmCfg):
    kinematics, q = Kinematics(arm), np.array(HOME)
    X = kinematics.forward(q)
    for move in ((0.05, 0, 0), (0, 0.05, 0), (0, 0, 0.05), (-0.05, -0.05, 0)):
        X[:3, 3] += move
        q = kinematics.inverse(X, q, iterations=30)
        np.testing.assert_allclose(kinematics.forward(q), X, atol=1e-3)
    X[:3, 3] = (0.0, 0.0, 3.0)  # the file would let the elbow go to 140 degrees, LeRobot to 135
    for _ in range(30):
        q = kinematics.inverse(X, q)
    assert (q > RIGHT.q_min).all() and (q < RIGHT.q_max).all()


def test_only_the_arm_moves_and_only_what_can_collide_is_left(arm: ArmCfg):
    found = arm_model(arm)
    model = found.spec.compile()
    assert (model.nq, model.nu, model.neq, model.nkey, model.nmesh) == (7, 0, 0, 0, 0)
    assert [model.joint(i).name for i in range(7)] == list(JOINTS)
    np.testing.assert_allclose(model.jnt_range, np.column_stack([RIGHT.q_min, RIGHT.q_max]))
    assert len(found.links) == model.ngeom == 9  # base, seven links, finger
    assert sorted(found.links.values()) == [1, 2, 3, 4, 5, 6, 7, 8, 8], "the finger is part of the last link"


def test_the_surroundings_know_table_box_camera_and_the_arm_itself(arm: ArmCfg):
    rig, home = rig_with(arm), np.array(HOME)
    surroundings = Surroundings(rig)
    assert surroundings.look(home).flag == SafetyFlag.NONE
    np.testing.assert_allclose(surroundings.look(home).tcp, pose_by_hand(home)[:3, 3], atol=1e-9)
    assert surroundings.look(home - [0.2, 0.1, 0, 1.3, 0, 0, 0]).flag == SafetyFlag.COLLISION, "hanging into the table"
    assert surroundings.look(home + [-1.1, -0.2, 0, 0.4, 0, 0, 0]).flag == SafetyFlag.WORKSPACE
    inwards = surroundings.look(home + [0, -0.1, 1.4, 0, 0, 0, 0])
    assert inwards.flag == SafetyFlag.COLLISION and "from base" in inwards.what, inwards.what
    near = replace(rig.cameras[0], position=tuple(pose_by_hand(home)[:3, 3]))
    assert "camera head" in Surroundings(replace(rig, cameras=(near,))).look(home).what


def test_a_person_can_move_the_tool_and_the_filter_keeps_it_off_the_table(arm: ArmCfg):
    """10 cm up, then down for as long as the filter lets it."""
    rig, clock = rig_with(arm), SimClock()
    fake = FakeArm(clock, spec=RIGHT, q=np.array(HOME))
    kinematics, surroundings = Kinematics(arm), Surroundings(rig)
    source = TeleopSource(UpThenDown(), kinematics, rig.control_hz)
    safety = JointSafety(RIGHT, replace(rig.safety, blocked_stop_s=np.inf, tracking_rad=np.inf), surroundings)
    start = kinematics.forward(np.array(HOME))[:3, 3]
    heights: list[float] = []

    class Heights:
        def add(self, step: object) -> None:
            heights.append(kinematics.forward(fake.read().q)[2, 3])

        def abort(self, reason: str) -> None:
            pass

    run_episode(arm=fake, cameras={}, source=source, safety=safety, clock=clock,
                cfg=LoopCfg(fps=rig.control_hz, max_steps=120), sinks=(Heights(),))  # fmt: skip
    end = fake.read().q
    assert max(heights) == pytest.approx(start[2] + 0.1, abs=0.01)
    assert surroundings.look(end).flag == SafetyFlag.NONE
    assert kinematics.forward(end)[2, 3] < 0.1 and min(heights) > 0.0


class UpThenDown:
    """TeleopDevice: 2 cm a tick up, five times, then down."""

    def __init__(self) -> None:
        self._ticks = 0

    def read(self, state: ArmState) -> TeleopInput:
        self._ticks += 1
        step = 0.02 if self._ticks <= 5 else 0.0 if self._ticks < 20 else -0.02
        return TeleopInput(engaged=True, target=ToolDelta(np.array([0, 0, step]), np.zeros(3)), gripper=1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file": Path("nowhere.urdf")}, r"nowhere\.urdf does not exist; its path is relative to the rig file"),
        ({"text": "<robot><nonsense"}, r"arm\.urdf is no MJCF or URDF that MuJoCo reads"),
        ({"joints": (*JOINTS[:6], "j7")}, r"arm\.urdf has no joint j7; it has: right_j1, .*finger, left_j1"),
        ({"joints": (*JOINTS[:6], "finger")}, r"finger does not turn about one axis"),
        ({"joints": (*JOINTS[:6], "left_j1")}, r"to tcp lie the joints right_j1, .*right_j6, \[arm\.desc.*left_j1: all"),
        ({"joints": JOINTS[::-1]}, r"lie the joints right_j1, right_j2.*in that order"),
        ({"tool_frame": "link3"}, r"to link3 lie the joints right_j1, right_j2, right_j3, \[arm"),
        ({"tool_frame": "hand"}, r"no site, body or link 'hand' \(tool_frame\); it has: base, link1, .*tcp, finger"),
        ({"text": urdf(mesh="package://arm/meshes/none.stl")}, r"cannot build the arm: .*none\.stl"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, object], message: str):
    arm = arm_in(tmp_path, **changes)  # type: ignore[arg-type]
    assert has_model(arm)
    with pytest.raises(ConfigError, match=message):
        arm_model(arm)
    (finding,) = [f for f in check_rig(rig_with(arm), date(2026, 11, 22)) if f.subject == "arm.description"]
    assert finding.level == "error" and finding.advice


def test_a_file_without_shapes_is_refused_since_no_collision_would_ever_be_found(tmp_path: Path):
    bare = mjcf().replace("<mujoco>", '<mujoco><default><geom contype="0" conaffinity="0"/></default>')
    with pytest.raises(ConfigError, match="has no shapes to check collisions with"):
        arm_model(arm_in(tmp_path, "arm.xml", bare))


def test_meshes_are_found_as_ros_packages_name_them_and_count_as_their_hulls(tmp_path: Path):
    meshes = tmp_path / "my_arm" / "meshes"
    meshes.mkdir(parents=True)
    corners = np.array([[0, 0, 0], [0.1, 0, 0], [0, 0.1, 0], [0, 0, 0.1]])
    faces = [corners[list(i)] for i in ((0, 2, 1), (0, 1, 3), (0, 3, 2), (1, 2, 3))]
    triangles = b"".join(struct.pack("<12fH", *np.zeros(3), *face.ravel(), 0) for face in faces)
    (meshes / "part.stl").write_bytes(bytes(80) + struct.pack("<I", len(faces)) + triangles)
    folder = tmp_path / "my_arm" / "urdf"
    folder.mkdir()
    arm = arm_in(folder, text=urdf(mesh="package://my_arm/meshes/part.stl"))
    model = arm_model(arm).spec.compile()
    assert (model.geom_type == mujoco.mjtGeom.mjGEOM_MESH).sum() == 1 and model.mesh_facenum[0] == 4
    assert Surroundings(rig_with(arm)).look(np.array(HOME)).flag == SafetyFlag.NONE


@pytest.mark.parametrize("flipped", [False, True])
def test_a_joint_that_turns_the_other_way_shows_in_its_range(tmp_path: Path, flipped: bool):
    arm = arm_in(tmp_path, text=urdf(flipped=flipped))
    assert arm.description is not None
    beyond = ranges_beyond(arm.description, RIGHT)
    assert bool(beyond) == flipped
    findings = {f.subject: f for f in check_rig(rig_with(arm), date(2026, 11, 22))}
    assert findings["arm.description"].level == ("warning" if flipped else "ok")
    if flipped:
        assert "joint2 -0.16 to 1.57 rad, right_j2 in the file -1.66 to 0.17" in findings["arm.description"].found
    assert findings["twin"].level == "warning" and "arm.home_q" in findings


def test_a_rig_check_says_when_the_filter_would_not_start_at_home(tmp_path: Path):
    low = replace(arm_in(tmp_path), home_q=(0.0,) * 7)
    errors = [f.found for f in check_rig(rig_with(low), date(2026, 11, 22)) if f.level == "error"]
    assert any("the safety filter stops there" in found and "table" in found for found in errors), errors


def test_a_rig_file_names_it_relative_to_itself(tmp_path: Path):
    (tmp_path / "arm.urdf").write_text(urdf())
    text = DEFAULT_RIG.read_text()
    head, _, rest = text.partition("[arm]")
    section = (f'[arm]\nmodel = "openarm_right"\nhome_q = {list(HOME)}\n[arm.description]\nfile = "arm.urdf"\n'
               f'joints = {list(JOINTS)}\ntool_frame = "tcp"\n')  # fmt: skip
    path = tmp_path / "rig.toml"
    path.write_text(head + section + rest[rest.index("[[cameras]]") :])
    rig = load_rig(path)
    np.testing.assert_allclose(Kinematics(rig.arm).forward(np.zeros(7)), pose_by_hand(np.zeros(7)), atol=1e-9)
    with pytest.raises(ConfigError, match="there is no twin of the openarm_right, only of: fr3, panda, xarm7"):
        Cell(rig)


def test_the_rigs_hash_is_of_what_is_in_the_file_not_of_where_it_lies(tmp_path: Path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    one, other = (rig_with(arm_in(folder)) for folder in (here, there))
    assert one.hash == other.hash
    assert other.arm.description is not None
    other.arm.description.file.write_text(other.arm.description.file.read_text() + "<!-- another -->")
    assert one.hash != other.hash


def test_a_description_belongs_to_an_arm_without_one(tmp_path: Path):
    file = arm_in(tmp_path).description
    assert file is not None
    with pytest.raises(ConfigError, match=r"its own model of the fr3: omit \[arm\.description\]"):
        ArmCfg(description=file)
    with pytest.raises(ConfigError, match=r"\[arm\.description\] names 6 joints, openarm_right has 7"):
        ArmCfg(RIGHT.name, HOME, replace(file, joints=JOINTS[:6]))
