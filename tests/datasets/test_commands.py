"""`armflow data ...` as it is typed: what it says and what it leaves behind."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from armflow import cli
from armflow.datasets.episodes import open_dataset
from armflow.datasets.labels import read_entries

Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """run(*arguments): what the command prints, in one line."""
    monkeypatch.setenv("COLUMNS", "200")

    def _run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["armflow", "data", *map(str, arguments)])
        cli.main()
        return " ".join(capsys.readouterr().out.split())

    return _run


def test_relabel_says_what_changed(dataset: Path, run: Run) -> None:
    said = run("relabel", dataset, 0, 2, "--outcome", "failure", "--failure-tag", "slipped", "--author", "ada", "--reason", "seen")  # fmt: skip
    assert said == "episode 0: success -> failure episode 2: success -> failure"
    newest = read_entries(dataset)[-1]
    assert (newest.label.failure_tag, newest.author, newest.reason) == ("slipped", "ada", "seen")


def test_a_dataset_merged_with_its_own_repaired_copy_takes_each_episode_once(
    dataset: Path, tmp_path: Path, run: Run
) -> None:
    assert "would do: episode 1 is left out: asked for" in run("repair", dataset, "--drop", 1, "--dry-run")
    assert "episode 1 is left out: asked for" in run("repair", dataset, "--drop", 1, "--out", tmp_path / "two")
    assert run("repair", tmp_path / "two") == "nothing to repair"
    said = run("merge", tmp_path / "two", dataset, "--out", tmp_path / "three", "--skip-duplicates")
    assert said.startswith("3 episodes in") and said.count("left out") == 2
    assert [e.length for e in open_dataset(tmp_path / "three").episodes] == [11, 9, 8]


def test_repairing_in_place_says_where_the_old_dataset_is(dataset: Path, run: Run) -> None:
    said = run("repair", dataset, "--drop", 0)
    kept = Path(said.partition("as it was: ")[2])
    assert len(open_dataset(kept).episodes) == 3 and len(open_dataset(dataset).episodes) == 2
