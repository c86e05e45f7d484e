"""Gamepad teleoperation through SDL (pygame-ce): any pad that SDL knows, in the layout of an Xbox pad.

hold right bumper    let the arm move             A        open or close the gripper, with the bumper held
left stick           away / to the base,          start    end the episode: it worked
                     left / right                 back     end the episode: it failed
right stick          up / down, twist the tool    Y        end the episode and throw it away
triggers             tip the tool: right away from the base, left towards it
D-pad left, right    tip the tool to that side
"""

import os
from types import TracebackType
from typing import Any, Self

import numpy as np

from ..robot.errors import DeviceFault, DeviceNotFound
from ..robot.types import ArmState
from .axes import shaped
from .device import TeleopEvent, TeleopInput, ToolDelta
from .reader import RECONNECT

SPEED_M_S, TURN_RAD_S = 0.2, 0.8  # along and about each axis at full deflection
DEAD_ZONE = 0.15  # of full deflection: worn sticks rest as far as 0.1 from the middle
POWER = 2.0  # half deflection is about a sixth of full speed: fine moves where a thumb is fine
FULL_SCALE = 32767.0  # counts

# Only where the user has not set them: SDL without a window (pads are heard without its focus), leaving SIGTERM to
# Python (SDL would swallow it), and pygame without its greeting.
ENVIRONMENT = {
    "SDL_VIDEODRIVER": "dummy",
    "SDL_JOYSTICK_ALLOW_BACKGROUND_EVENTS": "1",
    "SDL_NO_SIGNAL_HANDLERS": "1",
    "PYGAME_HIDE_SUPPORT_PROMPT": "1",
}


class GamepadDevice:
    """HandDevice. Takes the first pad and no other one after that."""

    name = "gamepad"
    usage = "hold the right bumper to move; start, back or Y to end: worked, failed, discard"

    def __init__(self, control_hz: float) -> None:
        self._period = 1.0 / control_hz
        self._gripper = 1.0
        self._event: TeleopEvent | None = None

    def __enter__(self) -> Self:
        for key, value in ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        try:
            import pygame
            from pygame._sdl2 import controller
        except ImportError as error:
            raise DeviceNotFound(self.name, f'needs pygame-ce ({error}): pip install "armflow[gamepad]"') from error
        self._pygame, self._controller = pygame, controller
        self._events = {
            pygame.CONTROLLER_BUTTON_START: TeleopEvent.SUCCESS,
            pygame.CONTROLLER_BUTTON_BACK: TeleopEvent.FAILURE,
            pygame.CONTROLLER_BUTTON_Y: TeleopEvent.DISCARD,
        }
        try:
            pygame.display.init()  # without it there are no events
            controller.init()
            self._pad = self._first_pad()
        except pygame.error as error:
            self._quit()
            raise DeviceNotFound(
                self.name, f"SDL does not start or open the pad: {error}. Expected SDL_VIDEODRIVER=dummy or unset, and "
                "/dev/input/event* of the pad readable: add yourself to the group `input`"
            ) from error  # fmt: skip
        except DeviceNotFound:
            self._quit()
            raise
        self._id = self._pad.as_joystick().get_instance_id()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pad.quit()
        self._quit()

    def start_episode(self, gripper: float) -> None:
        self._hear()
        self._event, self._gripper = None, gripper

    def read(self, state: ArmState) -> TeleopInput:
        """What sticks and buttons ask for. Raises DeviceFault if the pad is unplugged or its radio link is lost."""
        self._hear()
        if not self._pad.attached():
            raise DeviceFault(self.name, f"the pad is gone; {RECONNECT}")
        event, self._event = self._event, None
        return TeleopInput(self._engaged(), self._delta(), self._gripper, event)

    def _hear(self) -> None:
        """Everything since the last call, so that no press is missed however short it was."""
        for event in self._pygame.event.get():
            if event.type != self._pygame.CONTROLLERBUTTONDOWN or event.instance_id != self._id:
                continue
            if event.button == self._pygame.CONTROLLER_BUTTON_A and self._engaged():
                self._gripper = 0.0 if self._gripper > 0.5 else 1.0
            self._event = self._events.get(event.button, self._event)

    def _engaged(self) -> bool:
        return self._pad.get_button(self._pygame.CONTROLLER_BUTTON_RIGHTSHOULDER)

    def _delta(self) -> ToolDelta:
        game = self._pygame
        left_x, left_y, right_x, right_y, left_trigger, right_trigger = shaped(
            np.array([
                self._pad.get_axis(axis) / FULL_SCALE
                for axis in (
                    game.CONTROLLER_AXIS_LEFTX, game.CONTROLLER_AXIS_LEFTY,
                    game.CONTROLLER_AXIS_RIGHTX, game.CONTROLLER_AXIS_RIGHTY,
                    game.CONTROLLER_AXIS_TRIGGERLEFT, game.CONTROLLER_AXIS_TRIGGERRIGHT,
                )
            ]), dead_zone=DEAD_ZONE, power=POWER,
        )  # fmt: skip
        to_the_right = self._pad.get_button(game.CONTROLLER_BUTTON_DPAD_RIGHT)
        to_the_left = self._pad.get_button(game.CONTROLLER_BUTTON_DPAD_LEFT)
        # A stick is positive to the right and towards the person; the base's x is away from it, y to its left.
        move = np.array([-left_y, -left_x, -right_y])
        turn = np.array([float(to_the_right) - float(to_the_left), right_trigger - left_trigger, -right_x])
        return ToolDelta(move * SPEED_M_S * self._period, turn * TURN_RAD_S * self._period)

    def _first_pad(self) -> Any:
        found = [i for i in range(self._controller.get_count()) if self._controller.is_controller(i)]
        if found:
            return self._controller.Controller(found[0])
        others = self._controller.get_count()
        raise DeviceNotFound(
            self.name,
            f"no pad is connected that SDL has a layout for ({others} other joysticks are). Connect one, check that "
            "/dev/input/event* of it is readable (group `input`), or describe its layout in SDL_GAMECONTROLLERCONFIG",
        )

    def _quit(self) -> None:
        self._controller.quit()
        self._pygame.display.quit()
