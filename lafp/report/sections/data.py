"""Shows what went in: preprocessing funnel, contact sheet, distributions, a sample of rejects."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from markupsafe import Markup

from lafp.data.order.clips import ClipOrder
from lafp.data.shards.clip_bytes import checked_bytes
from lafp.data.shards.clip_tables import clip_batches, videos_of_clips
from lafp.data.shards.damage import DamagedClipError
from lafp.data.shards.format import ShardSet
from lafp.data.shards.sets import open_shard_set
from lafp.evaluate import images
from lafp.report import distributions, drawings
from lafp.report.blocks import (
    NO_VALUE,
    TIMES,
    Block,
    Figure,
    Note,
    Section,
    Table,
    Text,
    chart,
    inline_picture,
    percent,
    picture,
)
from lafp.report.reject_pictures import originals, reject_pictures
from lafp.runs.progress import duration
from lafp.runs.run_dir import RunDir, StageDir
from lafp.runs.wording import counted, fallback_lines
from lafp.storage.tables import iter_rows, num_rows
from lafp.video import decode_clip

T = TypeVar("T")

SHEET_COLUMNS, SHEET_ROWS, SHEET_TILE_PX = 8, 3, 112
MAX_REJECTS_READ, MAX_REJECTS_SHOWN, MAX_OF_A_REASON = 20_000, 24, 3
MAX_KINDS_SHOWN = 12


def sections(run: RunDir) -> list[Section]:
    """Makes one section per preprocessed source."""
    return [source_section(stage) for stage in run.complete_below("shards")]


def source_section(stage: StageDir) -> Section:
    """Shows funnel, contact sheet, distributions and rejects of one shard set."""
    spec = open_shard_set(stage.uri)
    summary = stage.summary()
    funnel, name = summary["funnel"], stage.name.rpartition("/")[2]
    blocks: list[Block] = [
        Text(text=_in_words(spec, summary)),
        Text(text=_source_in_words(stage)),
        *_assumed(summary.get("assumed", {})),
        *(Note(text=line) for line in fallback_lines(summary.get("decoder_fallbacks", {}))),
        _funnel(funnel),
        _contact_sheet(stage, spec),
        _distributions(stage),
    ]
    if funnel["rejects"]:
        blocks.append(_rejects_table(stage))
    blocks += _files_table(summary.get("files"))
    return Section(
        id=stage.name.replace("/", "-"),
        short=f"Data: {name}",
        title=f"Which videos went into {name}?",
        blocks=blocks,
    )


def _in_words(spec: ShardSet, summary: Mapping[str, Any]) -> str:
    counts = spec.num_clips
    held_out = f" ({counts['val']:,} held out)" if counts.get("val") else ""
    rate = f"{spec.fps:g} frames/s" if spec.fps else "their own frame rates"
    labels = f" with {spec.action['dim']}-dimensional actions" if spec.action else ""
    return (
        f"{counted(sum(counts.values()), 'clip')}{labels}{held_out} from "
        f"{summary['num_videos_with_clips']:,} of {counted(summary['num_videos'], 'video')}: "
        f"{counted(sum(spec.num_frames.values()), 'frame')}, "
        f"{duration(3600 * spec.num_hours)}, stored at "
        f"{spec.width_px}{TIMES}{spec.height_px} px and {rate}."
    )


def _source_in_words(stage: StageDir) -> str:
    """Names the source of the videos."""
    config = stage.config()
    source, val_source = (config.get(key) for key in ("source", "val_source"))
    if source is None:
        return "Source: the demonstrations of this run."
    held_out = f", held out: `{val_source}`" if val_source else ""
    return f"Source: `{source}`{held_out}."


def _assumed(assumed: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    """Lists the defaults that were used because no file says the value."""
    return [
        Note(
            text=f"`{key}` was assumed to be {found['value']:g} for "
            f"{counted(found['videos'], 'video')}, as no file says it.",
        )
        for key, found in assumed.items()
    ]


def _files_table(files: Mapping[str, Any] | None) -> list[Block]:
    """Makes a table of the source's files that were no inputs, by kind."""
    if not files or not files["left_out"]:
        return []
    rows = [
        [kind["what"], kind["why"], _shortened(kind["example"]), f"{kind['files']:,}"]
        for kind in files["left_out"][:MAX_KINDS_SHOWN]
    ]
    caption = f"{files['read']:,} of {counted(files['seen'], 'file')} of the source were read. "
    head = ["Not read", "Why", "For example", "Files"]
    return [Table(head=head, rows=rows, num_text_columns=3, caption=caption + "Here the others.")]


def _funnel(funnel: Mapping[str, Any]) -> Block:
    """Shows how many seconds of the input became clips or were rejected, by reason."""
    kept, rejects = funnel["clips"], funnel["rejects"]
    total_s = funnel["inputs"]["seconds"]
    if not rejects:
        return Text(text=f"Nothing was rejected: all {duration(total_s)} of video became clips.")
    reasons = sorted(rejects, key=lambda reason: -rejects[reason]["seconds"])
    outcomes = [kept, *(rejects[reason] for reason in reasons)]
    figure = distributions.bars(
        ["kept as clips", *(f"rejected: {_words(reason)}" for reason in reasons)],
        [outcome["seconds"] for outcome in outcomes],
        "seconds of source video",
        colors=[drawings.BLUE] + [drawings.GREY] * len(reasons),
        notes=[_note(outcome, total_s) for outcome in outcomes],
    )
    return chart(
        figure,
        alt="Seconds of source video that became clips or were rejected, by reason.",
        caption=f"Of {duration(total_s)} of video, {percent(kept['seconds'] / max(total_s, 1e-9))} "
        "became clips. Every other span is a row of rejects.parquet, with its reason.",
    )


