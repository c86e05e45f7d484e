"""`armflow data ...`."""

from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from .commit import commit_spool
from .episodes import dataset_hash, open_dataset

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


COMMANDS = {"view": view, "info": info, "commit": commit}
