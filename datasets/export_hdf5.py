"""Episodes as HDF5 files, one each, laid out as ALOHA's so that its readers open them.

attributes                 fps, robot, joint_names, task, label (JSON), source (hash of the dataset), episode, sim, compress
observations/qpos          (n, dof + 1) rad, gripper opening 0..1 (ALOHA: as many numbers as actions)
observations/qvel, effort  (n, dof) rad/s, N m
observations/images/NAME   (n, h, w, 3) uint8, red first
observations/depth/NAME    (n, h, w) uint16 mm, 0 = no return
action                     (n, dof + 1) executed joint targets, rad, gripper opening 0..1
armflow/COLUMN             every other column under its own name: requested actions, capture times, flags, rewards
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py

from ..robot.errors import DataError
from .episodes import Dataset, EpisodeArrays, EpisodeRef, dataset_hash, load_depth_mm, load_episodes, load_images
from .new_folder import new_folder
from .schema import INDEX_COLUMNS
from .spool import SLACK_BYTES, free_bytes

PLACES = {
    "observation.state": "observations/qpos",
    "observation.velocity": "observations/qvel",
    "observation.effort": "observations/effort",
    "action": "action",
}
"""Where columns lie; the others are in `armflow/`."""


def export_hdf5(
    dataset: Dataset, episodes: Sequence[EpisodeRef], out: Path, advance: Callable[[int, int], None] = lambda *_: None
) -> None:
    """Write `episode_0.hdf5`, `episode_1.hdf5`, ... of `episodes` into the new folder `out`.

    Raises DataError if `out` exists or the disk has no room, CorruptEpisode if rows or images are missing.
    """
    source = dataset_hash(dataset.root)
    with new_folder(out) as staged:
        for i, ref in enumerate(episodes):
            _check_room(dataset, ref, staged)
            arrays = load_episodes(dataset, [ref])[0]
            with h5py.File(staged / f"episode_{i}.hdf5", "w") as file:
                _write(file, dataset, arrays, source)
            advance(i + 1, len(episodes))


def _write(file: h5py.File, dataset: Dataset, arrays: EpisodeArrays, source: str) -> None:
    schema, ref = dataset.schema, arrays.ref
    file.attrs["fps"] = schema.fps
    file.attrs["robot"] = schema.robot
    file.attrs["joint_names"] = list(schema.action_names)
    file.attrs["task"] = ref.task
    file.attrs["label"] = json.dumps(ref.label.to_dict()) if ref.label is not None else ""
    file.attrs["source"] = source
    file.attrs["episode"] = ref.index
    file.attrs["sim"] = False
    file.attrs["compress"] = False
    for name, values in arrays.columns.items():
        if name not in INDEX_COLUMNS:
            file[PLACES.get(name, f"armflow/{name}")] = values
    for camera in schema.cameras:
        images = load_images(dataset, ref, camera)
        file.create_dataset(f"observations/images/{camera}", data=images, chunks=(1, *images.shape[1:]))
    for camera in schema.depth_cameras:
        depth = load_depth_mm(dataset, ref, camera)
        file.create_dataset(f"observations/depth/{camera}", data=depth, chunks=(1, *depth.shape[1:]))


def _check_room(dataset: Dataset, ref: EpisodeRef, folder: Path) -> None:
    """HDF5 crashes the process when it cannot write."""
    columns = dataset.schema.video_columns.values()
    needed = ref.length * sum(c.shape[0] * c.shape[1] * (2 if c.depth else 3) for c in columns) + SLACK_BYTES
    if (free := free_bytes(folder)) < needed:
        raise DataError(
            f"{folder.parent}: {needed / 1e6:.0f} MB needed for episode {ref.index}, whose images are not compressed, "
            f"{free / 1e6:.0f} MB free"
        )
