"""What a policy is asked before any arm moves: whether it fits the rig. And that it is warm then."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from armflow.evaluation.agent_source import AgentFactory, check_fit
from armflow.evaluation.agents import Plain, load_cached
from armflow.robot.errors import SchemaMismatch
from armflow.robot.rig import Rig, load_rig
from armflow.training.pi05_mini.load import SHIPPED
from armflow.training.pi05_mini.modeling_pi05_mini import PI05MiniConfig
from lerobot.configs import FeatureType, PolicyFeature


@pytest.fixture(scope="module")
def rig() -> Rig:
    return load_rig()


def test_it_fits_the_rig_at_every_image_size(rig: Rig) -> None:
    for size in ((640, 480), (128, 96), (64, 48)):
        check_fit(PI05MiniConfig(), rig.with_image_size(*size))


def test_images_have_the_shape_that_it_was_fine_tuned_on(rig: Rig) -> None:
    wide = {f"observation.images.{c}": PolicyFeature(FeatureType.VISUAL, (3, 360, 640)) for c in ("head", "front")}
    check_fit(PI05MiniConfig(input_features=wide), rig.with_image_size(320, 180))
    with pytest.raises(SchemaMismatch, match="camera head gives 640 x 480, the policy was trained on 640 x 360"):
        check_fit(PI05MiniConfig(input_features=wide), rig.with_image_size(640, 480))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rig: replace(rig, control_hz=20.0), "control_hz is 20, the policy was trained at 10"),
        (
            lambda rig: replace(rig, cameras=rig.cameras[:1]),
            r"no camera front, .* it has head\. Name the cameras as in",
        ),
        (lambda rig: rig.with_image_size(640, 360), "head gives 640 x 360, the policy was trained on 128 x 96"),
    ],
)
def test_a_rig_that_it_was_not_trained_on_is_refused(rig: Rig, change: Callable[[Rig], Rig], message: str) -> None:
    with pytest.raises(SchemaMismatch, match=message):
        check_fit(PI05MiniConfig(), change(rig))


def test_joints_by_other_names_are_refused(rig: Rig) -> None:
    other = PI05MiniConfig(action_names=tuple(f"j{i}.pos" for i in range(8)))
    with pytest.raises(SchemaMismatch, match=r"its arm takes joint1\.pos.*trained on j0\.pos"):
        check_fit(other, rig)


def test_another_arm_is_refused_even_if_its_joints_have_the_same_names(rig: Rig) -> None:
    check_fit(PI05MiniConfig(arm="fr3"), rig)
    with pytest.raises(SchemaMismatch, match="its arm is a fr3, the policy was trained on a xarm7"):
        check_fit(PI05MiniConfig(arm="xarm7"), rig)


def test_once_prepared_it_is_loaded_and_has_decided_about_images_of_the_rigs_size(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory, seen = AgentFactory(Plain(SHIPPED, flow_steps=2)), []
    policy = load_cached(factory.agent).policy
    encode = policy.encode
    monkeypatch.setattr(policy, "encode", lambda obs: seen.append(obs) or encode(obs))
    factory.prepare(rig.with_image_size(64, 48))
    (obs,) = seen
    assert {name: tuple(x.shape) for name, x in obs.images.items()} == {c: (1, 3, 48, 64) for c in ("head", "front")}
    with pytest.raises(SchemaMismatch, match="at another speed"):
        factory.prepare(replace(rig, control_hz=20.0))
    assert len(seen) == 1
