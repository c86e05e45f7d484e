"""Runs franka-sim for the tests, in franka-sim's own environment: python sim_server.py ADDRESS.

Its command line listens on every interface, so the server is started here, on one loopback address. It enforces motion limits
and lost packets as the FR3 does. What a person or an accident would do is ordered on standard input, one word a line:
`press` and `release` the user stop, `reflex` (latched until recovery, also for the next client), `object METRES` between
the fingers (0: none). Each order is answered with the same line; `pace` with the slowest speed of the simulation since the
last time it was asked, as a fraction of real time.
"""

import sys
import threading
import time

from franka_sim import FrankaSimServer  # pyright: ignore[reportMissingImports] - of another environment
from franka_sim.franka_protocol import MoveStatus, RobotMode  # pyright: ignore[reportMissingImports]

CARTESIAN_REFLEX = 7  # position of cartesian_reflex in the list of 41 errors on the wire
PACE_WINDOW_S = 0.25


class CellServer(FrankaSimServer):
    """A robot whose user stop and reflex outlast the connection, as the real one's do."""

    user_stop = False
    latched = False
    pace = 1.0

    def reset_state(self) -> None:
        super().reset_state()
        self.show()

    def show(self) -> None:
        state = self.robot_state.state
        if self.latched:
            state["errors"][CARTESIAN_REFLEX] = state["reflex_reason"][CARTESIAN_REFLEX] = True
            state["robot_mode"] = RobotMode.kReflex
        if self.user_stop:
            state["robot_mode"] = RobotMode.kUserStopped

    def handle_automatic_error_recovery_command(self, client_socket, header, payload) -> None:
        self.latched = False
        super().handle_automatic_error_recovery_command(client_socket, header, payload)
        self.show()

    def _flush_pending_move_response(self, *, force: bool = False) -> None:
        super()._flush_pending_move_response(force=force)  # back to idle, after an answer
        if self.user_stop:
            self.show()

    def press(self) -> None:
        """End the motion as the user stop does."""
        self.user_stop = True
        with self._motion_lock:
            state = self.robot_state.state
            state["robot_mode"] = RobotMode.kUserStopped
            state["motion_generator_mode"] = state["controller_mode"] = 0
            self._engage_idle_hold("user stop")
            if self.current_motion_id and self.client_socket is not None:
                answer = (self.current_motion_id, MoveStatus.kEmergencyAborted, self._states_packed)
                self._pending_move_response, self.current_motion_id = answer, 0

    def release(self) -> None:
        self.user_stop = False
        self.robot_state.state["robot_mode"] = RobotMode.kIdle

    def reflex(self) -> None:
        self._abort_with_error(CARTESIAN_REFLEX, "reflex on order")
        self.latched = True

    def watch_pace(self) -> None:
        while True:
            began, simulated = time.perf_counter(), self.physics_sim.data.time if self.physics_sim.data else 0.0
            time.sleep(PACE_WINDOW_S)
            if simulated:
                passed = time.perf_counter() - began
                self.pace = min(self.pace, (self.physics_sim.data.time - simulated) / passed)

    def obey(self) -> None:
        for line in sys.stdin:
            match line.split():
                case ["press"]:
                    self.press()
                case ["release"]:
                    self.release()
                case ["reflex"]:
                    self.reflex()
                case ["object", width]:
                    self.gripper_server.backend.set_object_width(float(width) or None)
                case ["pace"]:
                    line, self.pace = f"pace {self.pace:.2f}", 1.0
            print(line.strip(), flush=True)


if __name__ == "__main__":
    server = CellServer(host=sys.argv[1], enforce_comm_constraints=True, enforce_motion_limits=True)
    threading.Thread(target=server.obey, daemon=True).start()
    threading.Thread(target=server.watch_pace, daemon=True).start()
    server.start()
