"""The command as a user meets it: help, mistakes, and how much is loaded for them."""

import functools
import importlib
import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import tyro
from armflow import __version__, cli

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def subcommands() -> list[tuple[list[str], Callable[..., Any]]]:
    """What is typed after `armflow`, and the function behind it."""
    found: list[tuple[list[str], Callable[..., Any]]] = []
    for group, (module, _) in cli.GROUPS.items():
        commands = importlib.import_module(f"armflow.{module}").COMMANDS
        found += [([group], commands)] if callable(commands) else [([group, n], f) for n, f in commands.items()]
    return found


COMMANDS = [pytest.param(command, function, id=" ".join(command)) for command, function in subcommands()]


def armflow(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The real command in a real process."""
    code = "from armflow.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=cwd, check=False
    )


def words(text: str) -> str:
    """Without colours, boxes and line breaks: only what is said."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", ANSI.sub("", text)).split())


def options(text: str) -> dict[str, str]:
    """What a help page says of each option, `(required)` or `(default: ...)` included."""
    found: dict[str, str] = {}
    name = None
    for line in (raw.strip("│|+ ") for raw in ANSI.sub("", text).splitlines()):
        if line.startswith(("╭", "╰", "---")):  # the edge of a box
            name = None
        elif option := re.match(r"(?:-h, )?(--\w[\w.-]*)", line):
            name, line = option[1], line.partition("  ")[2]  # two blanks end the names and what they take
            found[name] = ""
        if name is not None:
            found[name] = f"{found[name]} {line}".strip()
    return found


def is_described(says: str) -> bool:
    return len(re.sub(r"\((default: .*|required)\)$", "", says).split()) > 1


@pytest.fixture
def helped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """helped(*arguments): the help, which has to end with exit status 0."""

    def _helped(*arguments: str) -> str:
        monkeypatch.setenv("COLUMNS", "80")  # on a wider screen tyro puts boxes side by side
        monkeypatch.setattr(sys, "argv", ["armflow", *arguments, "--help"])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == 0
        return capsys.readouterr().out

    return _helped


# --- help


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_the_overview_says_what_each_command_is_for(arguments: list[str]) -> None:
    done = armflow(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    for group, (_, meaning) in cli.GROUPS.items():
        assert f"armflow {group} {meaning}" in words(done.stdout)


def test_the_version_is_the_packages() -> None:
    assert armflow("--version").stdout.strip() == __version__


@pytest.mark.parametrize("group", cli.GROUPS)
def test_help_of_a_group_names_its_subcommands(group: str, helped: Callable[..., str]) -> None:
    text = words(helped(group))
    for command, function in subcommands():
        if command[0] == group and len(command) == 2:
            first = (function.__doc__ or "").split("\n")[0]
            assert command[1] in text
            assert " ".join(first.split()[:4]) in text, "what it is for"


@pytest.mark.parametrize(("command", "function"), COMMANDS)
def test_help_of_a_command_describes_its_options(
    command: list[str], function: Callable[..., Any], helped: Callable[..., str]
) -> None:
    found = options(helped(*command))
    parameters = inspect.signature(function).parameters.values()
    if any(is_dataclass(kind) for kind in get_type_hints(function).values()):
        assert len(found) > 3
    else:
        named = {p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY}
        assert {f"--{name.replace('_', '-')}" for name in named} == set(found) - {"--help"}
    assert not [name for name, says in found.items() if not is_described(says)]


def readme_commands() -> list[list[str]]:
    """Every `armflow ...` line of the README's code blocks, its comment cut off."""
    blocks = re.findall(r"```\n(.*?)```", (Path(cli.__file__).parent / "README.md").read_text(), re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [line[1:] for line in lines if line[:1] == ["armflow"]]


@pytest.mark.parametrize("arguments", readme_commands(), ids=" ".join)
def test_what_the_readme_says_to_type_is_understood(arguments: list[str]) -> None:
    """Parsed as typed, without being run."""
    group, *rest = arguments
    commands = importlib.import_module(f"armflow.{cli.GROUPS[group][0]}").COMMANDS
    function = commands if callable(commands) else commands[rest.pop(0)]
    parsed: list[inspect.BoundArguments] = []

    @functools.wraps(function)
    def listen(*args: Any, **kwargs: Any) -> None:
        parsed.append(inspect.signature(function).bind(*args, **kwargs))

    tyro.cli(listen, args=rest)
    assert parsed


# --- mistakes


def test_an_error_of_armflow_is_one_message_and_no_traceback(tmp_path: Path) -> None:
    done = armflow("twin", "render", "--rig", "no_such_rig.toml", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert words(done.stderr) == (
        "armflow: rig file no_such_rig.toml does not exist; `armflow rig new no_such_rig.toml` writes one to start from"
    )  # and nothing after it
    assert not list(tmp_path.iterdir())


def test_what_looks_like_markup_in_a_message_is_shown_as_it_is(tmp_path: Path) -> None:
    done = armflow("twin", "render", "--rig", "[bold]rig[/bold].toml", cwd=tmp_path)
    assert "rig file [bold]rig[/bold].toml does not exist" in words(done.stderr)


def test_a_command_that_does_not_exist_gets_the_ones_that_do() -> None:
    done = armflow("trian")
    assert done.returncode == 1
    assert words(done.stderr) == f"armflow: there is no command 'trian'; commands: {', '.join(cli.GROUPS)}"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["twin", "fly"], "fly"),
        (["twin", "render", "--task", "fold_towel"], "pick_peach"),
        (["twin", "render", "--seed", "one"], "--seed"),
        (["twin", "render", "--colour", "red"], "--colour"),
        (["data", "info"], "DATASET"),
        pytest.param(["eval", "compare", "only_one"], "B", marks=pytest.mark.slow),  # imports every model
    ],
)
def test_a_mistake_on_the_command_line_is_named_without_a_traceback(
    arguments: list[str], named: str, tmp_path: Path
) -> None:
    done = armflow(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert named in words(done.stderr)
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_error_in_the_programme_itself_is_not_dressed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody has to find it, with its traceback."""
    module = importlib.import_module("armflow.robot.twin.commands")
    monkeypatch.setitem(module.COMMANDS, "render", lambda: [][0])
    monkeypatch.setattr(sys, "argv", ["armflow", "twin", "render"])
    with pytest.raises(IndexError):
        cli.main()


def test_an_interrupted_command_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    module = importlib.import_module("armflow.robot.twin.commands")
    monkeypatch.setitem(module.COMMANDS, "render", interrupted)
    monkeypatch.setattr(sys, "argv", ["armflow", "twin", "render"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    assert "run the same command again" in words(capsys.readouterr().err)


# --- weight


@pytest.mark.parametrize("module", ["armflow.cli", "armflow.robot.twin.commands", "armflow.datasets.commands"])
def test_what_a_robot_computer_runs_imports_no_torch(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('torch', 'transformers', 'lerobot') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_the_overview_loads_no_group() -> None:
    modules = {f"armflow.{module}" for module, _ in cli.GROUPS.values()}
    code = "import sys; from armflow.cli import main; main(); print('loaded', [m for m in sys.modules])"
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert "loaded" in output
    assert not [m for m in modules if f"'{m}'" in output.partition("loaded")[2]]
