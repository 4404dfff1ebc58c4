r"""Draw masks of the agent for a folder of videos with a segmenter, for masks.source of preprocess.

python -m ray_jobs.draw_masks configs/draw_masks/videos.yaml source=FOLDER_OR_URI \
    segmenter.path=MODEL_FOLDER 'segmenter.classes=[person]'
"""

from ray_jobs.core.cli import CommandLine, main

COMMAND_LINE = CommandLine(
    "draw_masks", "data_pipelines.draw_masks:DrawMasksConfig", __doc__, extra="data"
)
if __name__ == "__main__":
    COMMAND_LINE.answer_early()


from dataclasses import replace

from data_pipelines.draw_masks import MASK_VIDEOS, DrawMasksConfig, draw_masks, list_videos
from data_pipelines.preprocess.file_counts import FileCounts
from lafp import storage
from lafp.models.segmenter import check_segmenter, segmenter_sha256
from lafp.runs.run_dir import RunDir, StageDir
from lafp.runs.wording import byte_size, counted
from ray_jobs.core import findings, next_steps
from ray_jobs.core.cluster import Resources
from ray_jobs.core.job import Job
from ray_jobs.preprocess import listing_fingerprint


def resolve(cfg: DrawMasksConfig) -> DrawMasksConfig:
    """Returns the config with absolute URIs."""
    path, source = cfg.segmenter.path, cfg.source
    segmenter = replace(cfg.segmenter, path=path and storage.absolute(path))
    return replace(cfg, source=source and storage.absolute(source), segmenter=segmenter)


def inputs(cfg: DrawMasksConfig, run: RunDir) -> dict[str, str]:
    """Returns fingerprints of the source's listing and of the segmenter's files."""
    cfg = resolve(cfg)
    return {
        "source": listing_fingerprint(item for _, item in list_videos(cfg, run.uri)),
        "segmenter": segmenter_sha256(cfg.segmenter),
    }


def check(cfg: DrawMasksConfig, run: RunDir) -> None:
    """Looks at the segmenter's files and the source's first video.

    Raises:
        ConfigError: The source or the segmenter is missing, or cannot be used.
    """
    cfg = resolve(cfg)
    next(list_videos(cfg, run.uri), None)
    check_segmenter(cfg.segmenter)


def plan(cfg: DrawMasksConfig, run: RunDir) -> list[str]:
    """Returns lines for ``--dry-run``: how many videos would get masks."""
    cfg, counts, where = resolve(cfg), FileCounts(), run.stage(stage_name(cfg))
    sizes = [item.num_bytes for _, item in list_videos(cfg, where.uri, counts)]
    return [
        f"{cfg.source} -> {where.path(MASK_VIDEOS)}",
        f"{counted(len(sizes), 'video')}, {byte_size(sum(sizes))}, one task each",
        f"classes of the agent: {', '.join(cfg.segmenter.classes)}",
        *findings.files(counts.table()),
    ]


def stage_name(cfg: DrawMasksConfig) -> str:
    """Returns the folder of the masks in the run."""
    return f"masks/{cfg.name}"


def run_stage(cfg: DrawMasksConfig, run: RunDir, stage: StageDir) -> dict[str, object]:
    """Draws the masks that are missing."""
    return draw_masks(resolve(cfg), stage.uri)


JOB = Job(
    name="draw_masks",
    schema=DrawMasksConfig,
    stage=stage_name,
    inputs=inputs,
    check=check,
    resources=lambda cfg: Resources(num_cpus=1, num_gpus=1 if cfg.use_gpu else 0),
    plan=plan,
    run=run_stage,
    tell=findings.draw_masks,
    next_steps=next_steps.draw_masks,
)

if __name__ == "__main__":
    main(JOB, COMMAND_LINE)
