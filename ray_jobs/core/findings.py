"""Writes the sentences that a job prints when it is done: its results and what they mean.

Every ``Job`` has one of these functions: config, stage, summary -> lines. They use plain words; the
names of metrics appear only in ``metrics.jsonl`` and ``summary.json``.
"""

from collections.abc import Mapping
from typing import Any

from data_pipelines.preprocess.file_counts import FileTable
from data_pipelines.preprocess.rejects import REASONS
from lafp.runs.progress import duration
from lafp.runs.run_dir import StageDir
from lafp.runs.wording import byte_size, counted, fallback_lines, number
from lafp.storage import strict_json

Summary = Mapping[str, Any]

_MAX_REASONS = 6
_MANY_LEFT_OUT = 0.5
_MANY_EMPTY = 0.5


def collect(_: object, stage: StageDir, summary: Summary) -> list[str]:
    """Says how many episodes there are, and how well the demonstrators did."""
    num = sum(
        summary.get(f"num_{kind}", 0)
        for kind in ("episodes", "labeled_episodes", "labeled_val_episodes", "unseen_episodes")
    )
    unseen = summary.get("num_unseen_episodes", 0)
    other = f", {unseen:,} more that look other than training" if unseen else ""
    lines = [
        f"{counted(num, 'episode')}: {summary['num_episodes']:,} without actions, "
        f"{summary['num_labeled_episodes']:,} with, {summary['num_labeled_val_episodes']:,} held "
        f"out with actions{other}; {summary['mean_frames']:.0f} frames each on average, "
        f"{byte_size(summary['num_bytes'])} of video."
    ]
    if (success := summary.get("success")) is not None:
        verdict = "Good" if success > 0.9 else "Mind" if success > 0.5 else "Bad"
        lines.append(
            f"{verdict}: the demonstrators succeed in {100 * success:.0f} % of the episodes; "
            "policies that imitate them can hardly do better."
        )
    elif "mean_return" in summary:
        lines.append(
            f"The demonstrators' mean return is {number(summary['mean_return'])}; the task does "
            "not report success."
        )
    return lines


def preprocess(_: object, stage: StageDir, summary: Summary) -> list[str]:
    """Says how much video became clips, and how much did not, by reason."""
    funnel = summary["funnel"]
    total_s, kept_s = funnel["inputs"]["seconds"], funnel["clips"]["seconds"]
    lines = [
        f"{counted(summary['num_clips'], 'clip')} ({summary['num_val_clips']:,} held out): "
        f"{duration(kept_s)} of {duration(total_s)} of video{_share(kept_s, total_s)}, from "
        f"{summary['num_videos_with_clips']:,} of {counted(summary['num_videos'], 'video')}; "
        f"{byte_size(summary['num_bytes'])} in {counted(summary['num_shards'], 'shard')}.",
        *_rejects(funnel["rejects"], total_s, stage.path("rejects.parquet")),
        *files(strict_json.from_plain(FileTable, summary["files"])),
    ]
    lines += [
        f"Mind: the frame rate of {counted(found['videos'], 'video')} is not stated; "
        f"{found['value']:g} frames per second were assumed. Set the rate with {key}."
        for key, found in summary["assumed"].items()
    ]
    lines += [f"Mind: {line}" for line in fallback_lines(summary.get("decoder_fallbacks", {}))]
    if num_masked := summary.get("num_masked_clips"):
        lines.append(
            f"{num_masked:,} of {counted(summary['num_clips'], 'clip')} with masks of the agent."
        )
    if not summary["num_val_clips"]:
        lines.append("Mind: no clip is held out, so nothing will be measured on unseen video.")
    return lines


def draw_masks(_: object, stage: StageDir, summary: Summary) -> list[str]:
    """Says how many videos have masks, how much of them is the agent, and what was left out."""
    num, num_frames = summary["num_videos"], summary["num_frames"]
    empty_share = summary["num_empty_frames"] / num_frames
    lines = [
        f"Masks of {counted(num, 'video')} ({counted(num_frames, 'frame')}), "
        f"{byte_size(summary['num_bytes'])}: {stage.path('mask_videos')}",
        f"{'Mind: the' if empty_share > _MANY_EMPTY else 'The'} agent covers "
        f"{100 * summary['agent_share']:.1f} % of the pixels, and is seen in "
        f"{100 * (1 - empty_share):.0f} % of the frames. Look at some mask videos.",
    ]
    if rejected := summary["num_rejected_videos"]:
        lines.append(f"Mind: {counted(rejected, 'video')} without masks. Reasons:")
        lines += [
            f"  {counted(spans, 'span')}: {reason.replace('_', ' ')} ({REASONS[reason]})"
            for reason, spans in sorted(summary["rejects"].items(), key=lambda item: -item[1])
        ]
        lines.append(f"Each with its video: {stage.path('rejects.parquet')}")
    return [*lines, *files(strict_json.from_plain(FileTable, summary["files"]))]


