"""Episodes on hardware: the arm drives home, a person sets the scene, and holding the dead-man begins an episode.

By hand, or by a policy that acts only while the dead-man is held.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from ..datasets.labels import EpisodeLabel
from ..robot.control import EpisodeResult, LoopCfg, StepSink, run_episode
from ..robot.errors import ConfigError
from ..robot.kinematics import Kinematics
from ..robot.models import has_model
from ..robot.realtime import realtime_priority
from ..robot.rig import Rig
from ..robot.station import Station, go_home, open_station
from .collect import recorded_labels
from .device import HandDevice
from .handover import PlannerFactory
from .hold_to_run import USAGE, HoldToRunSource
from .session import MAX_EPISODE_S, Session, open_session, wait_until_engaged
from .source import TeleopSource


def demonstrate_on(rig: Rig, instruction: str, episodes: int, root: Path, *, device: HandDevice, rerun: bool) -> None:
    """Record until `root` has got `episodes` more successful demonstrations of `instruction`. Ctrl-C ends the session; a
    device that fails or a safety stop does, too: the arm holds, and what was saved is saved.

    Raises ConfigError for an arm whose kinematics armflow does not know: a hand device moves the tool.
    """
    kinematics = kinematics_of(rig)
    with open_station(rig) as station, open_session(rig, station.arm.spec, root, device, rerun=rerun) as session:

        def demonstrate() -> bool:
            source = TeleopSource(device, kinematics, rig.control_hz)
            label = attempt(station, session, instruction, source, operator=device.name, max_seconds=MAX_EPISODE_S)
            return label is not None and label.outcome == "success"

        _repeat(station, session, instruction, device.usage, demonstrate, 0, episodes)


def roll_out_on(
    rig: Rig,
    instruction: str,
    episodes: int,
    root: Path,
    *,
    device: HandDevice,
    policy: PlannerFactory,
    seeds: Iterable[int],
    max_seconds: float,
    rerun: bool,
) -> None:
    """Record until `root` has `episodes` rollouts of `instruction` that were not discarded. It ends as `demonstrate_on` does.

    The policy is ready before the arm is engaged. Its noise in an episode is drawn from the first of `seeds` that no episode
    of `root` has. After `max_seconds`, pauses included, an episode is cut off.

    Raises as `demonstrate_on`, and SchemaMismatch if the rig is not what the policy was trained on.
    """
    if not max_seconds * rig.control_hz >= 1:
        raise ConfigError(f"the time limit of an episode must be a control period or more, got {max_seconds:g} s")
    kinematics = kinematics_of(rig)
    policy.prepare(rig)
    with open_station(rig) as station, open_session(rig, station.arm.spec, root, device, rerun=rerun) as session:
        recorded = recorded_labels(root)
        used = {label.seed for label in recorded}
        fresh = iter([seed for seed in seeds if seed not in used])

        def roll_out() -> bool:
            seed = next(fresh)
            label = attempt(
                station, session, instruction,
                HoldToRunSource(policy(instruction, seed), device, kinematics, rig.control_hz),
                operator=f"{policy.operator}, {device.name}", max_seconds=max_seconds, seed=seed,
                policy_hash=policy.policy_hash,
            )  # fmt: skip
            return label is not None

        done = sum(label.task == instruction and label.policy_hash != "" for label in recorded)
        _repeat(station, session, instruction, f"{device.usage}; {USAGE}", roll_out, done, episodes)


def attempt(
    station: Station,
    session: Session,
    instruction: str,
    source: TeleopSource | HoldToRunSource,
    *,
    operator: str,
    max_seconds: float,
    seed: int | None = None,
    policy_hash: str = "",
) -> EpisodeLabel | None:
    """One episode, from where the arm is; None: it is not kept."""
    hz = station.rig.control_hz

    def run(sinks: tuple[StepSink, ...]) -> EpisodeResult:
        with realtime_priority():
            return run_episode(
                arm=station.arm, cameras=station.cameras, source=source, safety=station.safety, clock=station.clock,
                cfg=LoopCfg(fps=hz, max_steps=round(max_seconds * hz)), sinks=sinks, black_box=session.black_box,
            )  # fmt: skip

    def label(result: EpisodeResult) -> EpisodeLabel:
        end = result.end
        return EpisodeLabel(
            outcome="success" if end.success else "failure",
            terminated=end.terminated,
            failure_tag="" if end.success else end.reason,
            operator=operator,
            loop=result.stats,
        )

    return session.record(instruction, source, run, label, seed=seed, policy_hash=policy_hash)


def _repeat(
    station: Station, session: Session, instruction: str, usage: str, once: Callable[[], bool], done: int, episodes: int
) -> None:
    """Do it `once` and again until as many as `episodes` counted, or the person says discard instead of beginning."""
    device = session.device
    while done < episodes:
        session.console.print(f"[bold]{instruction}[/bold]   {done} of {episodes} recorded; driving home")
        go_home(station)
        session.console.print(f"Set the scene, step back, then: {usage}")
        device.start_episode(station.arm.read().gripper)
        if not wait_until_engaged(station.arm, station.clock, device):
            return
        done += once()


def kinematics_of(rig: Rig) -> Kinematics:
    """Raises ConfigError for an arm whose kinematics armflow does not know: a hand device moves the tool."""
    if not has_model(rig.arm):
        raise ConfigError(
            f"rig {rig.name}: armflow does not know the kinematics of the {rig.arm.model}; "
            "name an MJCF or URDF of it in [arm.description]"
        )
    return Kinematics(rig.arm)
