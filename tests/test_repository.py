"""What must stay true of the repository as a whole: layout, direction of imports, lock, commands, pages."""

import ast
import importlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from armflow import cli

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "robot": set[str](),
    "calibration": {"robot"},
    "datasets": {"robot"},
    "teleop": {"robot", "calibration", "datasets"},
    "training": {"robot", "datasets"},
    "evaluation": {"robot", "calibration", "datasets", "teleop", "training"},
}
FROM_ROBOT_IN_TRAINING = {"errors", "types"}  # training knows data, not machines
UNSAFE_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve"}  # reading them runs what they hold
UNSAFE_CALLS = re.compile(r"allow_pickle=True|weights_only=False|torch\.load\(")


def sources(folder: str) -> Iterator[Path]:
    """Python files of a folder, relative to the root."""
    yield from (path.relative_to(ROOT) for path in sorted((ROOT / folder).rglob("*.py")))


def all_sources() -> Iterator[Path]:
    yield from (path.relative_to(ROOT) for path in sorted(ROOT.glob("*.py")))
    for folder in MAY_IMPORT:
        yield from sources(folder)


def imports(path: Path) -> Iterator[str]:
    """Full names of what a file imports."""
    package = ["armflow", *path.parent.parts]
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            yield from (".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names)


def within_armflow(folder: str) -> Iterator[tuple[Path, list[str]]]:
    """Every import of armflow in a folder: the file, and ['robot', 'errors', 'DataError']."""
    for path in sources(folder):
        yield from ((path, name.split(".")[1:]) for name in imports(path) if name.startswith("armflow."))


def settings() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("folder", [*MAY_IMPORT, "tests", "tests/datasets"])
def test_folders_are_namespace_packages(folder: str) -> None:
    """datasets/__init__.py would shadow Hugging Face datasets, which LeRobot imports."""
    assert not list((ROOT / folder).rglob("__init__.py"))


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_point_in_one_direction(folder: str) -> None:
    allowed = {folder, *MAY_IMPORT[folder]}
    assert not [(path, name) for path, name in within_armflow(folder) if name[0] not in allowed]


def test_training_takes_errors_and_types_from_robot_and_nothing_else() -> None:
    from_robot = [(path, name) for path, name in within_armflow("training") if name[0] == "robot"]
    assert from_robot
    assert not [(path, name) for path, name in from_robot if name[1] not in FROM_ROBOT_IN_TRAINING]


def test_nothing_is_unpickled() -> None:
    for path in [*all_sources(), *sources("tests")]:
        assert not {name.split(".")[0] for name in imports(path)} & UNSAFE_MODULES, path
    for path in all_sources():
        assert not UNSAFE_CALLS.search((ROOT / path).read_text()), path


def test_every_folder_with_code_is_packaged() -> None:
    folders = {".".join(["armflow", *path.parent.parts]) for path in all_sources()}
    assert folders == set(settings()["tool"]["setuptools"]["packages"])


def test_lock_pins_every_dependency_by_hash_and_names_no_place() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    project = settings()["project"]
    direct = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[^\w-]", requirement)[0].lower() for requirement in direct}
    pinned = re.findall(r"^([\w-]+)==", lock, re.MULTILINE)
    with_hash = re.findall(r"^([\w-]+)==.*\\\n    --hash=sha256:[0-9a-f]{64}", lock, re.MULTILINE)
    assert "://" not in lock
    assert names <= set(pinned)
    assert pinned == with_hash


def test_a_robot_computer_needs_no_models() -> None:
    """Recording and teleoperation import neither training nor torch models."""
    code = (
        "import sys, armflow.robot.control, armflow.teleop.session, armflow.datasets.recorder;"
        "print([m for m in sys.modules if m in ('torch', 'transformers', 'lerobot') or m.startswith('armflow.training')])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_devices_are_offered_without_a_display_and_without_their_extras() -> None:
    """What only one device needs is imported when that one is opened."""
    code = (
        "import sys, armflow.evaluation.collect_commands;"
        "print([m for m in ('pynput', 'pygame', 'hid', 'nicegui', 'lerobot') if m in sys.modules])"
    )
    without_display = {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
    done = subprocess.run([sys.executable, "-c", code], check=True, env=without_display, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_overview_names_every_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["armflow"])
    cli.main()
    text = capsys.readouterr().out
    assert all(f"armflow {group}" in text for group in cli.GROUPS)


@pytest.mark.parametrize("group", cli.GROUPS)
def test_help_of_every_command_explains_every_option(
    group: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in commands(group):
        monkeypatch.setattr(sys, "argv", ["armflow", *command, "--help"])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        text = capsys.readouterr().out
        assert stopped.value.code == 0
        assert len(text.split()) > 15, command


def commands(group: str) -> list[list[str]]:
    """The group by itself, then with each subcommand."""
    found = importlib.import_module(f"armflow.{cli.GROUPS[group][0]}").COMMANDS
    return [[group]] + ([[group, name] for name in found] if isinstance(found, dict) else [])


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_every_folder_says_what_it_owns_and_may_import(folder: str) -> None:
    page = (ROOT / folder / "README.md").read_text()
    assert re.search(r"\bOwns\b", page) and re.search(r"[Mm]ay import", page) and "```" in page


def test_pages_name_only_commands_that_exist() -> None:
    for page in [*ROOT.glob("*.md"), *(p for folder in MAY_IMPORT for p in (ROOT / folder).rglob("*.md"))]:
        for group, name in re.findall(
            r"(?:^|`|\$ )armflow ([a-z][\w-]*)(?: ([a-z][\w-]*))?", page.read_text(), re.MULTILINE
        ):
            assert group in cli.GROUPS, f"{page}: armflow {group}"
            known = [command[1] for command in commands(group) if len(command) > 1]
            assert not known or not name or name in known, f"{page}: armflow {group} {name}"


def test_make_targets_that_pages_name_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in ROOT.glob("*.md"):
        assert set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE)) <= targets, page
