"""What somebody at the far end of a connection holds counts while beats are fresh, and no longer."""

from collections.abc import Callable

import pytest
from armflow.robot.clock import SimClock
from armflow.teleop.device import TeleopEvent, TeleopInput, ToolDelta
from armflow.teleop.heartbeat import LIMIT_S, Heartbeats
from armflow.teleop.keys import SPEED_M_S

Delta = Callable[[TeleopInput], ToolDelta]
HZ = 10.0
SHIFT_W = {"shift", "w"}


@pytest.fixture
def keys(clock: SimClock) -> Heartbeats:
    """Somebody is there, and holds nothing."""
    clock.sleep_until(100.0)
    keys = Heartbeats(HZ, now=clock.now)
    keys.beat(clock.now(), set())
    return keys


def later(clock: SimClock, s: float) -> float:
    clock.sleep_until(clock.now() + s)
    return clock.now()


def test_what_a_beat_holds_counts_and_what_the_next_one_does_not_is_released(
    keys: Heartbeats, clock: SimClock, delta: Delta
) -> None:
    keys.beat(clock.now(), SHIFT_W)
    wish = keys.wish()
    assert wish.engaged and keys.engaged
    assert delta(wish).translation_m == pytest.approx([SPEED_M_S / HZ, 0, 0])
    keys.beat(clock.now(), {"w"})
    assert not keys.wish().engaged and not keys.engaged


def test_beats_in_time_keep_it_up_as_long_as_they_come(keys: Heartbeats, clock: SimClock) -> None:
    for _ in range(40):
        stamp = clock.now()
        later(clock, 0.1)
        keys.beat(stamp, SHIFT_W)  # a slow link, but none too slow
        later(clock, 0.05)
        assert keys.wish().engaged


def test_silence_lets_go_of_everything(keys: Heartbeats, clock: SimClock, delta: Delta) -> None:
    keys.beat(clock.now(), SHIFT_W)
    later(clock, LIMIT_S - 0.01)
    assert keys.wish().engaged
    later(clock, 0.02)
    wish = keys.wish()
    assert not wish.engaged and not delta(wish).translation_m.any()


def test_it_is_the_age_of_the_stamp_that_counts_not_when_a_beat_comes_in(keys: Heartbeats, clock: SimClock) -> None:
    stamp = clock.now()
    later(clock, LIMIT_S - 0.05)
    keys.beat(stamp, SHIFT_W)
    assert keys.wish().engaged
    later(clock, 0.06)
    assert not keys.wish().engaged


def test_a_burst_after_a_stall_moves_nothing(keys: Heartbeats, clock: SimClock) -> None:
    keys.beat(clock.now(), SHIFT_W)
    stamp = clock.now()
    later(clock, 2.0)
    for _ in range(40):
        keys.beat(stamp, SHIFT_W)
        assert not keys.wish().engaged
    keys.beat(stamp, {"enter"})
    assert keys.wish().event is None


@pytest.mark.parametrize("forced", ["silence", "a late beat", "drop"])
def test_who_was_let_go_of_by_force_has_to_let_go_of_everything_before_a_key_counts(
    forced: str, keys: Heartbeats, clock: SimClock
) -> None:
    keys.beat(clock.now(), SHIFT_W)
    if forced == "silence":
        later(clock, 2 * LIMIT_S)
    elif forced == "a late beat":
        keys.beat(clock.now() - 2 * LIMIT_S, SHIFT_W)
    else:
        keys.drop()
    for held in (SHIFT_W, {"w"}, SHIFT_W, {"enter"}):
        keys.beat(clock.now(), held)
        wish = keys.wish()
        assert (wish.engaged, wish.event, keys.trusted) == (False, None, False)
    keys.beat(clock.now(), set())
    keys.beat(clock.now(), SHIFT_W)
    assert keys.wish().engaged and keys.trusted


def test_nobody_holds_anything_before_having_held_nothing(clock: SimClock) -> None:
    clock.sleep_until(100.0)
    keys = Heartbeats(HZ, now=clock.now)
    keys.beat(clock.now(), SHIFT_W)
    assert not keys.wish().engaged


@pytest.mark.parametrize("stamp_s", [0.0, 1e9, -1e9, float("nan"), float("inf")])
def test_a_stamp_that_nobody_gave_lets_go(stamp_s: float, keys: Heartbeats, clock: SimClock) -> None:
    keys.beat(clock.now(), SHIFT_W)
    keys.beat(stamp_s, SHIFT_W)
    assert not keys.wish().engaged


def test_a_key_that_ends_the_episode_says_so_once_however_many_beats_hold_it(keys: Heartbeats, clock: SimClock) -> None:
    for _ in range(5):
        keys.beat(clock.now(), {"enter"})
    assert keys.wish().event is TeleopEvent.SUCCESS
    keys.beat(clock.now(), {"enter"})
    assert keys.wish().event is None


def test_a_dead_man_that_comes_with_the_gripper_key_comes_before_it(keys: Heartbeats, clock: SimClock) -> None:
    keys.start_episode(1.0)
    keys.beat(clock.now(), {"space", "shift"})
    assert keys.wish().gripper == 0.0
