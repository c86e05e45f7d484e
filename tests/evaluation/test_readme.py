"""The README's example runs as printed."""

import re
from pathlib import Path

import armflow.evaluation.study
import pytest

README = Path(armflow.evaluation.study.__file__).with_name("README.md")


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, str(README), "exec"), {})
    assert "of 100 trials" in capsys.readouterr().out
    assert Path("runs/rehearsal/report.html").exists()
