"""Which frames a critic needs the prefix of."""

from pathlib import Path

import numpy as np
from armflow.datasets.chunks import ChunkCfg, dataset_transitions
from armflow.datasets.episodes import EpisodeArrays, EpisodeRef
from armflow.datasets.labels import EpisodeLabel
from armflow.robot.types import ControlMode
from armflow.training.prefix_cache import cached_frames


def test_every_state_around_a_takeover_is_there() -> None:
    """Of a chunk that a takeover cuts short the next state is none of the regular ones."""
    n, stride = 23, 5
    mode = np.repeat([1, 2, 1], [8, 9, 6])
    columns = {"action": np.zeros((n, 8), np.float32), "control_mode": mode}
    ref = EpisodeRef(0, n, "", Path(), {}, EpisodeLabel("failure", terminated=False, failure_tag="time limit"))
    episode = EpisodeArrays(ref, columns)
    frames = cached_frames(episode, stride)
    assert frames.tolist() == [0, 5, 8, 10, 15, 17, 20, 22]
    transitions = dataset_transitions([episode], ChunkCfg(chunk=5, discount=0.9, stride=stride))
    assert set(transitions.next_frame) == {5, 8, 15, 17, 22}
    assert {*transitions.frame, *transitions.next_frame} <= set(frames)


def test_no_state_of_a_pause_is_asked_for() -> None:
    """Not even of one that the recording ends in."""
    n, stride = 17, 5
    mode = np.repeat([1, ControlMode.PAUSE, 1, ControlMode.PAUSE], [7, 2, 3, 5])
    columns = {"action": np.zeros((n, 8), np.float32), "control_mode": mode}
    ref = EpisodeRef(0, n, "", Path(), {}, EpisodeLabel("failure", terminated=False, failure_tag="time limit"))
    episode = EpisodeArrays(ref, columns)
    transitions = dataset_transitions([episode], ChunkCfg(chunk=5, discount=0.9, stride=stride))
    assert transitions.frame.tolist() == [0, 5, 10]
    assert transitions.next_frame.tolist() == [5, 9, 11]
    assert {*transitions.frame, *transitions.next_frame} <= set(cached_frames(episode, stride))
