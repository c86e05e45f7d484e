"""Two buttons: what can be said with them, and that slips say nothing."""

import pytest
from armflow.teleop.device import TeleopEvent
from armflow.teleop.two_buttons import TwoButtons


@pytest.fixture
def buttons() -> TwoButtons:
    return TwoButtons()


def play(buttons: TwoButtons, *states: str) -> list[bool]:
    """The buttons held one after the other: "l", "r", "lr" or "". Whether the arm was engaged each time."""
    engaged = []
    for state in states:
        buttons.update(left="l" in state, right="r" in state)
        engaged.append(buttons.engaged)
    return engaged


def test_the_arm_is_engaged_while_left_is_held_and_no_longer(buttons: TwoButtons) -> None:
    assert play(buttons, "", "l", "l", "", "l") == [False, True, True, False, True]


def test_right_toggles_the_gripper_once_per_press_while_left_is_held(buttons: TwoButtons) -> None:
    openings = []
    for state in ("l", "lr", "lr", "l", "lr", "l"):
        play(buttons, state)
        openings.append(buttons.gripper)
    assert openings == [1, 0, 0, 0, 1, 1]
    assert buttons.take_event() is None


@pytest.mark.parametrize(("measured", "toggled"), [(0.0, 1.0), (0.3, 1.0), (0.8, 0.0)])
def test_an_episode_starts_with_the_gripper_as_it_is(buttons: TwoButtons, measured: float, toggled: float) -> None:
    buttons.start_episode(measured)
    assert buttons.gripper == measured
    play(buttons, "l", "lr")
    assert buttons.gripper == toggled


@pytest.mark.parametrize(
    ("taps", "event"),
    [(0, None), (1, TeleopEvent.SUCCESS), (2, TeleopEvent.FAILURE), (3, TeleopEvent.DISCARD), (4, None)],
)
def test_taps_of_left_while_right_is_held_are_an_event_when_it_is_let_go(
    buttons: TwoButtons, taps: int, event: TeleopEvent | None
) -> None:
    engaged = play(buttons, "r", *["lr", "r"] * taps)
    assert buttons.take_event() is None, "not before right is let go"
    engaged += play(buttons, "")
    assert buttons.take_event() is event
    assert buttons.take_event() is None, "told once"
    assert not any(engaged), "the arm stays meanwhile"
    assert buttons.gripper == 1.0


@pytest.mark.parametrize(
    "slip",
    [
        ["r", "lr", "l", ""],  # left was to be the dead-man, right came first
        ["r", "lr", "r", "lr", "l", ""],
        ["lr", "r", ""],  # both at once
        ["lr", "l", ""],
        ["lr", ""],
        ["l", "lr", "r", ""],  # gripper, and left let go first
        ["l", "r", ""],
        ["r", "lr", ""],
    ],
)
def test_slips_are_no_event(buttons: TwoButtons, slip: list[str]) -> None:
    play(buttons, *slip)
    assert buttons.take_event() is None


@pytest.mark.parametrize("slip", [["r", "lr", "l"], ["lr", "l"], ["lr"]])
def test_after_a_slip_left_has_to_be_pressed_anew(buttons: TwoButtons, slip: list[str]) -> None:
    assert not any(play(buttons, *slip))
    assert play(buttons, "", "l") == [False, True]


def test_the_gripper_keeps_still_unless_the_arm_is_engaged(buttons: TwoButtons) -> None:
    play(buttons, "r", "lr", "l", "lr", "l", "")
    play(buttons, "l", "r")  # left is let go as right is pressed
    assert buttons.gripper == 1.0


def test_buttons_that_are_forgotten_are_let_go_without_a_word(buttons: TwoButtons) -> None:
    play(buttons, "r", "lr", "r")
    buttons.forget()
    play(buttons, "")
    assert buttons.take_event() is None
    play(buttons, "l")
    buttons.forget()
    assert not buttons.engaged


def test_a_new_episode_forgets_what_was_said_or_half_said(buttons: TwoButtons) -> None:
    play(buttons, "r", "lr", "r", "")
    buttons.start_episode(1.0)
    assert buttons.take_event() is None
    play(buttons, "r", "lr", "r")
    buttons.start_episode(1.0)
    play(buttons, "")
    assert buttons.take_event() is None
