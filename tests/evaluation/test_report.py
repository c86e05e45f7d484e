"""The report is one file that needs nothing else, says what the comparison says, and works in a real browser."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import pytest
from armflow.evaluation.fake import FakeTrials
from armflow.evaluation.journal import RESULTS_FILE, read_results
from armflow.evaluation.registration import TrialRequest, load_registration
from armflow.evaluation.report import Extra
from armflow.evaluation.study import COMPARISON_FILE, Study, report_study, run_study
from armflow.evaluation.trials import Policy
from armflow.robot.errors import DataError
from matplotlib.figure import Figure
from rich.console import Console

QUIET = Console(quiet=True)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def training_curve() -> Figure:
    figure = Figure(figsize=(6, 2))
    figure.subplots().plot([3, 2, 1.5], label="loss")
    return figure


EXTRAS = (
    Extra("Training curves", training_curve(), "Loss by step."),
    Extra("Critic gates", "<p id='gates'>passed</p>", "What the <critic> had to show."),
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    rates = {"sft": 0.45, "<b>q-vgm</b>": 0.95}  # a name that would break a page without escaping
    request = TrialRequest(
        tuple(Policy(name, "0123456789abcdef" * 4) for name in rates),
        "sft",
        {"pick_peach": range(25), "stack": range(25)},
    )
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    return run_study(folder, request, FakeTrials(rates), rng=rng, videos_per_task=1, extras=EXTRAS, console=QUIET)


@pytest.fixture(scope="module")
def html(study: Study) -> str:
    return study.report.read_text()


class Page(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def test_the_page_refers_to_nothing_outside_itself(html: str):
    for tag, attrs in Page(html).tags:
        for name in ("src", "href", "poster", "xlink:href", "action"):
            assert (attrs.get(name) or "#").startswith(("data:", "#")), f"<{tag}> refers to {attrs[name]}"
    css = re.findall(r"<style.*?</style>", html, re.DOTALL)
    assert css and not any("http" in sheet or "@import" in sheet for sheet in css)


def test_the_page_says_what_the_comparison_says(html: str, study: Study):
    contrast = study.comparison.contrast("<b>q-vgm</b>")
    assert contrast.verdict == "better" and "&lt;b&gt;q-vgm&lt;/b&gt; is better than sft" in html
    assert study.comparison.plan_sha256 in html
    assert f"{contrast.table.candidate_only} : {contrast.table.reference_only}" in html


def test_names_cannot_break_the_page(html: str):
    assert "<b>q-vgm" not in html
    assert "What the &lt;critic&gt; had to show." in html


def test_extras_become_sections(html: str):
    assert "<p id='gates'>passed</p>" in html
    assert 'aria-label="Training curves"' in html


def test_figures_follow_the_theme_and_have_words_and_ids_of_their_own(html: str):
    page = Page(html)
    assert [attrs["role"] for attrs in page.all("svg")] == ["img"] * 4
    assert all(attrs["aria-label"] for attrs in page.all("svg"))
    assert "var(--accent)" in html and "currentColor" in html
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_films_of_a_start_stand_side_by_side(html: str):
    videos = Page(html).all("video")
    assert len(videos) == 2 * 2
    assert all((attrs["src"] or "").startswith("data:video/mp4;base64,") for attrs in videos)


def test_the_same_results_give_the_same_report(study: Study, html: str):
    again = report_study(study.report.parent, extras=EXTRAS)
    assert again.report.read_text() == html
    assert json.loads((study.report.parent / COMPARISON_FILE).read_text())["finished"] == 100


def test_an_unfinished_study_is_reported_without_a_claim(folder: Path, request_12: TrialRequest, fake: FakeTrials):
    study = run_study(folder, request_12, fake, rng=np.random.default_rng(0), videos_per_task=0, console=QUIET)
    lines = (folder / RESULTS_FILE).read_text().splitlines()
    (folder / RESULTS_FILE).write_text("\n".join(lines[:50]) + "\n")
    unfinished = report_study(folder)
    assert study.comparison.complete and not unfinished.comparison.complete
    html = unfinished.report.read_text()
    assert "Unfinished: 49 of 72" in html
    assert not re.search(r"(better|worse) than", html)


def test_a_report_with_another_reference_calls_itself_exploratory(study: Study, tmp_path: Path):
    folder = shutil.copytree(study.report.parent, tmp_path / "copy")
    assert "Exploratory" in report_study(folder, reference="<b>q-vgm</b>").report.read_text()


@pytest.mark.slow
def test_a_video_that_browsers_cannot_play_is_refused(folder: Path, request_12: TrialRequest, fake: FakeTrials):
    run_study(folder, request_12, fake, rng=np.random.default_rng(0), videos_per_task=1, console=QUIET)
    film = next(r.video for r in read_results(folder, load_registration(folder).plan) if r.video)
    with av.open(folder / film, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))))
        container.mux(stream.encode(None))
    with pytest.raises(DataError, match="write H.264"):
        report_study(folder)
    (folder / film).write_bytes(b"torn")
    with pytest.raises(DataError, match="not a readable video"):
        report_study(folder)
    (folder / film).unlink()
    with pytest.raises(DataError, match="not a readable video"):
        report_study(folder)


PROBE = """
<script>
const problems = [];
window.addEventListener("error", (event) => problems.push(event.message));
window.addEventListener("unhandledrejection", (event) => problems.push(String(event.reason)));
</script>
"""
VERDICT = """
<script>
const videos = [...document.querySelectorAll("video")];
const ready = videos.map((v) => v.readyState >= 2 ? v : new Promise((resolve) => {
  v.addEventListener("loadeddata", () => resolve(v)); v.addEventListener("error", () => resolve(v)); v.preload = "auto";
}));
Promise.all(ready).then((loaded) => {
  document.querySelector("button[data-play]").click();
  const report = {problems, durations: loaded.map((v) => v.duration), widths: loaded.map((v) => v.videoWidth),
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    network: performance.getEntriesByType("resource").filter((e) => !e.name.startsWith("data:")).map((e) => e.name)};
  document.title = "probe " + JSON.stringify(report);
});
</script>
"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the page with")
def test_the_page_works_in_a_browser(html: str, tmp_path: Path):
    page = tmp_path / "report.html"
    page.write_text(html.replace("<style>", PROBE + "<style>", 1).replace("</body>", VERDICT + "</body>", 1))
    flags = "--headless=new --no-sandbox --disable-gpu --disable-background-networking --no-first-run"
    done = subprocess.run(
        [str(CHROMIUM), *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1000,900",
         "--enable-logging=stderr", "--virtual-time-budget=10000", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = re.search(r"<title>probe (.*?)</title>", done.stdout)
    assert found, "the videos never loaded"
    report = json.loads(found[1])
    assert report["problems"] == [] and report["network"] == [] and report["overflow"] == 0
    assert len(report["durations"]) == 4 and all(duration > 1 for duration in report["durations"])
    assert set(report["widths"]) == {96}
    assert "CONSOLE" not in done.stderr
