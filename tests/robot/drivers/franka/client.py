"""A program that drives the simulated FR3 at 10 Hz and says what happens: python client.py ADDRESS.

One line each: `streaming`, then after a fault its text and, once a line came on standard input, `recovered`. Ends with it.
"""

import sys
import time

import numpy as np
from armflow.robot.drivers.franka import FrankaArm, FrankaCfg
from armflow.robot.errors import DeviceFault
from armflow.robot.types import ArmCommand


def sway(arm: FrankaArm, ticks: int) -> None:
    """Move joint 1 to and fro around where it is."""
    middle = arm.read().q
    for i in range(ticks):
        offset = np.zeros(7)
        offset[0] = 0.1 if i // 10 % 2 else -0.1
        arm.command(ArmCommand(middle + offset, 1.0))
        time.sleep(0.1)
        arm.read()


if __name__ == "__main__":
    with FrankaArm(FrankaCfg(sys.argv[1])) as arm:
        try:
            sway(arm, 5)
            print("streaming", flush=True)
            sway(arm, 300)
        except DeviceFault as fault:
            print(fault, flush=True)
        sys.stdin.readline()
        arm.recover()
        sway(arm, 10)
        print("recovered", flush=True)
