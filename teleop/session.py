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
from .source import TeleopSource
from .takeover import PlannerFactory, TakeoverSource

MAX_EPISODE_S = 120.0  # a person needs longer than a script


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
        source: TeleopSource | TakeoverSource,
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
) -> None:
    """Record the jobs that dataset `root` does not have yet, by hand or by `policy` with a person to take over. Ctrl-C ends
    the session, nothing is lost.

    `device` is opened here.
    """
    operator = device.name if policy is None else f"{policy.operator}, {device.name}"
    policy_hash = "" if policy is None else policy.policy_hash
    kinematics, max_steps = Kinematics(rig.arm), round(MAX_EPISODE_S * rig.control_hz)
    with open_session(rig, ARMS[rig.arm.model], root, device, rerun=rerun) as session, Cell(rig, clock) as cell:
        for job in missing_jobs(rig, jobs, root):
            episode = cell.reset(get_task(job.task), job.seed)
            instruction = episode.layout.instruction
            session.console.print(f"[bold]{instruction}[/bold]   ({device.usage})")
            if policy is None:
                source = TeleopSource(device, kinematics, rig.control_hz)
            else:
                source = TakeoverSource(policy(episode, rig, job.seed), device, kinematics, rig.control_hz)
            device.start_episode(episode.arm.read().gripper)
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


def judged(result: EpisodeResult, event: TeleopEvent | None) -> EpisodeResult:
    """The operator's word counts for more than the twin's judge."""
    if event is None:
        return result
    success = event is TeleopEvent.SUCCESS
    return EpisodeResult(EpisodeEnd("operator", terminated=True, success=success), result.stats)