def _rejects(rejects: Mapping[str, Mapping[str, float]], total_s: float, uri: str) -> list[str]:
    if not rejects:
        return ["Nothing was left out."]
    left_out_s = sum(reason["seconds"] for reason in rejects.values())
    num_spans = int(sum(reason["spans"] for reason in rejects.values()))
    is_much = left_out_s > _MANY_LEFT_OUT * total_s > 0
    length = f"{duration(left_out_s)}{_share(left_out_s, total_s)} in " if left_out_s else ""
    lines = [
        f"{'Mind: ' if is_much else ''}{length}{counted(num_spans, 'span')} left out. Reasons:"
    ]
    ranked = sorted(rejects.items(), key=lambda item: (-item[1]["seconds"], -item[1]["spans"]))
    for reason, found in ranked[:_MAX_REASONS]:
        length = duration(found["seconds"]) if found["seconds"] else "no known length"
        spans = counted(int(found["spans"]), "span")
        lines.append(f"  {spans}, {length}: {reason.replace('_', ' ')} ({REASONS[reason]})")
    if len(ranked) > _MAX_REASONS:
        spans = counted(int(sum(found["spans"] for _, found in ranked[_MAX_REASONS:])), "span")
        lines.append(f"  {spans} for {counted(len(ranked) - _MAX_REASONS, 'other reason')}")
    return [*lines, f"Each span with its video and reason: {uri}"]


def files(counts: FileTable) -> list[str]:
    """Lists the files of the source that were not read, by kind."""
    if not counts.left_out:
        return []
    num_left_out = counts.seen - counts.read
    lines = [f"{num_left_out:,} of {counted(counts.seen, 'file')} of the source were not read:"]
    return lines + [
        f"  {kind.files:,} {kind.what}: {kind.why} (e.g. {kind.example})"
        for kind in counts.left_out[:_MAX_REASONS]
    ]


def _share(part_s: float, total_s: float) -> str:
    return f" ({100 * part_s / total_s:.0f} %)" if total_s > 0 else ""


def label_latents(_: object, stage: StageDir, summary: Summary) -> list[str]:
    """Says how many clips have latents now."""
    num, rejected = summary["num_clips"], summary["num_rejected_clips"]
    lines = [
        f"Latent actions of {counted(num, 'clip')} "
        f"({counted(summary['num_pairs'], 'frame pair')}) are stored."
    ]
    if rejected:
        lines.append(
            f"{counted(rejected, 'clip')} without latents: {stage.path('rejects.parquet')} says "
            "why. Policies are trained on the others."
        )
    return lines


def evaluate(_: object, __: StageDir, summary: Summary) -> list[str]:
    """Says what the rollouts and the probe show, in the words of the report's headline."""
    return list(summary["findings"])


def report(_: object, __: StageDir, summary: Summary) -> list[str]:
    """Says how many sections and bytes the page has."""
    return [f"{counted(len(summary['sections']), 'section')}, {byte_size(summary['num_bytes'])}."]


def pipeline(_: object, __: StageDir, ___: Summary) -> list[str]:
    """Returns nothing, because each stage has printed its own findings."""
    return []


def study(_: object, __: StageDir, summary: Summary) -> list[str]:
    """Says how many runs there are, what was found, and which runs were stopped."""
    lines = [
        f"{counted(summary['num_runs'], 'run')} of {counted(summary['num_stages'], 'stage')}.",
        *summary.get("findings", []),
    ]
    if "best" in summary:
        lines.append(f"Best: {summary['best']}, in {summary['best_run']}")
    if "stopped_early" in summary:
        lines.append(f"Stopped early: {summary['stopped_early']}")
    return lines
