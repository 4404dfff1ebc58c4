r"""Write report.html: what a run did and found, on one self-contained page.

python -m ray_jobs.report configs/report/default.yaml --run-name demo
"""

from ray_jobs.core.cli import CommandLine, main

COMMAND_LINE = CommandLine(
    "report", "lafp.report.run_page:ReportConfig", __doc__, can_be_alone=True
)
if __name__ == "__main__":
    COMMAND_LINE.answer_early()

from collections.abc import Mapping

from lafp.report.run_page import ReportConfig, write_report
from lafp.runs.run_dir import RunDir, StageDir
from ray_jobs.core import findings, next_steps
from ray_jobs.core.cluster import Resources
from ray_jobs.core.job import Job


def inputs(_: ReportConfig, run: RunDir) -> Mapping[str, str]:
    """Returns the fingerprints of the stages that are complete."""
    return {s.name: s.fingerprint() for s in run.begun_stages() if s.is_complete()}


def plan(cfg: ReportConfig, run: RunDir) -> list[str]:
    """Returns a line for ``--dry-run``: the page, and the stages that it would show."""
    stages = ", ".join(inputs(cfg, run)) or "the stages that are complete by then"
    return [f"{run.stage('report.html').uri}, from {stages}"]


def run_stage(cfg: ReportConfig, run: RunDir, _: StageDir) -> dict[str, object]:
    """Writes the page."""
    return write_report(cfg, run.uri)


JOB = Job(
    name="report",
    schema=ReportConfig,
    stage=lambda _: "report",
    inputs=inputs,
    resources=lambda _: Resources(num_cpus=0),
    can_be_alone=lambda _cfg, _run: True,
    plan=plan,
    run=run_stage,
    tell=findings.report,
    next_steps=next_steps.report,
    is_remade=True,
)

if __name__ == "__main__":
    main(JOB, COMMAND_LINE)
