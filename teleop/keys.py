"""What the held keys ask for: the key map of everything that has keys.

hold shift    let the arm move            space   open or close the gripper, with shift held
w s           away from / to the base     enter   end the episode: it worked
a d           left / right                x       end the episode: it failed
r f           up / down                   esc     end the episode and throw it away
q e           turn the tool
"""

import threading

import numpy as np

from .device import TeleopEvent, TeleopInput, ToolDelta

SPEED_M_S, TURN_RAD_S = 0.12, 0.6
DIRECTIONS: dict[str, tuple[float, ...]] = {
    "w": (1, 0, 0, 0), "s": (-1, 0, 0, 0),
    "a": (0, 1, 0, 0), "d": (0, -1, 0, 0),
    "r": (0, 0, 1, 0), "f": (0, 0, -1, 0),
    "q": (0, 0, 0, 1), "e": (0, 0, 0, -1),
}  # fmt: skip
EVENTS = {"enter": TeleopEvent.SUCCESS, "x": TeleopEvent.FAILURE, "esc": TeleopEvent.DISCARD}


class HeldKeys:
    """Keeps the set of held keys, because auto-repeat sends presses nobody made. Any thread may press and release."""

    def __init__(self, control_hz: float) -> None:
        self._period = 1.0 / control_hz
        self._lock = threading.Lock()
        self._held: set[str] = set()
        self._gripper = 1.0
        self._event: TeleopEvent | None = None

    def start_episode(self, gripper: float) -> None:
        """Forget what was pressed for the last episode; the gripper stays at `gripper` until space is pressed."""
        with self._lock:
            self._event = None
            self._gripper = gripper

    def press(self, key: str) -> None:
        with self._lock:
            if key in self._held:
                return
            self._held.add(key)
            if key == "space" and "shift" in self._held:
                self._gripper = 0.0 if self._gripper > 0.5 else 1.0
            if key in EVENTS:
                self._event = EVENTS[key]

    def release(self, key: str) -> None:
        with self._lock:
            self._held.discard(key)

    @property
    def held(self) -> frozenset[str]:
        with self._lock:
            return frozenset(self._held)

    def wish(self) -> TeleopInput:
        """What is asked for in one control period; an event is told once."""
        with self._lock:
            held, gripper, event = set(self._held), self._gripper, self._event
            self._event = None
        wish = sum((np.array(DIRECTIONS[k], dtype=np.float64) for k in held if k in DIRECTIONS), np.zeros(4))
        delta = ToolDelta(
            translation_m=wish[:3] * SPEED_M_S * self._period,
            rotation_rad=np.array([0.0, 0.0, wish[3]]) * TURN_RAD_S * self._period,
        )
        return TeleopInput(engaged="shift" in held, target=delta, gripper=gripper, event=event)
