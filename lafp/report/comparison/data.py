"""Compares shard sets: counts, rejects by reason, and videos that only one run kept."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lafp.data.shards.clip_tables import clip_files, clip_rows
from lafp.data.shards.sets import ShardSet, open_shard_set
from lafp.report.blocks import NO_VALUE, TIMES, Block, Heading, Section, Table, Text
from lafp.report.comparison.compared import ComparedRun, Part, Runs
from lafp.runs.progress import duration
from lafp.runs.run_dir import StageDir
from lafp.runs.wording import byte_size, counted, number
from lafp.storage.tables import iter_batches

MAX_VIDEOS_SHOWN = 12
_REASON_SEPARATOR = ", "


@dataclass(frozen=True)
class _Set:
    """The shard set of one run."""

    run: ComparedRun
    stage: StageDir
    kept: np.ndarray
    """Hashes of the addresses of its videos with clips, int64, sorted."""


@dataclass(frozen=True)
class _Fates:
    """Videos that one run kept and another did not."""

    num_rejected: int
    num_unseen: int
    """Videos that the other run neither kept nor rejected, as its source lacks them."""
    reasons: Mapping[str, int]
    """Reason -> so many of the rejected videos; a video may have several reasons."""
    shown: Sequence[Sequence[str]]
    """Rows of a table of some of the rejected videos."""


def part(runs: Runs, name: str) -> Part | None:
    """Compares the shard sets called ``name``; None unless at least two runs completed it."""
    found = [(each, stage) for each in runs if (stage := each.complete(name))]
    if len(found) < 2:
        return None
    specs = [open_shard_set(stage.uri) for _, stage in found]
    blocks: list[Block] = [_counts(found, specs), *_rejects(found)]
    short = name.rpartition("/")[2]
    lines = [f"{name}: {' | '.join(map(_in_words, specs))}"]
    sets = [_Set(run, stage, _hashes(clip_files(stage.uri))) for run, stage in found]
    for other in sets[1:]:
        for kept_by, lost_by in ((sets[0], other), (other, sets[0])):
            fates = _compare_videos(kept_by, lost_by)
            blocks += _videos(kept_by.run, lost_by.run, fates)
            if fates.num_rejected or fates.num_unseen:
                lines.append(f"  {_fate_in_words(kept_by.run, lost_by.run, fates)}")
    section = Section(
        id=name.replace("/", "-"), short=f"Data: {short}", title=f"Which videos went into {short}?",
        blocks=blocks,
    )  # fmt: skip
    return Part(section, lines)


def _in_words(spec: ShardSet) -> str:
    clips = counted(sum(spec.num_clips.values()), "clip")
    return f"{clips}, {duration(3600 * spec.num_hours)}"


_COUNTS: dict[str, Callable[[Any, Mapping[str, Any]], float]] = {
    "Videos": lambda _, summary: summary["num_videos"],
    "Videos with clips": lambda _, summary: summary["num_videos_with_clips"],
    "Clips": lambda spec, _: sum(spec.num_clips.values()),
    "Clips held out": lambda spec, _: spec.num_clips.get("val", 0),
    "Frames": lambda spec, _: sum(spec.num_frames.values()),
    "Hours in": lambda _, summary: summary["funnel"]["inputs"]["seconds"] / 3600,
    "Hours of clips": lambda spec, _: spec.num_hours,
    "Rejected spans": lambda _, summary: sum(
        of_reason["spans"] for of_reason in summary["funnel"]["rejects"].values()
    ),
}


def _counts(found: Sequence[tuple[ComparedRun, StageDir]], specs: Sequence[ShardSet]) -> Table:
    read = [(spec, stage.summary()) for spec, (_, stage) in zip(specs, found, strict=True)]
    rows = []
    for title, count in _COUNTS.items():
        values = [float(count(spec, summary)) for spec, summary in read]
        rows.append([title, *map(number_or_count, values), *_difference(values)])
    blank = [""] if len(found) == 2 else []
    sizes = [f"{spec.width_px}{TIMES}{spec.height_px} px" for spec, _ in read]
    rates = [f"{spec.fps:g}" if spec.fps else "their own" for spec, _ in read]
    bytes_ = [byte_size(s["num_bytes"]) if "num_bytes" in s else NO_VALUE for _, s in read]
    for title, texts in {"Size": sizes, "Frames per second": rates, "Bytes": bytes_}.items():
        rows.append([title, *texts, *blank])
    return Table(head=["", *(each.label for each, _ in found), *_last_head(found)], rows=rows)


def number_or_count(value: float) -> str:
    """Writes whole numbers with all digits, and others with three."""
    return f"{value:,.0f}" if value == int(value) else number(value)


def _difference(values: Sequence[float]) -> list[str]:
    if len(values) != 2:
        return []
    gain = values[1] - values[0]
    return [f"{'+' if gain > 0 else ''}{number_or_count(gain)}" if gain else "0"]


def _last_head(found: Sequence[object]) -> list[str]:
    return ["Difference"] if len(found) == 2 else []


def _rejects(found: Sequence[tuple[ComparedRun, StageDir]]) -> list[Block]:
    funnels = [stage.summary()["funnel"]["rejects"] for _, stage in found]
    none = {"spans": 0, "seconds": 0.0}
    rows = []
    for reason in sorted({reason for funnel in funnels for reason in funnel}):
        outcomes = [funnel.get(reason, none) for funnel in funnels]
        spans = [float(outcome["spans"]) for outcome in outcomes]
        cells = [f"{o['spans']:,} ({number(o['seconds'])} s)" for o in outcomes]
        rows.append([reason.replace("_", " "), *cells, *_difference(spans)])
    if not rows:
        return [Text(text="No run rejected anything.")]
    caption = "Spans that were rejected, by reason, and their seconds of source video."
    head = ["Rejected because", *(each.label for each, _ in found), *_last_head(found)]
    return [Table(head=head, rows=rows, caption=caption)]


def _videos(kept_by: ComparedRun, lost_by: ComparedRun, fates: _Fates) -> list[Block]:
    title = f"Kept by {kept_by.label}, rejected by {lost_by.label}"
    if not fates.num_rejected and not fates.num_unseen:
        return []
    text = f"{counted(fates.num_rejected, 'video')}"
    text += f" ({_reasons(fates)})." if fates.reasons else "."
    if fates.num_unseen:
        text += f" {lost_by.label} did not meet {counted(fates.num_unseen, 'more video')}."
    blocks: list[Block] = [Heading(text=title), Text(text=text)]
    if fates.shown:
        head = ["Video", f"Why {lost_by.label} rejected it", f"Clips in {kept_by.label}"]
        caption = f"{len(fates.shown)} of {counted(fates.num_rejected, 'video')}, known by address."
        blocks.append(Table(head=head, rows=fates.shown, caption=caption, num_text_columns=2))
    return blocks


def _fate_in_words(kept_by: ComparedRun, lost_by: ComparedRun, fates: _Fates) -> str:
    why = f" ({_reasons(fates)})" if fates.reasons else ""
    unseen = f"; {fates.num_unseen:,} not among its videos" if fates.num_unseen else ""
    videos = counted(fates.num_rejected, "video")
    return f"{videos} kept by {kept_by.label} and rejected by {lost_by.label}{why}{unseen}"


def _reasons(fates: _Fates) -> str:
    in_order = sorted(fates.reasons.items(), key=lambda item: -item[1])
    return ", ".join(f"{num:,} {reason.replace('_', ' ')}" for reason, num in in_order)


def _compare_videos(kept_by: _Set, lost_by: _Set) -> _Fates:
    """Finds videos of which one run has clips and the other has none.

    Videos are known by a 64-bit hash of their address, so memory is 8 bytes per video and table.
    """
    rejects = lost_by.stage.path("rejects.parquet")
    seen = _hashes([rejects])
    missing = np.setdiff1d(kept_by.kept, lost_by.kept, assume_unique=True)
    lost = np.intersect1d(missing, seen, assume_unique=True)
    of_reason: dict[str, np.ndarray] = {}
    details: dict[str, dict[str, str]] = {}
    for uris, reasons, texts in _batches([rejects], ["video_uri", "reason", "detail"]):
        hashes = _hashed(uris)
        (hits,) = np.nonzero(np.isin(hashes, lost))
        for reason in {reasons[hit] for hit in hits}:
            of_batch = hashes[[hit for hit in hits if reasons[hit] == reason]]
            of_reason[reason] = np.union1d(of_reason.get(reason, of_batch), of_batch)
        for hit in hits:
            if uris[hit] in details or len(details) < MAX_VIDEOS_SHOWN:
                details.setdefault(uris[hit], {}).setdefault(reasons[hit], texts[hit])
    clips = _clips_of(kept_by.stage, list(details))
    return _Fates(
        num_rejected=len(lost),
        num_unseen=len(missing) - len(lost),
        reasons={reason: len(hashes) for reason, hashes in of_reason.items()},
        shown=[[uri, _why(found), clips[uri]] for uri, found in details.items()],
    )


def _why(found: Mapping[str, str]) -> str:
    whys = (f"{r.replace('_', ' ')}{f': {text}' if text else ''}" for r, text in found.items())
    return _REASON_SEPARATOR.join(whys)


def _clips_of(stage: StageDir, uris: Sequence[str]) -> dict[str, str]:
    """Returns number and seconds of the clips of some videos."""
    if not uris:
        return {}
    import pyarrow.compute as pc

    wanted = pc.field("video_uri").isin(list(uris))
    spans: dict[str, list[float]] = {uri: [] for uri in uris}
    columns = ["video_uri", "start_s", "end_s"]
    for row in clip_rows(stage.uri, columns, wanted):
        spans[row["video_uri"]].append(row["end_s"] - row["start_s"])
    return {uri: f"{len(of):,} ({number(sum(of))} s)" for uri, of in spans.items()}


def _hashes(files: Iterable[str]) -> np.ndarray:
    """Hashes the addresses of all videos in a table, int64, sorted, each once."""
    found = np.empty(0, np.int64)
    for (uris,) in _batches(files, ["video_uri"]):
        found = np.union1d(found, _hashed(uris))
    return found


def _hashed(uris: Sequence[str]) -> np.ndarray:
    return np.fromiter(map(hash, uris), np.int64, len(uris))


def _batches(files: Iterable[str], columns: Sequence[str]) -> Iterator[list[list[str]]]:
    """Yields some columns of a table as lists, a batch of rows at a time."""
    for uri in files:
        # Large batches, because each is merged into all that was found before.
        for batch in iter_batches(uri, columns, batch_rows=2**16):
            yield [batch[name].to_pylist() for name in columns]
