"""All that a person has to say with two buttons: which of them goes down first decides what the other one means."""

from .device import TeleopEvent

BY_TAPS = {1: TeleopEvent.SUCCESS, 2: TeleopEvent.FAILURE, 3: TeleopEvent.DISCARD}


class TwoButtons:
    """Left first: the dead-man is held, and right opens or closes the gripper.
    Right first: the arm stays, and taps of left are counted until right is let go.

    Both at once mean nothing until they are let go. A tap ends before right is let go, so who meant to hold left and
    pressed right too early says nothing by it. Nothing depends on how fast anybody is.
    """

    def __init__(self) -> None:
        self._left = self._right = False
        self._engaged = False
        self._taps: int | None = None  # None: nobody is counting
        self._event: TeleopEvent | None = None
        self.gripper = 1.0

    @property
    def engaged(self) -> bool:
        return self._engaged

    def start_episode(self, gripper: float) -> None:
        """Forget what was said of the last episode, also when it is half said."""
        self._taps, self._event, self.gripper = None, None, gripper

    def update(self, left: bool, right: bool) -> None:
        """The buttons are held like this now."""
        if right and not self._right:
            if self._engaged and left:
                self.gripper = 0.0 if self.gripper > 0.5 else 1.0
            elif not (self._left or left):
                self._taps = 0
        if self._right and not right:
            if self._taps is not None and not self._left:
                self._event = BY_TAPS.get(self._taps, self._event)
            self._taps = None
        if left and not self._left:
            self._engaged = not right
        if self._left and not left:
            self._engaged = False
            if self._taps is not None:
                self._taps += 1
        self._left, self._right = left, right

    def forget(self) -> None:
        """Take both for let go, without saying anything by it: their releases may have been missed."""
        self._left = self._right = self._engaged = False
        self._taps = None

    def take_event(self) -> TeleopEvent | None:
        """What was said since the last call."""
        event, self._event = self._event, None
        return event
