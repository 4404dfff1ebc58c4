"""Shows what the policies do: the paths of many episodes, and a few of them as moving pictures."""

import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from lafp import storage
from lafp.envs.slalom import GOAL_HALF_HEIGHT, GOAL_X, PILLARS_P2
from lafp.evaluate.rows.grouped import Group, Results
from lafp.evaluate.rows.results import DEMONSTRATOR, Result
from lafp.report import drawings
from lafp.report.blocks import Block, Figure, Row, Section, chart, picture
from lafp.report.methods import better_cloning, lafp_of, name_of, policies
from lafp.runs.run_dir import RunDir, StageDir
from lafp.video import decode_clip

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_PATHS, PATH_COLUMNS = 60, 4
GIF_FPS = 8
MAX_GIF_FRAMES = 160
"""Longer episodes are thinned out to this many frames."""


def section(run: RunDir, results: Results) -> Section | None:
    """Shows the paths of all methods, and moving pictures of cloning and of LAFP."""
    stage = run.complete("evaluation")
    groups = policies(results, results.variants[0], results.outcome)
    if stage is None or not groups:
        return None
    blocks: list[Block] = []
    if all(group.subject.task == "slalom" for group in groups):
        blocks.append(_paths(stage, results, groups))
    lafp = lafp_of(results, results.variants[0])
    chosen = [group.subject for group in (better_cloning(groups), lafp) if group]
    films = [_film(stage, row) for row in chosen if stage.has("rollouts", f"{row.label}.mp4")]
    blocks += [Row(figures=films)] if films else []
    title = "What do the episodes look like?"
    return Section(id="rollouts", short="Rollouts", title=title, blocks=blocks) if blocks else None


def _paths(stage: StageDir, results: Results, groups: Sequence[Group]) -> Block:
    expert = results.of_variant(results.variants[0], results.outcome).get(DEMONSTRATOR)
    shown = [group.subject for group in [*([expert] if expert else []), *groups]]
    paths = []
    for row in shown:
        data = storage.read_bytes(stage.path("rollouts", f"{row.label}.npz"))
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            paths.append((arrays["path"][:MAX_PATHS, :, :2], arrays["success"][:MAX_PATHS]))

    def paint(axes: list["Axes"]) -> None:
        for ax in axes:
            ax.set_axis_off()
        for ax, row, (path_NT2, success_N) in zip(axes, shown, paths, strict=False):
            _paint_paths(ax, path_NT2, success_N)
            noise = "" if row.noise in (None, "fresh") else f", {row.noise} noise"
            ax.set_title(textwrap.fill(name_of(row) + noise, 27), size=8.5)

    num_rows = -(-len(shown) // PATH_COLUMNS)
    size = drawings.PANEL_WIDTH_IN
    return chart(
        drawings.Drawing(
            width_in=size * PATH_COLUMNS,
            height_in=(0.45 + 0.8 * size) * num_rows,
            paint=paint,
            columns=PATH_COLUMNS,
            rows=num_rows,
        ),
        alt="Paths of episodes of each method through the slalom.",
        caption=f"The first {min(MAX_PATHS, groups[0].subject.n)} episodes of each method, start "
        "at the left, goal at the right; the same starts everywhere. Blue: succeeded. Orange: "
        "ended at a pillar or ran out of time (cross). Both sides of both pillars are the modes.",
    )


def _paint_paths(ax: "Axes", path_NT2: np.ndarray, success_N: np.ndarray) -> None:
    """Draws the agents' paths in the middle of the unit square. y points down."""
    from matplotlib.patches import Circle, Rectangle

    ax.add_patch(Rectangle((0, 0.1), 1, 0.8, fc="none", ec=drawings.FAINT, lw=0.8))
    ends = [0.5 - GOAL_HALF_HEIGHT, 0.5 + GOAL_HALF_HEIGHT]
    ax.plot([GOAL_X] * 2, ends, color=drawings.TEAL, lw=2)
    for x, y in PILLARS_P2:
        ax.add_patch(Circle((x, y), 0.05, color=drawings.LIGHT_GREY, zorder=0))
    for path_T2, is_success in zip(path_NT2, success_N, strict=True):
        color = drawings.BLUE if is_success else drawings.ORANGE
        ax.plot(*path_T2.T, color=color, lw=0.6, alpha=0.55)
        if not is_success:
            ax.plot(*path_T2[-1], "x", color=color, ms=3.5, mew=0.9, alpha=0.8)
    ax.set(xlim=(-0.02, 1.02), ylim=(0.92, 0.08), aspect="equal")


def _film(stage: StageDir, row: Result) -> Figure:
    frames = decode_clip(storage.read_bytes(stage.path("rollouts", f"{row.label}.mp4")))
    return picture(
        gif(frames[:: -(-len(frames) // MAX_GIF_FRAMES)], GIF_FPS),
        alt=f"Episodes of {name_of(row)}.",
        caption=f"{name_of(row)}: the first episodes, as the policy sees them.{_on_frames(row)}",
    )


def _on_frames(row: Result) -> str:
    return " A frame turns green at success, red at failure." if row.metric == "success" else ""


def gif(frames: np.ndarray, fps: float) -> bytes:
    """Encodes an endless animation.

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
