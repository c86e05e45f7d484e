"""A plan is fixed before trial one, hides who is who, and refuses to change."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from armflow.evaluation.registration import (
    KEY_FILE,
    PLAN_FILE,
    Registration,
    TrialRequest,
    draw,
    load_plan,
    load_registration,
    register,
)
from armflow.evaluation.trials import Policy
from armflow.robot.errors import ConfigError, DataError

NAMES = ("base", "sft", "q-vgm")
SEEDS = {"pick_peach": range(1000, 1012), "stack_bowls": range(5000, 5012)}
REQUEST = TrialRequest(tuple(Policy(name, f"{name}-checkpoint") for name in NAMES), "sft", SEEDS)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_every_policy_meets_every_seed_of_every_task_once(registration: Registration):
    plan = registration.plan
    cells = Counter((t.task, t.seed, t.code) for t in plan.trials)
    assert set(cells.values()) == {1}
    assert len(cells) == 2 * 12 * len(NAMES)
    assert plan.tasks == ("pick_peach", "stack_bowls") and plan.seeds("pick_peach") == tuple(range(1000, 1012))


def test_blocks_run_together_in_random_order(registration: Registration):
    trials, k = registration.plan.trials, len(NAMES)
    blocks = [trials[i : i + k] for i in range(0, len(trials), k)]
    assert all(len({(t.task, t.seed) for t in block}) == 1 for block in blocks)
    assert len({tuple(t.code for t in block) for block in blocks}) > 3  # of 6 possible orders


def test_each_policy_is_first_equally_often():
    plan = draw(replace(REQUEST, seeds={"pick_peach": range(1200)}), rng()).plan
    first = Counter(trial.code for trial in plan.trials[:: len(NAMES)])
    assert all(abs(count - 400) < 60 for count in first.values())  # 60 is more than 3 standard deviations


def test_registering_again_returns_the_same_plan(folder: Path, registration: Registration):
    assert register(folder, REQUEST, rng(99)) == registration
    assert load_registration(folder) == registration
    assert load_plan(folder).sha256 == registration.plan.sha256


def test_the_plan_names_no_policy(folder: Path, registration: Registration):
    text = (folder / PLAN_FILE).read_text()
    assert not any(name in text for name in NAMES)
    assert {trial.code for trial in registration.plan.trials} == set(registration.key.policies)


def test_two_draws_share_neither_codes_nor_hash():
    a, b = draw(REQUEST, rng(1)), draw(REQUEST, rng(2))
    assert not set(a.key.policies) & set(b.key.policies)
    assert a.plan.sha256 != b.plan.sha256


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (replace(REQUEST, seeds={task: range(13) for task in SEEDS}), "seeds of pick_peach: 12 registered, 13 wanted"),
        (replace(REQUEST, policies=REQUEST.policies[:2]), "policies: registered"),
        (replace(REQUEST, alpha=0.01), "alpha: registered 0.05, wanted 0.01"),
        (replace(REQUEST, reference="base"), "reference: registered sft, wanted base"),
        (replace(REQUEST, seeds={"pick_peach": range(1000, 1012)}), "tasks: registered"),
        (
            replace(REQUEST, policies=tuple(Policy(name, "retrained") for name in NAMES)),
            "checkpoint of q-vgm: registered q-vgm-checkpoint, wanted retrained",
        ),
    ],
)
def test_a_changed_request_is_refused_and_explained(
    folder: Path, registration: Registration, changed: TrialRequest, message: str
):
    with pytest.raises(ConfigError, match=message):
        register(folder, changed, rng())
    assert load_registration(folder) == registration


@pytest.mark.parametrize(
    ("impossible", "message"),
    [
        (replace(REQUEST, reference="oracle"), "not among the policies: base, sft"),
        (replace(REQUEST, policies=(Policy("sft", "a"), Policy("sft", "b"))), "different names"),
        (replace(REQUEST, alpha=5), "alpha"),
        (replace(REQUEST, seeds={"pick_peach": [1, 1]}), "only once"),
        (replace(REQUEST, seeds={}), "no task"),
    ],
)
def test_an_impossible_request_is_refused(folder: Path, impossible: TrialRequest, message: str):
    with pytest.raises(ConfigError, match=message):
        register(folder, impossible, rng())
    assert not folder.exists()


def test_an_edited_plan_is_refused(folder: Path, registration: Registration):
    content = json.loads((folder / PLAN_FILE).read_text())
    content["plan"]["trials"].pop()
    (folder / PLAN_FILE).write_text(json.dumps(content))
    with pytest.raises(DataError, match="changed after it was registered"):
        load_plan(folder)


def test_an_exchanged_key_is_refused(folder: Path, registration: Registration):
    content = json.loads((folder / KEY_FILE).read_text())
    (first, a), (second, b) = list(content["policies"].items())[:2]
    content["policies"] |= {first: b, second: a}
    (folder / KEY_FILE).write_text(json.dumps(content))
    with pytest.raises(DataError, match="not the key"):
        load_registration(folder)


@pytest.mark.parametrize("damage", ["{", "[]", "{}", '{"plan": {}, "sha256": ""}'])
def test_a_damaged_plan_says_so(folder: Path, registration: Registration, damage: str):
    (folder / PLAN_FILE).write_text(damage)
    with pytest.raises(DataError, match=PLAN_FILE):
        load_plan(folder)
