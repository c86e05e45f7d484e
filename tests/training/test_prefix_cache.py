"""Which frames a critic needs the prefix of."""

from pathlib import Path

import numpy as np
from armflow.datasets.chunks import ChunkCfg, dataset_transitions
from armflow.datasets.episodes import EpisodeArrays, EpisodeRef
from armflow.datasets.labels import EpisodeLabel
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
