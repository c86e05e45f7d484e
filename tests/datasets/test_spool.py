import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from armflow.datasets import spool as spool_module
from armflow.datasets.labels import EpisodeLabel
from armflow.datasets.recovery import recover_spool, unfinished
from armflow.datasets.schema import Schema
from armflow.datasets.spool import SpoolCfg, SpoolWriter
from armflow.datasets.spool_file import SpoolEpisode, SpoolFile, read_spool
from armflow.datasets.synthetic import SyntheticCfg, synthetic_steps
from armflow.robot.control import LoopStats, Step
from armflow.robot.errors import CorruptEpisode, DataError
from armflow.robot.types import Observation

SUCCESS = EpisodeLabel("success", terminated=True)
Steps = Callable[[int, int], list[Step]]

# Records until it is killed, saying after each step how many it has added.
RECORDING = """
import os, sys, time
from pathlib import Path
import numpy as np
from armflow.datasets.spool import SpoolWriter
from armflow.datasets.synthetic import SyntheticCfg, synthetic_schema, synthetic_steps
cfg = SyntheticCfg()
writer = SpoolWriter(Path(sys.argv[1]), synthetic_schema(cfg), task="killed", seed=3)
for count, step in enumerate(synthetic_steps(100_000, cfg, np.random.default_rng(0)), start=1):
    writer.add(step)
    os.write(1, count.to_bytes(4, "big"))
    time.sleep(0.01)
"""


def wait_for_block(writer: SpoolWriter) -> None:
    """Until the first block of steps can be read from the disk."""
    while len(read_spool(writer.path)) < SpoolCfg().flush_every:
        time.sleep(0.005)


def assert_holds(episode: SpoolEpisode, steps: list[Step]) -> None:
    """The episode is exactly these steps."""
    assert len(episode) == len(steps)
    assert np.array_equal(episode.rows["action"], np.stack([s.executed.vector for s in steps]))
    assert np.array_equal(episode.rows["frame_number.front"], [s.obs.frames["front"].frame_number for s in steps])
    for camera in ("head", "front"):
        rgb, depth = (episode.images(f"observation.images.{camera}{kind}") for kind in ("", "_depth"))
        assert np.array_equal(rgb, np.stack([s.obs.frames[camera].rgb for s in steps]))
        assert np.array_equal(depth, np.stack([s.obs.frames[camera].depth_mm for s in steps]))


def test_a_saved_episode_is_what_was_recorded(spool: Path, schema: Schema, steps: Steps) -> None:
    recorded = steps(21, 0)
    writer = SpoolWriter(spool, schema, task="stack", seed=5, rig_hash="r1", calibration={"head": "{}"})
    for step in recorded:
        writer.add(step)
    loop = LoopStats(21, 0, 0.001, 0.002)
    path = writer.save(replace(SUCCESS, loop=loop, operator="ada"))

    episode = read_spool(path)
    assert_holds(episode, recorded)
    assert episode.header.schema == schema
    assert episode.label is not None
    assert (episode.label.task, episode.label.seed, episode.label.rig_hash) == ("stack", 5, "r1")
    assert (episode.label.operator, episode.label.loop) == ("ada", loop)
    assert episode.label.calibration_hash
    assert list(spool.iterdir()) == [path]


def test_a_recording_in_progress_is_a_part_file(spool: Path, schema: Schema, steps: Steps) -> None:
    writer = SpoolWriter(spool, schema, task="t")
    writer.add(steps(1, 0)[0])
    assert unfinished(spool) == [writer.path]
    writer.abort("enough")
    writer.abort("twice is fine")


def test_an_aborted_episode_is_kept_but_never_finished(spool: Path, schema: Schema, steps: Steps) -> None:
    recorded = steps(11, 0)
    writer = SpoolWriter(spool, schema, task="t")
    for step in recorded:
        writer.add(step)
    writer.abort("SafetyStop: too fast")
    episode = read_spool(writer.path)
    assert_holds(episode, recorded)
    assert (episode.label, episode.aborted) == (None, "SafetyStop: too fast")
    with pytest.raises(DataError, match="finished"):
        writer.add(recorded[0])


