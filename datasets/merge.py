"""Several datasets of the same schema become one; the sources stay as they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..robot.errors import DataError
from .assemble import Advance, Part, assemble, check_parts
from .check import action_hash
from .episodes import Dataset, EpisodeRef, load_episodes, open_dataset
from .labels import episode_ids
from .new_folder import new_folder

Address = tuple[Path, int]
"""Dataset and episode."""


@dataclass(frozen=True)
class MergeReport:
    """How many episodes the new dataset has, and which were left out as copies of others: (copy, original)."""

    episodes: int
    duplicates: tuple[tuple[Address, Address], ...]


def merge(
    sources: Sequence[Path], target: Path, *, skip_duplicates: bool = False, advance: Advance = lambda *_: None
) -> MergeReport:
    """Make `target` of all episodes of `sources`, in their order. It appears whole, or not at all.

    Raises SchemaMismatch, listing the differences, if the sources disagree, and DataError if `target` exists or an
    episode is there twice (unless `skip_duplicates`).
    """
    if len(sources) < 2:
        raise DataError("merging needs two datasets or more")
    datasets = [open_dataset(source) for source in sources]
    check_parts([Part(dataset, ()) for dataset in datasets])
    duplicates = find_duplicates(datasets)
    if duplicates and not skip_duplicates:
        shown = "\n".join(f"  - {a[0]} episode {a[1]} = {b[0]} episode {b[1]}" for a, b in duplicates[:10])
        raise DataError(
            f"{len(duplicates)} episodes are there more than once:\n{shown}\n"
            "Training would count them double; merge with --skip-duplicates to take each once"
        )
    left_out = {copy for copy, _ in duplicates}
    parts = [Part(d, tuple(e for e in d.episodes if (d.root, e.index) not in left_out)) for d in datasets]
    with new_folder(target) as staged:
        assemble(staged, parts, "merge", advance)
    return MergeReport(sum(len(part.episodes) for part in parts), tuple(duplicates))


def find_duplicates(datasets: Sequence[Dataset]) -> list[tuple[Address, Address]]:
    """Episodes made from the same recording, or with the same actions, as an earlier one."""
    first: dict[str, Address] = {}
    found: list[tuple[Address, Address]] = []
    for dataset in datasets:
        ids = episode_ids(dataset.root)
        for arrays in load_episodes(dataset, columns=["action"]):
            address = (dataset.root, arrays.ref.index)
            keys = [key for key in (action_hash(arrays), _recording(ids, arrays.ref)) if key]
            if originals := [first[key] for key in keys if key in first]:
                found.append((address, originals[0]))
            for key in keys:
                first.setdefault(key, address)
    return found


def _recording(ids: dict[int, str], ref: EpisodeRef) -> str:
    return ids.get(ref.index, "")
