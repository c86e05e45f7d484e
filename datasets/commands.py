"""`armflow data ...`."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..robot.errors import ConfigError, DataError
from ..robot.rig import ARMS
from .check import Advance, check_dataset
from .commit import commit_spool
from .episodes import dataset_hash, open_dataset
from .export_hdf5 import export_hdf5
from .export_lerobot21 import export_lerobot21
from .findings import COLOURS, findings_table, write_findings
from .import_data import FORMATS, FormatName, import_episodes
from .import_source import SourceMap
from .labels import Outcome
from .merge import merge as merge_datasets
from .relabel import relabel_all
from .repair import repair as repair_dataset

DatasetFolder = Annotated[Path, tyro.conf.arg(metavar="DATASET")]


def view(dataset: DatasetFolder, /, episode: int = 0, save: Path | None = None) -> None:
    """Replay an episode in Rerun.

    Args:
        dataset: LeRobot dataset folder.
        episode: Which one.
        save: Write an .rrd file instead of opening the viewer.
    """
    from .view import view as replay  # Rerun takes a second to import

    replay(dataset, episode, save)
    if save is not None:
        Console().print(f"wrote {save}; open it with `rerun {save}`")


def info(dataset: DatasetFolder, /) -> None:
    """What a dataset holds: episodes and outcomes per instruction, and its content hash.

    Args:
        dataset: LeRobot dataset folder.
    """
    found = open_dataset(dataset)
    table = Table("instruction", "episodes", "success", "failure", "other", "frames")
    for task in sorted({e.task for e in found.episodes}):
        episodes = [e for e in found.episodes if e.task == task]
        outcomes = [e.label.outcome if e.label else "unlabelled" for e in episodes]
        good, bad = outcomes.count("success"), outcomes.count("failure")
        table.add_row(task, str(len(episodes)), str(good), str(bad), str(len(episodes) - good - bad),
                      str(sum(e.length for e in episodes)))  # fmt: skip
    console = Console()
    console.print(table)
    console.print(f"{found.schema.fps} fps, cameras {', '.join(found.schema.cameras)}, hash {dataset_hash(dataset)}")


def commit(spool: Annotated[Path, tyro.conf.arg(metavar="SPOOL")], dataset: DatasetFolder, /) -> None:
    """Append finished recordings to a dataset, as a session does by itself.

    Args:
        spool: Folder with *.h5 recordings.
        dataset: LeRobot dataset folder, made if needed.
    """
    report = commit_spool(spool, dataset, progress=True)
    console = Console()
    console.print(f"{report.committed} committed, {len(report.rejected)} rejected")
    for path, reason in report.rejected:
        console.print(f"  {path}: {reason}")


def check(dataset: DatasetFolder, /, arm: str | None = None, images: bool = True, json: Path | None = None) -> None:
    """Look for everything that spoils training: timing, frozen or missing frames, joint order, ranges, delay between
    action and state, depth scale, duplicates, statistics, labels. The exit status is 1 if there are errors.

    Args:
        dataset: LeRobot dataset folder.
        arm: Arm whose joint names and ranges are expected; without it, by the dataset's robot type.
        images: Decode every video; without it the check is fast and does not know the images.
        json: File to write the findings to, as a list.
    """
    if arm is not None and arm not in ARMS:
        raise ConfigError(f"there is no arm '{arm}'; arms: {', '.join(ARMS)}")
    with _bar("episodes checked") as advance:
        findings = check_dataset(dataset, arm=ARMS[arm] if arm else None, images=images, advance=advance)
    if json is not None:
        write_findings(json, findings)
    console, count = Console(), Counter(finding.severity for finding in findings)
    if findings:
        console.print(findings_table(findings))
    console.print(f"{dataset}: " + ", ".join(f"{severity}s: {count[severity]}" for severity in COLOURS))
    if count["error"]:
        sys.exit(1)


def relabel(
    dataset: DatasetFolder,
    episodes: Annotated[tuple[int, ...], tyro.conf.arg(metavar="EPISODE...")],
    /,
    outcome: Outcome,
    author: str,
    reason: str,
    terminated: bool | None = None,
    failure_tag: str | None = None,
    milestone: float | None = None,
    notes: str | None = None,
) -> None:
    """Correct the outcome of episodes. The journal keeps the old label, who changed it and why; videos are not touched.

    Args:
        dataset: LeRobot dataset folder.
        episodes: Which ones.
        outcome: What really happened; discarded episodes stay in the dataset and are not trained on.
        author: Who says so.
        reason: Why the old label was wrong.
        terminated: Whether the task ended, rather than being cut off by the time limit. Without it: true of a success,
            and of anything else what the old label says.
        failure_tag: Cause of the failure, in a word; without it the old one stays, and a success has none.
        milestone: Score of the last milestone reached; without it the old one stays.
        notes: Remarks; without it the old ones stay.
    """
    changes = {"terminated": terminated, "failure_tag": failure_tag, "milestone": milestone, "notes": notes}
    given = {name: value for name, value in changes.items() if value is not None}
    labels = relabel_all(dataset, episodes, outcome, given, author=author, reason=reason)
    Console().print("\n".join(f"episode {index}: {old} -> {new}" for index, (old, new) in labels.items()))


def merge(
    sources: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DATASET...")],
    /,
    out: Path,
    skip_duplicates: bool = False,
) -> None:
    """Make one dataset of several with the same schema, with labels, calibrations and exact statistics.

    Args:
        sources: LeRobot dataset folders; they stay as they are.
        out: Dataset to make. It appears when it is complete.
        skip_duplicates: Take episodes that are there twice once, instead of refusing.
    """
    with _bar("episodes merged") as advance:
        report = merge_datasets(sources, out, skip_duplicates=skip_duplicates, advance=advance)
    console = Console()
    console.print(f"{report.episodes} episodes in {out}")
    for (root, index), (other, original) in report.duplicates:
        console.print(f"  left out: {root} episode {index}, the same as {other} episode {original}")


def repair(
    dataset: DatasetFolder,
    /,
    out: Path | None = None,
    drop: tuple[int, ...] = (),
    spool: Path | None = None,
    images: bool = True,
    dry_run: bool = False,
) -> None:
    """Make a damaged dataset whole: leave out episodes that cannot be read, write index, label columns and statistics
    anew. What it does is printed and kept in meta/armflow/lineage.json.

    Args:
        dataset: LeRobot dataset folder.
        out: Dataset to make, the old one stays as it is. Without it the repaired one takes the old one's place, and the
            old one is kept beside it as DATASET.before-repair-TIME.
        drop: Episodes to leave out whatever their state, such as duplicates.
        spool: Folder with *.h5 recordings, from which damaged episodes are committed again.
        images: Decode every video to find damaged ones; without it videos are trusted.
        dry_run: Only say what would be done.
    """
    with _bar("episodes checked") as advance:
        report = repair_dataset(
            dataset, out=out, drop=drop, spool=spool, images=images, dry_run=dry_run, advance=advance
        )
    console = Console()
    console.print("would do:" if dry_run else f"{report.dataset}:" if report.plan or out else "nothing to repair")
    for line in report.plan.lines():
        console.print(f"  {line}", markup=False)
    for recording in report.recommitted:
        console.print(f"  committed again: recording {recording}")
    if report.kept is not None:
        console.print(f"as it was: {report.kept}")


def import_(
    sources: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="SOURCE...")],
    /,
    format: FormatName,
    out: Path,
    cameras: dict[str, str],
    task: str = "",
    fps: int | None = None,
    arm: str = "fr3",
    outcome: Outcome | None = None,
    gripper: tuple[float, float] | None = None,
    action_gripper: tuple[float, float] | None = None,
    actions: Literal["recorded", "next-state"] = "recorded",
    blue_first: bool = False,
) -> None:
    """Append episodes of ALOHA, robomimic or DROID files to a dataset, of one 7-joint arm only. Columns that the source
    does not have (depth, efforts, capture times) are absent. What is already there is not added again.

    Args:
        sources: Files, or folders that hold them (of DROID: folders of episodes).
        format: How the files are laid out.
        out: LeRobot dataset to make, or to go on with.
        cameras: Name here and name in the source, camera by camera: head cam_high front cam_low.
        task: The instruction, if the source has none.
        fps: Frames per second; without it 50 for aloha, 20 for robomimic, 15 for droid.
        arm: Whose joints these are, in this order.
        outcome: How all these episodes ended; without it, as the source says.
        gripper: Values of the source's gripper state when closed and when open; without it 0 1 for aloha, 0 0.04 for
            robomimic, 1 0 for droid.
        action_gripper: The same of its actions; without it 0 1, 1 -1, 1 0.
        actions: Whether actions are absolute joint targets as recorded, or where the joints were one frame later.
        blue_first: Images are stored blue first, as OpenCV has them.
    """
    if arm not in ARMS:
        raise ConfigError(f"there is no arm '{arm}'; arms: {', '.join(ARMS)}")
    usual = FORMATS[format]
    cfg = SourceMap(
        ARMS[arm], fps or usual.fps, cameras, task, outcome, gripper or usual.gripper,
        action_gripper or usual.action_gripper, actions, blue_first,
    )  # fmt: skip
    with _bar("episodes imported") as advance:
        report = import_episodes(format, sources, out, cfg, advance)
    console = Console()
    console.print(f"{report.imported} imported, {len(report.rejected)} rejected")
    for reason in report.rejected:
        console.print(f"  {reason}", markup=False)


def export(
    dataset: DatasetFolder,
    /,
    format: Literal["hdf5", "lerobot-v2.1"],
    out: Path,
    outcomes: tuple[Outcome, ...] = (),
) -> None:
    """Write episodes as HDF5 files, one each, laid out as ALOHA's, or as a LeRobot v2.1 dataset, which openpi reads.

    Args:
        dataset: LeRobot dataset folder.
        format: HDF5 files hold every column, colour and depth; v2.1 has no depth.
        out: Folder to make. It appears when it is complete.
        outcomes: Which episodes, by their labels; without it, all that are not discarded.
    """
    found = open_dataset(dataset)
    episodes = [e for e in found.episodes if (e.label and e.label.outcome in outcomes if outcomes else e.kept)]
    if not episodes:
        raise DataError(
            f"{dataset}: no episodes with outcome {', '.join(outcomes) or 'other than discarded'} to export"
        )
    with _bar("episodes exported") as advance:
        (export_hdf5 if format == "hdf5" else export_lerobot21)(found, episodes, out, advance)
    Console().print(f"{len(episodes)} of {len(found.episodes)} episodes in {out}")


@contextmanager
def _bar(what: str) -> Iterator[Advance]:
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, disable=not sys.stderr.isatty(), console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


COMMANDS = {
    "view": view,
    "info": info,
    "commit": commit,
    "check": check,
    "relabel": relabel,
    "merge": merge,
    "repair": repair,
    "import": import_,
    "export": export,
}
