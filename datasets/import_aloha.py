"""Episodes as ALOHA and ACT store them: one HDF5 file each, `observations/qpos`, `action`, `observations/images/NAME`.

Images are arrays (n, h, w, 3), or JPEG files padded with zeros to one length.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray

from ..robot.errors import CorruptEpisode, DataError
from .import_source import SourceEpisode, SourceMap, dataset, next_states, open_source, read, split, vectors


def find_aloha(sources: Sequence[Path]) -> list[Path]:
    """Files named, and all `*.hdf5` in folders named, in the order of their numbers."""
    found = [file for source in sources for file in (source.glob("*.hdf5") if source.is_dir() else [source])]
    return sorted(found, key=lambda path: (path.parent, len(path.name), path.name))


def read_aloha(path: Path, cfg: SourceMap) -> SourceEpisode:
    with open_source(path) as file:
        state = vectors(*split(read(file, path, "observations/qpos"), cfg.arm, f"{path}: observations/qpos"),
                        cfg.gripper, cfg.arm, f"{path}: observations/qpos")  # fmt: skip
        if cfg.actions == "next-state":
            action = next_states(state)
        else:
            action = vectors(*split(read(file, path, "action"), cfg.arm, f"{path}: action"),
                             cfg.action_gripper, cfg.arm, f"{path}: action")  # fmt: skip
        if len(action) != len(state):
            raise CorruptEpisode(f"{path}: {len(action)} actions for {len(state)} states")
        keys = {name: f"observations/images/{theirs}" for name, theirs in cfg.cameras.items()}
        for key in keys.values():
            if (frames := len(dataset(file, path, key))) != len(state):
                raise CorruptEpisode(f"{path}: {frames} images {key} for {len(state)} states")
        return SourceEpisode(
            name=path.name,
            state=state,
            action=action,
            velocity=_joints(file, "observations/qvel", cfg.arm.dof),
            effort=_joints(file, "observations/effort", cfg.arm.dof),
            images={name: partial(_frames, path, key, cfg.blue_first) for name, key in keys.items()},
            sizes={name: _size(_image(dataset(file, path, key)[0], path)) for name, key in keys.items()},
            task=cfg.task,
            success=None,
        )


def _joints(file: h5py.File, key: str, dof: int) -> NDArray[np.float32] | None:
    """(n, dof); a gripper behind the joints is left away."""
    return np.asarray(file[key])[:, :dof].astype(np.float32) if key in file else None


def _frames(path: Path, key: str, blue_first: bool) -> Iterator[NDArray[np.uint8]]:
    with open_source(path) as file:
        for stored in dataset(file, path, key):
            image = _image(stored, path)
            yield image[..., ::-1] if blue_first else image


def _size(image: NDArray[np.uint8]) -> tuple[int, int]:
    return image.shape[0], image.shape[1]


def _image(stored: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    """An image as it was handed to the writer, from an array or a JPEG file."""
    if stored.ndim == 3:
        if stored.dtype != np.uint8 or stored.shape[2] != 3:
            raise DataError(f"{path}: images are {stored.dtype} {stored.shape}, expected uint8 (height, width, 3)")
        return stored
    image = cv2.imdecode(np.asarray(stored, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise CorruptEpisode(f"{path}: an image is no readable JPEG file")
    return np.asarray(image, np.uint8)
