"""Demonstrations on hardware: the arm drives home, a person sets the scene, and holding the dead-man begins an episode."""

from pathlib import Path

from ..datasets.labels import EpisodeLabel
from ..robot.control import EpisodeResult, LoopCfg, StepSink, run_episode
from ..robot.errors import ConfigError
from ..robot.kinematics import Kinematics
from ..robot.models import has_model
from ..robot.realtime import realtime_priority
from ..robot.rig import Rig
from ..robot.station import Station, go_home, open_station
from .device import HandDevice, TeleopEvent
from .session import MAX_EPISODE_S, Session, open_session
from .source import TeleopSource

POLL_HZ = 20.0  # how often the device is asked whether somebody begins


def demonstrate_on(rig: Rig, instruction: str, episodes: int, root: Path, *, device: HandDevice, rerun: bool) -> None:
    """Record until `root` has got `episodes` more successful demonstrations of `instruction`. Ctrl-C ends the session; a
    device that fails or a safety stop does, too: the arm holds, and what was saved is saved.

    Raises ConfigError for an arm whose kinematics armflow does not know: a hand device moves the tool.
    """
    if not has_model(rig.arm):
        raise ConfigError(
            f"rig {rig.name}: armflow does not know the kinematics of the {rig.arm.model}; "
            "name an MJCF or URDF of it in [arm.description]"
        )
    with open_station(rig) as station, open_session(rig, station.arm.spec, root, device, rerun=rerun) as session:
        done = 0
        while done < episodes:
            session.console.print(f"[bold]{instruction}[/bold]   {done} of {episodes} recorded; driving home")
            go_home(station)
            session.console.print(f"Set the scene, step back, then: {device.usage}")
            device.start_episode(station.arm.read().gripper)
            if not wait_until_engaged(station, device):
                return
            label = demonstrate_once(station, session, instruction)
            done += label is not None and label.outcome == "success"


def wait_until_engaged(station: Station, device: HandDevice) -> bool:
    """True once the dead-man is held and the device can be followed, which a leader arm that is elsewhere cannot; False if
    the person says discard instead: there shall be no episode."""
    clock = station.clock
    while True:
        wish = device.read(station.arm.read())
        if wish.event is TeleopEvent.DISCARD:
            return False
        if wish.engaged and wish.target is not None:
            return True
        clock.sleep_until(clock.now() + 1 / POLL_HZ)


def demonstrate_once(station: Station, session: Session, instruction: str) -> EpisodeLabel | None:
    """One episode by hand; None: it is not kept."""
    rig = station.rig
    source = TeleopSource(session.device, Kinematics(rig.arm), rig.control_hz)

    def run(sinks: tuple[StepSink, ...]) -> EpisodeResult:
        cfg = LoopCfg(fps=rig.control_hz, max_steps=round(MAX_EPISODE_S * rig.control_hz))
        with realtime_priority():
            return run_episode(
                arm=station.arm, cameras=station.cameras, source=source, safety=station.safety, clock=station.clock,
                cfg=cfg, sinks=sinks, black_box=session.black_box,
            )  # fmt: skip

    def label(result: EpisodeResult) -> EpisodeLabel:
        end = result.end
        return EpisodeLabel(
            outcome="success" if end.success else "failure",
            terminated=end.terminated,
            failure_tag="" if end.success else end.reason,
            operator=session.device.name,
            loop=result.stats,
        )

    return session.record(instruction, source, run, label)
