"""A person's recording session: one episode after the other, each labelled before the next begins.

By hand, or beside a policy that the person can take the arm over from; in the twin here, on hardware in `physical.py`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ..calibration.store import from_spec, to_texts
from ..datasets.commit import commit_spool
from ..datasets.labels import EpisodeLabel
from ..datasets.recorder import Recorder, RecorderCfg
from ..datasets.schema import make_schema
from ..datasets.view import RerunSink, open_recording
from ..robot.arm import ArmDriver
from ..robot.black_box import BlackBox
from ..robot.clock import Clock
from ..robot.control import EpisodeEnd, EpisodeResult, StepSink
from ..robot.errors import SafetyStop
from ..robot.kinematics import Kinematics
from ..robot.rig import ARMS, Rig
from ..robot.twin.cell import Cell
from ..robot.twin.tasks import get_task
from ..robot.types import ArmSpec
from .collect import Job, label_of, missing_jobs
from .device import HandDevice, TeleopEvent
from .handover import PlannerFactory
from .hold_to_run import USAGE, HoldToRunSource
from .source import TeleopSource
from .takeover import TakeoverSource

MAX_EPISODE_S = 120.0  # a person needs longer than a script
POLL_HZ = 20.0  # how often a device is asked whether somebody begins


@dataclass(frozen=True, eq=False)
class Session:
    """What stays open from episode to episode."""

    device: HandDevice
    recorder: Recorder
    sinks: tuple[StepSink, ...]
    black_box: BlackBox
    console: Console

    def record(
        self,
        instruction: str,
        source: TeleopSource | TakeoverSource | HoldToRunSource,
        run: Callable[[tuple[StepSink, ...]], EpisodeResult],
        label: Callable[[EpisodeResult], EpisodeLabel],
        *,
        seed: int | None = None,
        policy_hash: str = "",
    ) -> EpisodeLabel | None:
        """One episode: `run` drives `source`, the person's word or else `label` judges it. None: it is not kept."""
        self.recorder.start(instruction, seed=seed, policy_hash=policy_hash)
        result = run(self.sinks)
        if result.stats.steps == 0:
            self.recorder.abort("ended before it began")
            self.console.print("ended before it began: nothing recorded")
            return None
        if source.event is TeleopEvent.DISCARD:
            self.recorder.discard("discarded by the operator")
            self.console.print("discarded")
            return None
        judgement = label(judged(result, source.event))
        self.recorder.save(judgement)
        self.console.print(f"{judgement.outcome}: {judgement.failure_tag or 'saved'}")
        return judgement


@contextmanager
def open_session(rig: Rig, spec: ArmSpec, root: Path, device: HandDevice, *, rerun: bool) -> Iterator[Session]:
    """Opens the device and the recorder of dataset `root`, and commits what a killed session left."""
    schema = make_schema(spec, [c.spec() for c in rig.cameras], rig.control_hz)
    calibration = to_texts({c.name: from_spec(c.spec(), date=c.calibration_date) for c in rig.cameras})
    with ExitStack() as stack:
        stack.enter_context(device)
        cfg = RecorderCfg(root.with_name(root.name + ".spool"), root)
        if cfg.spool_dir.is_dir():  # what a killed session left: nobody is asked to repeat it
            commit_spool(cfg.spool_dir, root, progress=True)
        recorder = stack.enter_context(Recorder(cfg, schema, rig_hash=rig.hash, calibration=calibration))
        live: list[StepSink] = [RerunSink(open_recording(root.name, schema=schema), schema)] if rerun else []
        if isinstance(device, StepSink):  # it has a screen
            live.append(device)
        black_box = BlackBox(root.with_name(root.name + ".black_box"))
        yield Session(device, recorder, (recorder, *live), black_box, Console())


def teleoperate(
    rig: Rig,
    jobs: Sequence[Job],
    root: Path,
    *,
    device: HandDevice,
    clock: Clock,
    rerun: bool,
    policy: PlannerFactory | None = None,
    hold_to_run: bool = False,
    max_seconds: float = MAX_EPISODE_S,
) -> None:
    """Record the jobs that dataset `root` does not have yet, by hand or by `policy` with a person to take over. Ctrl-C ends
    the session, nothing is lost.

    `device` is opened here. `hold_to_run`: a rehearsal for hardware, where the policy acts only while the dead-man is held.
    `max_seconds`: time limit of an episode. Raises SchemaMismatch if the rig is not what the policy was trained on.
    """
    operator = device.name if policy is None else f"{policy.operator}, {device.name}"
    policy_hash = "" if policy is None else policy.policy_hash
    kinematics, max_steps = Kinematics(rig.arm), round(max_seconds * rig.control_hz)
    if policy is not None:
        policy.prepare(rig)
    with open_session(rig, ARMS[rig.arm.model], root, device, rerun=rerun) as session, Cell(rig, clock) as cell:
        for job in missing_jobs(rig, jobs, root):
            episode = cell.reset(get_task(job.task), job.seed)
            instruction = episode.layout.instruction
            usage = f"{device.usage}; {USAGE}" if hold_to_run else device.usage
            session.console.print(f"[bold]{instruction}[/bold]   ({usage})")
            if policy is None:
                source = TeleopSource(device, kinematics, rig.control_hz)
            else:
                beside = HoldToRunSource if hold_to_run else TakeoverSource
                source = beside(policy(instruction, job.seed), device, kinematics, rig.control_hz)
            device.start_episode(episode.arm.read().gripper)
            if hold_to_run and not wait_until_engaged(episode.arm, clock, device):
                return
            try:
                session.record(
                    instruction,
                    source,
                    lambda sinks, e=episode, s=source: cell.run(
                        e, s, max_steps=max_steps, sinks=sinks, black_box=session.black_box
                    ),
                    lambda result, e=episode: label_of(result, e, operator),
                    seed=job.seed,
                    policy_hash=policy_hash,
                )
            except SafetyStop as stop:
                if policy is None:
                    raise
                session.console.print(f"not recorded: {stop}")  # what the policy asked for was never executed


def wait_until_engaged(arm: ArmDriver, clock: Clock, device: HandDevice) -> bool:
    """True once the dead-man is held and the device can be followed, which a leader arm that is elsewhere cannot; False if
    the person says discard instead: there shall be no episode. A dead-man that is held all the while begins nothing."""
    let_go = False
    while True:
        wish = device.read(arm.read())
        if wish.event is TeleopEvent.DISCARD:
            return False
        let_go |= not wish.engaged
        if let_go and wish.engaged and wish.target is not None:
            return True
        clock.sleep_until(clock.now() + 1 / POLL_HZ)


def judged(result: EpisodeResult, event: TeleopEvent | None) -> EpisodeResult:
    """The operator's word counts for more than the twin's judge."""
    if event is None:
        return result
    success = event is TeleopEvent.SUCCESS
    return EpisodeResult(EpisodeEnd("operator", terminated=True, success=success), result.stats)
