"""What the policies do: the paths of many episodes, and a few of them as moving pictures."""

import io
import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image

from lafp import storage
from lafp.envs.slalom import GOAL_HALF_HEIGHT, GOAL_X, PILLARS_P2
from lafp.evaluate.results import DEMONSTRATOR, Result, outcome_metric
from lafp.evaluate.run_record import RunRecord, StageRecord
from lafp.report import charts
from lafp.report.blocks import Block, Figure, Row, Section, chart, picture
from lafp.report.sections.result import (
    better_cloning,
    is_lafp,
    name_of,
    of_metric,
)
from lafp.video import decode_clip

MAX_PATHS = 60
GIF_FPS = 8
MAX_GIF_FRAMES = 160
"""Of a longer episode, so many are shown, evenly."""


def section(run: RunRecord, rows: Sequence[Result]) -> Section | None:
    """Paths of all methods; moving pictures of cloning and of LAFP."""
    stage = run.complete("evaluation")
    success = of_metric(rows, outcome_metric(rows))
    if stage is None or not success:
        return None
    blocks: list[Block] = []
    if all(row.task == "slalom" for row in success):
        blocks.append(_paths(stage, rows, success))
    cloning = better_cloning(success)
    lafp = next((row for row in success if is_lafp(row)), None)
    films = [_film(stage, row) for row in (cloning, lafp) if row and _has_film(stage, row)]
    blocks += [Row(figures=films)] if films else []
    return (
        Section(id="rollouts", short="Rollouts", title="What does it do?", blocks=blocks)
        if blocks
        else None
    )


def _paths(stage: StageRecord, rows: Sequence[Result], success: Sequence[Result]) -> Block:
    panels = []
    demonstrator = [r for r in rows if r.method == DEMONSTRATOR and r.metric == "success"]
    for row in [*demonstrator, *success]:
        data = storage.read_bytes(stage.path("rollouts", f"{row.label}.npz"))
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            path_NTS, success_N = arrays["path"][:MAX_PATHS], arrays["success"][:MAX_PATHS]
        panels.append(
            charts.PathPanel(title=_title(row), paths=path_NTS[..., :2], success=success_N)
        )
    return chart(
        charts.paths(panels, discs=PILLARS_P2, goal=(GOAL_X, GOAL_HALF_HEIGHT)),
        alt="Paths of episodes of each method through the slalom.",
        caption=f"The first {min(MAX_PATHS, success[0].n)} episodes of each method, start at the "
        "left, goal at the right; the same starts everywhere. Blue: succeeded. Orange: ended at "
        "a pillar or ran out of time (cross). Both sides of both pillars are the modes.",
    )


def _title(row: Result) -> str:
    name = "Demonstrators" if row.method == DEMONSTRATOR else name_of(row)
    noise = "" if row.noise in (None, "fresh") else f", {row.noise} noise"
    return textwrap.fill(name + noise, 27)


def _has_film(stage: StageRecord, row: Result) -> bool:
    return stage.has("rollouts", f"{row.label}.mp4")


def _film(stage: StageRecord, row: Result) -> Figure:
    frames = decode_clip(storage.read_bytes(stage.path("rollouts", f"{row.label}.mp4")))
    return picture(
        gif(frames[:: -(-len(frames) // MAX_GIF_FRAMES)], GIF_FPS),
        alt=f"Episodes of {name_of(row)}.",
        caption=f"{name_of(row)}: the first episodes, as the policy sees them.{_on_frames(row)}",
    )


def _on_frames(row: Result) -> str:
    return " A frame turns green at success, red at failure." if row.metric == "success" else ""


def gif(frames: np.ndarray, fps: float) -> bytes:
    """An endless animation.

    Args:
        frames: uint8 [T, H, W, 3].
        fps: Frames per second; the last frame stays for a second.
    """
    pictures = [Image.fromarray(frame) for frame in frames]
    # One palette for all frames, from the whole film: no flicker, and smaller.
    palette = Image.fromarray(np.concatenate(frames[:: max(1, len(frames) // 8)])).quantize(128)
    indexed = [p.quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures]
    buffer = io.BytesIO()
    durations_ms = [round(1000 / fps)] * (len(indexed) - 1) + [1000]
    indexed[0].save(
        buffer, "gif", save_all=True, append_images=indexed[1:], duration=durations_ms, loop=0
    )
    return buffer.getvalue()