def test_an_empty_episode_cannot_be_saved_and_leaves_nothing(spool: Path, schema: Schema) -> None:
    writer = SpoolWriter(spool, schema, task="t")
    with pytest.raises(DataError, match="no steps"):
        writer.save(SUCCESS)
    writer.abort("nothing happened")
    assert list(spool.iterdir()) == []


def test_discarded_episodes_stay_out_of_the_dataset(spool: Path, schema: Schema, steps: Steps) -> None:
    for finish in (lambda w: w.discard("bad grasp"), lambda w: w.save(EpisodeLabel("discarded", terminated=False))):
        writer = SpoolWriter(spool, schema, task="t")
        writer.add(steps(1, 0)[0])
        assert finish(writer).name.endswith(".discarded.h5")


def test_a_missing_or_wrong_camera_is_an_error_that_names_it(spool: Path, schema: Schema, steps: Steps) -> None:
    step = steps(1, 0)[0]
    head_only = replace(step, obs=Observation(step.obs.t, step.obs.arm, {"head": step.obs.frames["head"]}))
    larger = next(synthetic_steps(1, SyntheticCfg(width=64), np.random.default_rng(0)))
    writer = SpoolWriter(spool, schema, task="t")
    with pytest.raises(DataError, match="no frame of camera 'front'"):
        writer.add(head_only)
    with pytest.raises(DataError, match="'head' delivered uint8 .*64.* schema says"):
        writer.add(larger)
    writer.abort("wrong cameras")


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_sigkill_at_random_moments_loses_at_most_the_last_frames(tmp_path: Path, cfg: SyntheticCfg) -> None:
    rng = np.random.default_rng()
    for attempt in range(4):
        folder = tmp_path / str(attempt)
        child = subprocess.Popen([sys.executable, "-c", RECORDING, str(folder)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        first = child.stdout.read(4)
        time.sleep(rng.uniform(0.0, 0.6))
        child.send_signal(signal.SIGKILL)
        added = int.from_bytes((first + child.stdout.read())[-4:], "big")
        child.wait()

        (part,) = unfinished(folder)
        kept = len(read_spool(part))
        assert added - kept <= 3 * SpoolCfg().flush_every
        if kept == 0:
            with pytest.raises(CorruptEpisode, match="no frame was flushed"):
                recover_spool(part, SUCCESS)
            continue
        recovered = read_spool(recover_spool(part, SUCCESS))
        assert_holds(recovered, list(synthetic_steps(kept, cfg, np.random.default_rng(0))))
        assert recovered.label is not None and recovered.label.seed == 3
        assert unfinished(folder) == []


def test_an_episode_that_is_still_recorded_cannot_be_recovered(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", RECORDING, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None and child.stdout.read(4)
        (part,) = unfinished(tmp_path)
        with pytest.raises(DataError, match="still being recorded"):
            recover_spool(part, SUCCESS)
    finally:
        child.kill()
        child.wait()


def test_a_full_disk_stops_recording_and_keeps_what_was_recorded(
    small_disk: Path, schema: Schema, cfg: SyntheticCfg
) -> None:
    recorded: list[Step] = []
    writer = SpoolWriter(small_disk, schema, task="t")
    with pytest.raises(DataError, match="disk is full: .* MB free, .* MB needed .*Free some space") as caught:
        for step in synthetic_steps(100_000, cfg, np.random.default_rng(0)):
            writer.add(step)
            recorded.append(step)
            time.sleep(0.001)
    assert str(writer.path) in str(caught.value)
    writer.abort("disk full")

    kept = read_spool(writer.path)
    assert len(kept) > 50
    assert_holds(kept, recorded[: len(kept)])


def test_a_disk_that_fills_up_between_steps_keeps_what_was_recorded(
    spool: Path, schema: Schema, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = steps(19, 0)
    writer = SpoolWriter(spool, schema, task="t")
    for step in recorded[:8]:
        writer.add(step)
    wait_for_block(writer)

    def no_space(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", no_space)
    with pytest.raises(DataError, match="disk is full"):
        for step in recorded[8:]:
            writer.add(step)
        writer.save(SUCCESS)
    writer.abort("disk full")
    assert_holds(read_spool(writer.path), recorded[:8])


# As if the reservation were not honoured (or the disk broke): HDF5 itself fails to write.
FAILING_WRITE = """
import gc, sys, time
from pathlib import Path
import numpy as np
from armflow.datasets.spool import SpoolWriter
from armflow.datasets.spool_file import SpoolFile
from armflow.datasets.synthetic import SyntheticCfg, synthetic_schema, synthetic_steps
from armflow.robot.errors import DataError
SpoolFile.reserve = lambda self, size: None
cfg = SyntheticCfg()
writer = SpoolWriter(Path(sys.argv[1]), synthetic_schema(cfg), task="t")
try:
    for step in synthetic_steps(10_000, cfg, np.random.default_rng(0)):
        writer.add(step)
        time.sleep(0.001)
except DataError as error:
    writer.abort(str(error))
del writer
gc.collect()
print("alive")
"""


def test_a_write_that_hdf5_fails_does_not_crash_the_process(small_disk: Path, cfg: SyntheticCfg) -> None:
    child = subprocess.run(
        [sys.executable, "-c", FAILING_WRITE, small_disk], capture_output=True, text=True, check=False
    )
    assert (child.returncode, child.stdout) == (0, "alive\n"), child.stderr
    (part,) = unfinished(small_disk)
    kept = read_spool(part)
    assert len(kept) > 50
    assert_holds(kept, list(synthetic_steps(len(kept), cfg, np.random.default_rng(0))))


def test_no_episode_starts_on_a_full_disk(spool: Path, schema: Schema, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "free_bytes", lambda folder: 1_000_000)
    with pytest.raises(DataError, match="disk is full: 1.0 MB free"):
        SpoolWriter(spool, schema, task="t")
    assert list(spool.iterdir()) == []


def test_reserved_space_is_given_back(spool: Path, schema: Schema, steps: Steps) -> None:
    writer = SpoolWriter(spool, schema, task="t")
    for step in steps(16, 0):
        writer.add(step)
    frames_bytes = 16 * 2 * 32 * 48 * 5
    assert writer.save(SUCCESS).stat().st_size < frames_bytes + 100_000


def test_a_disk_that_cannot_keep_up_is_an_error_not_a_dropped_frame(
    spool: Path, schema: Schema, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SpoolFile, "reserve", lambda self, size: time.sleep(0.3))
    writer = SpoolWriter(spool, schema, task="t", cfg=SpoolCfg(max_pending_mb=0.5))
    with pytest.raises(DataError, match="does not keep up"):
        for step in steps(80, 0):
            writer.add(step)
    writer.abort("slow disk")
    assert len(read_spool(writer.path)) == len(writer)


def test_a_stalled_disk_neither_drops_nor_shifts_frames(
    spool: Path, schema: Schema, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SpoolFile, "reserve", lambda self, size: time.sleep(0.05))
    recorded = steps(40, 0)
    writer = SpoolWriter(spool, schema, task="t")
    began = time.monotonic()
    for step in recorded:
        writer.add(step)
    assert time.monotonic() - began < 0.2  # five blocks stall for 0.25 s, the loop does not
    assert_holds(read_spool(writer.save(SUCCESS)), recorded)


@pytest.mark.parametrize("size", [0, 100, 2000, 20_000])
def test_cut_off_files_are_refused_without_hanging(
    spool: Path, schema: Schema, steps: Steps, tmp_path: Path, size: int
) -> None:
    writer = SpoolWriter(spool, schema, task="t")
    for step in steps(16, 0):
        writer.add(step)
    writer.abort("power cut")
    content = writer.path.read_bytes()
    for name in ("cut.h5", "cut.part.h5"):
        cut = tmp_path / name
        cut.write_bytes(content[:size])
        with pytest.raises(CorruptEpisode, match="cut"):
            read_spool(cut).images("observation.images.head")


def test_files_that_are_no_episodes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    path.write_bytes(b"not hdf5")
    with pytest.raises(CorruptEpisode, match="not a readable episode"):
        read_spool(path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, schema: Schema) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(DataError, match="cannot record"):
        SpoolWriter(blocked / "spool", schema, task="t")
    assert os.strerror(errno.ENOTDIR) in str(_error(lambda: SpoolWriter(blocked / "spool", schema, task="t")))


def _error(call: Callable[[], object]) -> BaseException:
    with pytest.raises(DataError) as caught:
        call()
    return caught.value
