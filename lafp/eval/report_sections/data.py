"""What went in: the preprocessing funnel, a contact sheet, distributions, a sample of rejects."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import pyarrow.parquet as pq

from lafp import storage
from lafp.data.shard_format import ShardSet
from lafp.data.shards import ClipOrder, open_shard_set
from lafp.eval import images, plots
from lafp.eval.report_sections.blocks import (
    NO_VALUE,
    TIMES,
    Block,
    Figure,
    Section,
    Table,
    Text,
    chart,
    percent,
    picture,
)
from lafp.eval.run_record import RunRecord, StageRecord
from lafp.progress import duration
from lafp.video import decode_clip

SHEET_COLUMNS, SHEET_ROWS, SHEET_TILE_PX = 8, 3, 112
MAX_REJECTS_SHOWN = 14


def sections(run: RunRecord) -> list[Section]:
    """One section per preprocessed source."""
    return [source_section(stage) for stage in run.complete_below("shards")]


def source_section(stage: StageRecord) -> Section:
    """Funnel, contact sheet, distributions and rejects of one shard set."""
    spec = open_shard_set(stage.uri)
    clips = _columns(
        stage,
        "clips.parquet",
        ("video_id", "start_s", "end_s", "motion", "source_width_px", "source_fps"),
    )
    rejects = _columns(
        stage, "rejects.parquet", ("video_uri", "start_s", "end_s", "reason", "detail")
    )
    blocks: list[Block] = [Text(text=_in_words(spec, clips)), *_funnel(clips, rejects)]
    blocks += [_contact_sheet(stage, spec)]
    if not spec.action:
        blocks.append(_distributions(clips))
    if rejects["reason"]:
        blocks.append(_rejects_table(rejects))
    name = stage.name.rpartition("/")[2]
    return Section(
        id=stage.name.replace("/", "-"),
        short=f"Data: {name}",
        title=f"What went in: {name}",
        blocks=blocks,
    )


def _columns(stage: StageRecord, file: str, names: Sequence[str]) -> dict[str, list[Any]]:
    with storage.local_file(stage.path(file)) as path:
        return pq.read_table(path, columns=list(names)).to_pydict()


def _in_words(spec: ShardSet, clips: Mapping[str, Sequence[Any]]) -> str:
    counts = spec.num_clips
    held_out = f", {counts['val']:,} of them held out" if counts.get("val") else ""
    rate = f"{spec.fps:g} frames/s" if spec.fps else "their own frame rates"
    hours = 3600 * spec.num_hours
    labels = f" with {spec.action['dim']}-dimensional actions" if spec.action else ""
    return (
        f"{sum(counts.values()):,} clips{labels} from {len(set(clips['video_id'])):,} videos"
        f"{held_out}: {sum(spec.num_frames.values()):,} frames, {duration(hours)}, stored at "
        f"{spec.width_px}{TIMES}{spec.height_px} px and {rate}."
    )


def _funnel(
    clips: Mapping[str, Sequence[Any]], rejects: Mapping[str, Sequence[Any]]
) -> list[Block]:
    """Where every second of the input went: into clips, or out for a reason."""
    seconds: dict[str, float] = defaultdict(float)
    spans = Counter(rejects["reason"])
    for reason, start, end in zip(
        rejects["reason"], rejects["start_s"], rejects["end_s"], strict=True
    ):
        seconds[reason] += end - start
    kept = sum(e - s for s, e in zip(clips["start_s"], clips["end_s"], strict=True))
    total = kept + sum(seconds.values())
    num_clips = len(clips["start_s"])
    if not spans:
        return [Text(text=f"Nothing was rejected: all {duration(total)} of video became clips.")]
    reasons = sorted(spans, key=lambda reason: -seconds[reason])
    labels = ["kept as clips", *(f"rejected: {_words(reason)}" for reason in reasons)]
    values = [kept, *(seconds[reason] for reason in reasons)]
    counts = [f"{num_clips:,} clips", *(_spans(spans[reason]) for reason in reasons)]
    notes = [
        f"{duration(s)} ({percent(s / total) if total else NO_VALUE}), {count}"
        if s
        else f"{count}, length unknown"
        for s, count in zip(values, counts, strict=True)
    ]
    return [
        chart(
            plots.bars(
                labels,
                values,
                "seconds of source video",
                colors=[plots.BLUE] + [plots.GREY] * len(reasons),
                notes=notes,
            ),
            alt="Seconds of source video that became clips or were rejected, by reason.",
            caption=f"Of {duration(total)} of video that could be measured, "
            f"{percent(kept / total) if total else 'none'} became clips. Every other span is a row "
            "of rejects.parquet.",
        )
    ]


def _contact_sheet(stage: StageRecord, spec: ShardSet) -> Figure:
    split = "train" if spec.num_clips.get("train") else "val"
    order = ClipOrder(shard_set=stage.uri, split=split, seed=0)  # type: ignore[arg-type]
    wanted = min(order.num_clips, SHEET_COLUMNS * SHEET_ROWS)
    tiles = []
    for ref in islice(order.visits(), wanted):
        data = storage.read_bytes(
            stage.path(ref.shard), ref.location.video_offset, ref.location.video_bytes
        )
        frames = decode_clip(data)
        tiles.append(images.thumbnail(frames[len(frames) // 2], SHEET_TILE_PX))
    columns = min(SHEET_COLUMNS, len(tiles))
    rows = [tiles[i : i + columns] for i in range(0, len(tiles) - columns + 1, columns)]
    return picture(
        images.png(images.grid(rows)),
        alt="Middle frames of random clips.",
        caption=f"Middle frames of {len(rows) * columns} random {split} clips, as the models see "
        "them.",
    )


def _distributions(clips: Mapping[str, Sequence[Any]]) -> Figure:
    panels = {
        "clip length, s": [e - s for s, e in zip(clips["start_s"], clips["end_s"], strict=True)],
        "motion, median |difference|": clips["motion"],
        "source width, px": clips["source_width_px"],
        "source rate, frames/s": clips["source_fps"],
    }
    return chart(
        plots.histograms(panels),
        alt="Histograms of clip length, motion, source width and source frame rate.",
        caption="Clips by length and motion, and by size and rate of their source video.",
    )


def _rejects_table(rejects: Mapping[str, Sequence[Any]]) -> Table:
    """A few rejects of every reason, all reasons alike."""
    of_reason: dict[str, list[int]] = defaultdict(list)
    for i, reason in enumerate(rejects["reason"]):
        of_reason[reason].append(i)
    share = max(1, MAX_REJECTS_SHOWN // len(of_reason))
    body = []
    for reason, indices in sorted(of_reason.items()):
        for i in indices[:share]:
            start, end = rejects["start_s"][i], rejects["end_s"][i]
            span = f"{start:.1f} to {end:.1f} s" if end > start else NO_VALUE
            name = str(rejects["video_uri"][i]).rpartition("/")[2]
            body.append([_words(reason), name, _shortened(rejects["detail"][i]), span])
    return Table(
        head=["Reason", "Video", "Detail", "Span"],
        rows=body,
        num_text_columns=3,
        caption=f"{len(body)} of {len(rejects['reason']):,} rejects.",
    )


def _words(reason: str) -> str:
    return reason.replace("_", " ")


def _spans(number: int) -> str:
    return "1 span" if number == 1 else f"{number:,} spans"


def _shortened(text: str | None, length: int = 90) -> str:
    text = text or ""
    return text if len(text) <= length else text[: length - 1] + "…"
