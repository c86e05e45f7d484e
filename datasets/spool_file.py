"""The spool file: one HDF5 file per episode, readable up to its last flush whatever happens to the writer.

HDF5's single-writer mode orders its writes so that the file never refers to bytes that are not there, and `length`
is written after the frames it counts. The layout:

    attributes     format (a number) and header (JSON text: the fields of SpoolHeader)
    rows           (n,) records, one field per column of the schema (images excepted)
    images/<name>  (n, h, w, 3) uint8 colour, (n, h, w) uint16 depth in mm, 0 = no return
    length         frames that are complete
    outcome        JSON text: the label of a saved episode, or why it was aborted; empty while recording

Images are stored as they are: lossless compression of 640x480 RGB-D at 30 Hz would take more than one core.
"""

import ctypes
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..robot.errors import CorruptEpisode
from .labels import EpisodeLabel
from .schema import Column, Schema, schema_from_info

FORMAT = 1
SAVED_SUFFIX = ".h5"
PART_SUFFIX = ".part.h5"
DISCARDED_SUFFIX = ".discarded.h5"


@dataclass(frozen=True)
class SpoolHeader:
    """What is known when an episode starts."""

    episode_id: str
    started: str  # wall clock, ISO 8601, UTC
    schema: Schema
    task: str
    seed: int | None
    rig_hash: str
    policy_hash: str
    calibration: Mapping[str, str]  # camera name -> JSON text of its calibration