def _note(outcome: Mapping[str, float], total_s: float) -> str:
    count = "1 span" if outcome["spans"] == 1 else f"{outcome['spans']:,} spans"
    if not outcome["seconds"]:
        return f"{count}, length unknown"
    if outcome["seconds"] < 0.5:
        return f"less than a second, {count}"
    share = percent(outcome["seconds"] / max(total_s, 1e-9))
    return f"{duration(outcome['seconds'])} ({share}), {count}"


def _contact_sheet(stage: StageDir, spec: ShardSet) -> Block:
    split = "train" if spec.num_clips.get("train") else "val"
    order = ClipOrder(shard_set=stage.uri, split=split, seed=0)  # type: ignore[arg-type]
    wanted = SHEET_COLUMNS * SHEET_ROWS
    refs = list(islice(order.visits(), min(order.num_clips, 8 * wanted)))
    video = videos_of_clips(stage.uri, [ref.location.clip_id for ref in refs])
    tiles: list[np.ndarray] = []
    num_damaged = 0
    for ref in _spread(refs, lambda ref: video[ref.location.clip_id]):
        if len(tiles) == wanted:
            break
        try:
            data, _ = checked_bytes(stage.path(ref.shard), ref.location)
            frames = decode_clip(data)
        except (DamagedClipError, ValueError):
            num_damaged += 1
            continue
        tiles.append(images.thumbnail(frames[len(frames) // 2], SHEET_TILE_PX))
    damaged = f"{counted(num_damaged, 'damaged clip')} left out." if num_damaged else ""
    if not tiles:
        return Note(text=f"No clip of the contact sheet can be read: {damaged}")
    columns = min(SHEET_COLUMNS, len(tiles))
    rows = [tiles[i : i + columns] for i in range(0, len(tiles) - columns + 1, columns)]
    return picture(
        images.png(images.grid(rows)),
        alt="Middle frames of random clips.",
        caption=f"{counted(len(rows) * columns, 'middle frame')} of random "
        f"{'held-out' if split == 'val' else 'training'} clips, as the models see them. {damaged}",
    )


def _distributions(stage: StageDir) -> Figure:
    names = ["start_s", "end_s", "motion", "source_width_px", "source_fps"]
    batches = list(clip_batches(stage.uri, names))
    columns = {name: np.concatenate([b[name].to_numpy() for b in batches]) for name in names}
    panels = {
        "clip length, s": columns["end_s"] - columns["start_s"],
        "motion, median |difference|": columns["motion"],
        "source width, px": columns["source_width_px"],
        "source rate, frames/s": np.round(columns["source_fps"], 2),
    }
    return chart(
        distributions.histograms(panels),
        alt="Histograms of clip length, motion, source width and source frame rate.",
        caption="Clips by length and motion, and by size and rate of their source video.",
    )


def _rejects_table(stage: StageDir) -> Table:
    """Makes a table of a few rejects per reason, each from another video if there are enough."""
    table = stage.path("rejects.parquet")
    rejects, num_rejects = list(islice(iter_rows(table), MAX_REJECTS_READ)), num_rows(table)
    of_reason: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rejects:
        of_reason[row["reason"]].append(row)
    share = min(MAX_OF_A_REASON, max(1, MAX_REJECTS_SHOWN // len(of_reason)))
    shown = [
        row
        for _, rows in sorted(of_reason.items())
        for row in _spread(rows, lambda row: row["video_uri"])[:share]
    ]
    pictures, kept = reject_pictures(shown), originals(stage, shown)
    body = []
    for index, row in enumerate(shown):
        start, end = row["start_s"], row["end_s"]
        span = f"{start:.1f} to {end:.1f} s" if end > start else NO_VALUE
        name = Markup('<span title="{}">{}</span>').format(
            row["video_uri"], "/".join(row["video_uri"].rsplit("/", 2)[-2:])
        )
        cells = [_pictures_of(pictures.get(index), kept.get(index)), name]
        body.append([_words(row["reason"]), *cells, _shortened(row["detail"]), span])
    return Table(
        head=["Reason", "Middle of the span", "Video", "Detail", "Span"],
        rows=body,
        num_text_columns=4,
        caption=f"{len(body)} of {counted(num_rejects, 'reject')}. Pictures are decoded from the "
        "source where it can still be read; of a near-duplicate the left one was dropped, and the "
        "right one is the middle of the clip that was kept.",
    )


def _pictures_of(rejected: np.ndarray | None, kept: np.ndarray | None) -> Markup:
    cells = [
        inline_picture(pixels, alt)
        for pixels, alt in ((rejected, "rejected"), (kept, "kept in its place"))
        if pixels is not None
    ]
    return Markup('<span class="beside">{}</span>').format(Markup(" ").join(cells) or NO_VALUE)


def _spread(items: Sequence[T], group: Callable[[T], str]) -> list[T]:
    """Puts the first item of every group before the others."""
    first: dict[str, T] = {}
    rest = [item for item in items if first.setdefault(group(item), item) is not item]
    return [*first.values(), *rest]


def _words(reason: str) -> str:
    return reason.replace("_", " ")


def _shortened(text: str) -> str | Markup:
    """Keeps beginning and end, which tell paths apart. The pointer shows the whole text."""
    if len(text) <= 90:
        return text
    shown = f"{text[:30]}…{text[-60:]}"
    return Markup('<span title="{}">{}</span>').format(text, shown)
