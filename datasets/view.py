"""Looking at episodes in Rerun: live, as a sink of the control loop, and afterwards, from a dataset."""

from pathlib import Path
from typing import Any

import numpy as np
import rerun as rr
import rerun.blueprint as rrb
from numpy.typing import NDArray

from ..robot.control import Step
from ..robot.errors import DataError
from ..robot.types import SafetyFlag
from .episodes import EpisodeArrays, load_depth_mm, load_episodes, load_images, open_dataset
from .schema import Schema

TIMELINE = "time"
MM_PER_METRE = 1000.0


class RerunSink:
    """Shows every step of an episode: states, actions, images, what the safety filter changed.

    Give it a recording that was spawned, connected or saved, see `open_recording`.
    """

    def __init__(self, recording: rr.RecordingStream, schema: Schema) -> None:
        self._recording, self._schema = recording, schema
        self._start: float | None = None
        _declare(recording, schema)

    def add(self, step: Step) -> None:
        self._start = step.obs.t if self._start is None else self._start
        self._recording.set_time(TIMELINE, duration=step.obs.t - self._start)
        curves = {
            "state": step.obs.arm.vector,
            "action": step.executed.vector,
            "requested": step.requested.vector,
            "effort": step.obs.arm.effort,
        }
        _log_curves(self._recording, curves)
        for camera in self._schema.cameras:
            frame = step.obs.frames[camera]
            depth = frame.depth_mm if camera in self._schema.depth_cameras else None
            _log_images(self._recording, camera, frame.rgb, depth)
        _log_flags(self._recording, step.flags)

    def abort(self, reason: str) -> None:
        self._recording.log("events", rr.TextLog(f"aborted: {reason}", level=rr.TextLogLevel.ERROR))


def open_recording(name: str, *, schema: Schema, save: Path | None = None) -> rr.RecordingStream:
    """A Rerun recording shown in a viewer window, or written to an `.rrd` file for `rerun FILE`."""
    recording = rr.RecordingStream(name)
    if save is None:
        recording.spawn(default_blueprint=_blueprint(schema))
    else:
        save.parent.mkdir(parents=True, exist_ok=True)
        recording.save(save, default_blueprint=_blueprint(schema))
    return recording


def view(dataset_root: Path, episode: int, save: Path | None = None) -> None:
    """Replay an episode of a dataset into Rerun's viewer, or into an `.rrd` file. Raises DataError if there is none."""
    dataset = open_dataset(dataset_root)
    if not 0 <= episode < len(dataset.episodes):
        raise DataError(f"{dataset_root}: no episode {episode}; it has 0 to {len(dataset.episodes) - 1}")
    ref, schema = dataset.episodes[episode], dataset.schema
    arrays = load_episodes(dataset, [ref])[0]
    images = {camera: load_images(dataset, ref, camera) for camera in schema.cameras}
    depths = {camera: load_depth_mm(dataset, ref, camera) for camera in schema.depth_cameras}

    recording = open_recording(f"{dataset_root.name} episode {episode}", schema=schema, save=save)
    _declare(recording, schema)
    recording.log("label", rr.TextDocument(_description(arrays)), static=True)
    for i in range(len(arrays)):
        recording.set_time(TIMELINE, duration=i / schema.fps)
        curves = {
            "state": arrays.state[i],
            "action": arrays.action[i],
            "requested": arrays.columns.get("action.requested", arrays.action)[i],
            "effort": arrays.columns.get("observation.effort", arrays.state)[i],
        }
        _log_curves(recording, curves)
        for camera in schema.cameras:
            depth = depths[camera][i] if camera in depths else None
            _log_images(recording, camera, images[camera][i], depth)
        if "safety_flags" in arrays.columns:
            _log_flags(recording, SafetyFlag(int(arrays.columns["safety_flags"][i])))
    recording.flush()


def _declare(recording: rr.RecordingStream, schema: Schema) -> None:
    names = list(schema.action_names)
    for curve in ("state", "action", "requested"):
        recording.log(f"curves/{curve}", rr.SeriesLines(names=names), static=True)
    recording.log("curves/effort", rr.SeriesLines(names=names[:-1]), static=True)


def _log_curves(recording: rr.RecordingStream, curves: dict[str, NDArray[Any]]) -> None:
    for name, values in curves.items():
        recording.log(f"curves/{name}", rr.Scalars(values))


def _log_images(
    recording: rr.RecordingStream, camera: str, rgb: NDArray[np.uint8], depth_mm: NDArray[np.uint16] | None
) -> None:
    recording.log(f"cameras/{camera}/rgb", rr.Image(rgb))
    if depth_mm is not None:
        recording.log(f"cameras/{camera}/depth", rr.DepthImage(depth_mm, meter=MM_PER_METRE))


def _log_flags(recording: rr.RecordingStream, flags: SafetyFlag) -> None:
    recording.log("safety/flags", rr.Scalars(int(flags)))
    if flags:
        names = ", ".join(str(flag.name).lower() for flag in flags)
        recording.log("events", rr.TextLog(f"safety limited {names}", level=rr.TextLogLevel.WARN))


def _description(arrays: EpisodeArrays) -> str:
    label = arrays.ref.label
    lines = [f"task: {arrays.ref.task}", f"frames: {len(arrays)}"]
    if label is not None:
        lines += [f"{name}: {value}" for name, value in label.to_dict().items() if value not in ("", None)]
    return "\n".join(lines)


def _blueprint(schema: Schema) -> rrb.Blueprint:
    cameras = [
        rrb.Spatial2DView(origin=f"cameras/{camera}/{kind}", name=f"{camera} {kind}")
        for kind, names in (("rgb", schema.cameras), ("depth", schema.depth_cameras))
        for camera in names
    ]
    curves = [rrb.TimeSeriesView(origin=f"curves/{name}", name=name) for name in ("state", "action", "requested")]
    texts = rrb.Tabs(rrb.TextLogView(origin="events"), rrb.TextDocumentView(origin="label"))
    return rrb.Blueprint(rrb.Vertical(rrb.Grid(*cameras), rrb.Horizontal(*curves), texts, row_shares=[3, 2, 1]))
