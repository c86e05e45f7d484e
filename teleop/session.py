"""A person's recording session in the twin: one episode after the other, each labelled before the next begins.

By hand, or beside a policy that the person can take the arm over from.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from rich.console import Console

from ..calibration.store import from_spec, to_texts
from ..datasets.commit import commit_spool
from ..datasets.recorder import Recorder, RecorderCfg
from ..datasets.schema import make_schema
from ..datasets.view import RerunSink, open_recording
from ..robot import fr3
from ..robot.clock import Clock
from ..robot.control import EpisodeEnd, EpisodeResult, StepSink
from ..robot.errors import SafetyStop
from ..robot.kinematics import Kinematics
from ..robot.rig import Rig
from ..robot.twin.cell import Cell
from ..robot.twin.tasks import get_task
from .collect import Job, label_of, missing_jobs
from .device import HandDevice, TeleopEvent
from .source import TeleopSource
from .takeover import PlannerFactory, TakeoverSource

MAX_EPISODE_S = 120.0  # a person needs longer than a script


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
    schema = make_schema(fr3.SPEC, [c.spec() for c in rig.cameras], rig.control_hz)
    calibration = to_texts({c.name: from_spec(c.spec(), date=c.calibration_date) for c in rig.cameras})
    console, kinematics = Console(), Kinematics(np.array(rig.arm.home_q))
    with ExitStack() as stack:
        stack.enter_context(device)
        cell = stack.enter_context(Cell(rig, clock))
        cfg = RecorderCfg(root.with_name(root.name + ".spool"), root)
        if cfg.spool_dir.is_dir():  # what a killed session left: nobody is asked to repeat it
            commit_spool(cfg.spool_dir, root, progress=True)
        recorder = stack.enter_context(Recorder(cfg, schema, rig_hash=rig.hash, calibration=calibration))
        live = (RerunSink(open_recording(root.name, schema=schema), schema),) if rerun else ()
        sinks: tuple[StepSink, ...] = (recorder, *live)
        for job in missing_jobs(rig, jobs, root):
            episode = cell.reset(get_task(job.task), job.seed)
            console.print(f"[bold]{episode.layout.instruction}[/bold]   ({device.usage})")
            if policy is None:
                source = TeleopSource(device, kinematics, rig.control_hz)
            else:
                source = TakeoverSource(policy(episode, rig, job.seed), device, kinematics, rig.control_hz)
            device.start_episode(episode.arm.read().gripper)
            recorder.start(
                episode.layout.instruction, seed=job.seed, policy_hash="" if policy is None else policy.policy_hash
            )
            try:
                result = cell.run(episode, source, max_steps=round(MAX_EPISODE_S * rig.control_hz), sinks=sinks)
            except SafetyStop as stop:
                if policy is None:
                    raise
                console.print(f"not recorded: {stop}")  # what the policy asked for was never executed
                continue
            if result.stats.steps == 0:
                recorder.abort("ended before it began")
                console.print("ended before it began: nothing recorded")
                continue
            if source.event is TeleopEvent.DISCARD:
                recorder.discard("discarded by the operator")
                console.print("discarded")
                continue
            label = label_of(judged(result, source.event), episode, operator)
            recorder.save(label)
            console.print(f"{label.outcome}: {label.failure_tag or 'saved'}")


def judged(result: EpisodeResult, event: TeleopEvent | None) -> EpisodeResult:
    """The operator's word counts for more than the twin's judge."""
    if event is None:
        return result
    success = event is TeleopEvent.SUCCESS
    return EpisodeResult(EpisodeEnd("operator", terminated=True, success=success), result.stats)
