"""Registering a plan: drawing codes and orders, writing them down before trial one, refusing changes afterwards."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator

from ..robot.errors import ConfigError, DataError
from .trials import Policy, Trial, TrialKey, TrialPlan

PLAN_FILE, KEY_FILE = "plan.json", "key.json"
CODE_LETTERS = tuple("BCDFGHJKLMNPQRSTVWXZ")  # no vowels: a code must not read as a word, let alone a method
CODE_LENGTH = 3


@dataclass(frozen=True)
class TrialRequest:
    """What somebody wants compared."""

    policies: tuple[Policy, ...]  # in the order in which reports list them
    reference: str  # name of the policy that the others are compared with
    seeds: Mapping[str, Sequence[int]]  # by task; every policy meets every seed
    alpha: float = 0.05


@dataclass(frozen=True)
class Registration:
    plan: TrialPlan
    key: TrialKey


def register(folder: Path, request: TrialRequest, rng: Generator) -> Registration:
    """Write plan and key into `folder`, or load the ones there if they register exactly this request.

    Raises ConfigError if the request is impossible or differs from what is registered, DataError if a file was changed.
    """
    _check(request)
    if (folder / PLAN_FILE).exists():
        registration = load_registration(folder)
        _refuse_changes(folder, request, registration)
        return registration
    registration = draw(request, rng)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / KEY_FILE, asdict(registration.key))
    _write(folder / PLAN_FILE, {"sha256": registration.plan.sha256, "plan": asdict(registration.plan)})
    return registration


def draw(request: TrialRequest, rng: Generator) -> Registration:
    """Give every policy a random code, and every block (task, seed) its own random order of policies."""
    codes = _draw_codes(len(request.policies), rng)
    policies = dict(zip(codes, request.policies, strict=True))
    reference = next(code for code, policy in policies.items() if policy.name == request.reference)
    key = TrialKey(reference, policies, salt=rng.bytes(16).hex())
    order = [
        (task, int(seed), codes[i])
        for task, seeds in request.seeds.items()
        for seed in seeds
        for i in rng.permutation(len(codes))
    ]
    trials = tuple(Trial(f"{i:04d}", task, seed, code) for i, (task, seed, code) in enumerate(order))
    return Registration(TrialPlan(request.alpha, key.sha256, trials), key)


def load_plan(folder: Path) -> TrialPlan:
    """Read the plan alone, as a scorer does. Raises DataError if it was changed since it was registered."""
    content = _read(folder / PLAN_FILE)
    try:
        saved, sha256 = content["plan"], content["sha256"]
        plan = TrialPlan(saved["alpha"], saved["key_sha256"], tuple(Trial(**trial) for trial in saved["trials"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder / PLAN_FILE} is not a trial plan: {error!r}") from error
    if plan.sha256 != sha256:
        raise DataError(
            f"{folder / PLAN_FILE} was changed after it was registered (sha256 {plan.sha256[:12]}, registered as "
            f"{sha256[:12]}): restore it, or register a new plan in an empty folder"
        )
    return plan


def load_registration(folder: Path) -> Registration:
    """Read plan and key. Raises DataError if either was changed."""
    plan, content = load_plan(folder), _read(folder / KEY_FILE)
    try:
        policies = {code: Policy(**policy) for code, policy in content["policies"].items()}
        key = TrialKey(content["reference"], policies, content["salt"])
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder / KEY_FILE} is not the key of a trial plan: {error!r}") from error
    if key.sha256 != plan.key_sha256:
        raise DataError(f"{folder / KEY_FILE} is not the key that {PLAN_FILE} was registered with: restore it")
    return Registration(plan, key)


def _check(request: TrialRequest) -> None:
    names = [policy.name for policy in request.policies]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"a comparison needs two or more policies of different names, got {', '.join(names)}")
    if request.reference not in names:
        raise ConfigError(f"reference {request.reference!r} is not among the policies: {', '.join(names)}")
    if not 0 < request.alpha < 1:
        raise ConfigError(f"alpha must lie between 0 and 1, got {request.alpha}")
    for task, seeds in request.seeds.items():
        if not seeds or len(set(seeds)) < len(seeds):
            raise ConfigError(f"{task}: trials need seeds, and each only once, got {len(seeds)}")
    if not request.seeds:
        raise ConfigError("no task to compare on")


def _refuse_changes(folder: Path, request: TrialRequest, registration: Registration) -> None:
    plan, key = registration.plan, registration.key
    registered = {policy.name: policy.fingerprint for policy in key.policies.values()}
    wanted = {policy.name: policy.fingerprint for policy in request.policies}
    differences = [
        *_difference("policies", sorted(registered), sorted(wanted)),
        *(
            line
            for name in registered.keys() & wanted.keys()
            for line in _difference(f"checkpoint of {name}", registered[name], wanted[name])
        ),
        *_difference("reference", key.policies[key.reference].name, request.reference),
        *_difference("tasks", list(plan.tasks), list(request.seeds)),
        *(
            f"  seeds of {task}: {len(plan.seeds(task))} registered, {len(seeds)} wanted, not the same"
            for task, seeds in request.seeds.items()
            if task in plan.tasks and plan.seeds(task) != tuple(seeds)
        ),
        *_difference("alpha", plan.alpha, request.alpha),
    ]
    if differences:
        raise ConfigError(
            f"{folder / PLAN_FILE} registers another comparison, and a plan cannot change once it is registered:\n"
            + "\n".join(differences)
            + "\nUse another folder for this comparison."
        )


def _difference(what: str, registered: object, wanted: object) -> list[str]:
    return [] if registered == wanted else [f"  {what}: registered {registered}, wanted {wanted}"]


def _draw_codes(n: int, rng: Generator) -> tuple[str, ...]:
    codes: dict[str, None] = {}
    while len(codes) < n:
        codes["".join(rng.choice(np.array(CODE_LETTERS), CODE_LENGTH))] = None
    return tuple(codes)


def _read(path: Path) -> dict:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: the folder holds no registered plan") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} must hold one JSON object")
    return content


def _write(path: Path, content: dict) -> None:
    """All or nothing, and on disk when it returns."""
    partial = path.with_suffix(".partial")
    with partial.open("w") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