@dataclass(frozen=True, eq=False)
class SpoolEpisode:
    """A recorded episode; images stay in the file until asked for."""

    path: Path
    header: SpoolHeader
    rows: NDArray[np.void]  # (n,) records, fields named as the schema's columns
    label: EpisodeLabel | None  # None: not saved
    aborted: str | None  # why it was aborted, if it was

    def __len__(self) -> int:
        return len(self.rows)

    def images(self, column: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Frames [start, stop) of a video column: (n, h, w, 3) uint8 or (n, h, w) uint16 mm. Raises CorruptEpisode."""
        stop = len(self) if stop is None else min(stop, len(self))
        try:
            with _open(self.path) as file:
                return _dataset(file, f"images/{column}")[start:stop]
        except (OSError, KeyError) as error:
            raise CorruptEpisode(f"{self.path}: cannot read {column}: {error}") from error


def calibration_hash(calibration: Mapping[str, str]) -> str:
    """Content hash of a set of camera calibrations (camera name -> JSON text); empty if there are none."""
    text = json.dumps(dict(calibration), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16] if calibration else ""


def completed_label(label: EpisodeLabel, header: SpoolHeader) -> EpisodeLabel:
    """`label` with what it leaves open taken from the header."""
    return replace(
        label,
        task=label.task or header.task,
        seed=header.seed if label.seed is None else label.seed,
        rig_hash=label.rig_hash or header.rig_hash,
        policy_hash=label.policy_hash or header.policy_hash,
        calibration_hash=label.calibration_hash or calibration_hash(header.calibration),
    )


def lock_recording(path: Path) -> int | None:
    """Mark the file as being recorded; None if another process holds it. Returns a descriptor to close in the end.

    The kernel drops the mark when the process is killed. It is a record lock, independent of HDF5's own flock.
    """
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def row_dtype(schema: Schema) -> np.dtype[np.void]:
    """Record type of `rows`: one field per column that a step fills."""
    fields: list[Any] = []
    for name, column in schema.row_columns.items():
        fields.append((name, column.dtype) if column.shape == (1,) else (name, column.dtype, column.shape))
    return np.dtype(fields)


def image_shape(column: Column) -> tuple[int, ...]:
    return column.shape[:2] if column.depth else column.shape


def image_dtype(column: Column) -> np.dtype[Any]:
    return np.dtype(np.uint16 if column.depth else np.uint8)


class SpoolFile:
    """The writing end. Blocks of `block` frames are stored whole; only the last may be shorter."""

    def __init__(self, path: Path, header: SpoolHeader, block: int) -> None:
        self._file = h5py.File(path, "x", libver="latest")
        self._fd: int | None = os.open(path, os.O_RDWR)
        self._failed = False
        self.length = 0
        self._file.attrs["format"] = FORMAT
        self._file.attrs["header"] = _header_json(header)
        # Everything is created before single-writer mode begins: it forbids new objects and attributes.
        dtype = row_dtype(header.schema)
        self._arrays = {"rows": self._file.create_dataset("rows", (0,), dtype, maxshape=(None,), chunks=(block,))}
        for name, column in header.schema.video_columns.items():
            shape = image_shape(column)
            self._arrays[name] = self._file.create_dataset(
                f"images/{name}", (0, *shape), image_dtype(column), maxshape=(None, *shape), chunks=(block, *shape)
            )
        self._length = self._file.create_dataset("length", data=np.int64(0))
        self._outcome = self._file.create_dataset("outcome", (0,), np.uint8, maxshape=(None,), chunks=(1024,))
        self._file.swmr_mode = True

    def reserve(self, size: int) -> None:
        """Make the disk set aside the next `size` bytes. Raises OSError if it has no room; the file is then still sound.

        HDF5 must never run out of space itself: it crashes the process when it frees a file it could not write.
        """
        assert self._fd is not None
        os.posix_fallocate(self._fd, self._file.id.get_filesize(), size)

    def append(self, arrays: Mapping[str, NDArray[Any]], count: int) -> None:
        """Store the first `count` of a block of frames and flush. `arrays`: "rows" and every video column, full blocks.

        Raises OSError or RuntimeError if the disk refuses; what was stored before stays readable.
        """
        start, end = self.length, self.length + count
        with self._sound():
            for name, array in self._arrays.items():
                array.resize(end, axis=0)
                # Bypasses HDF5's chunk cache and type conversion; the block is the chunk.
                array.id.write_direct_chunk((start, *(0,) * (array.ndim - 1)), arrays[name])
            self._file.flush()
            self._length[()] = end
            self._file.flush()
        self.length = end

    def sync(self) -> None:
        """Block until what was appended is on the disk. From any thread. Raises OSError."""
        assert self._fd is not None
        os.fdatasync(self._fd)

    def write_outcome(self, outcome: Mapping[str, Any]) -> None:
        if self._failed:
            raise OSError("an earlier write to this file failed")
        text = np.frombuffer(json.dumps(outcome).encode(), np.uint8)
        with self._sound():
            self._outcome.resize(len(text), axis=0)
            self._outcome[:] = text
            self._file.flush()

    def close(self) -> None:
        """Idempotent. After a failed write the file is left as it is: readable up to the last flush."""
        if self._fd is None:
            return
        if not self._failed:
            size = self._file.id.get_filesize()
            with self._sound():
                self._file.close()
            os.ftruncate(self._fd, size)  # gives back what was reserved and not used
        os.close(self._fd)
        self._fd = None

    @contextmanager
    def _sound(self) -> Iterator[None]:
        """Notice when HDF5 fails to write, and keep its objects for ever then.

        HDF5 crashes the process, which may be holding an arm, when it closes or frees any part of such a file, also
        while the interpreter shuts down.
        """
        try:
            yield
        except (OSError, RuntimeError):
            if not self._failed:
                self._failed = True
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))
            raise


def read_spool(path: Path) -> SpoolEpisode:
    """Read a finished spool file, or an unfinished one up to its last flush. Raises CorruptEpisode."""
    try:
        with _open(path) as file:
            length = int(_dataset(file, "length")[()])
            outcome = bytes(_dataset(file, "outcome")[()])
            header = _read_header(file)
            rows = _dataset(file, "rows")[:length]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise CorruptEpisode(
            f"{path}: not a readable episode ({error}). A file cut off in the first moments of a recording holds no "
            "frames and can be deleted"
        ) from error
    values: dict[str, Any] = {}
    with suppress(ValueError):  # cut off while the outcome was being written: the frames are all there
        values = json.loads(outcome) if outcome else {}
    label = EpisodeLabel.from_dict(values["label"]) if "label" in values else None
    return SpoolEpisode(path, header, rows, label, values.get("aborted"))


def _open(path: Path) -> h5py.File:
    if not path.name.endswith(PART_SUFFIX):
        return h5py.File(path, "r", libver="latest")
    # Single-writer mode also reads files whose writer was killed and could not mark them as closed. HDF5 takes a damaged
    # table for one that is being written and tries again, 100 times with doubled pauses: for ever. 20 times are 1 ms.
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(h5py.h5f.LIBVER_LATEST, h5py.h5f.LIBVER_LATEST)
    hdf5 = ctypes.CDLL(h5py.h5p.__file__)  # finds HDF5's public functions, of which h5py lacks this one
    if hdf5.H5Pset_metadata_read_attempts(ctypes.c_int64(access.id), ctypes.c_uint(20)) < 0:
        raise OSError("HDF5 refused to limit its read attempts")
    flags = h5py.h5f.ACC_RDONLY | h5py.h5f.ACC_SWMR_READ
    return h5py.File(h5py.h5f.open(os.fsencode(path), flags, access))


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    item = file[name]
    if not isinstance(item, h5py.Dataset):
        raise KeyError(f"{name} is not an array")
    return item


def _header_json(header: SpoolHeader) -> str:
    values = {name: value for name, value in vars(header).items() if name not in ("schema", "calibration")}
    return json.dumps(values | {"schema": json.loads(header.schema.to_json()), "calibration": dict(header.calibration)})


def _read_header(file: h5py.File) -> SpoolHeader:
    found = file.attrs["format"]
    if found != FORMAT:
        raise ValueError(f"spool format {found}, this version reads {FORMAT}")
    values = json.loads(str(file.attrs["header"]))
    return SpoolHeader(**(values | {"schema": schema_from_info(values["schema"])}))
