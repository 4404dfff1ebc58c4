"""Copies of videos under other URIs: found, kept once, and never on both sides of a split."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from data_pipelines.preprocess.clip.measure.motion import FiltersConfig
from data_pipelines.preprocess.clip.video_to_clips import video_to_clips
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.manifest import check_accounts
from data_pipelines.preprocess.rows import ItemRows, VideoItem, VideoRow
from data_pipelines.preprocess.shards import write_part
from lafp.video.decoders.pyav import PyAVConfig, PyAVDecoder
from tests.data_pipelines.preprocess.test_scale import rows_of, write_looks
from tests.selecting import kept_clips, rejects_of, select_items

CFG = PreprocessConfig(filters=FiltersConfig(drop_duplicates=True), val_fraction=0.5)
REAL = (
    "internet/interactive-examples__cc0-videos_friday.mp4",
    "internet/torchcodec__nasa_13013.mp4",
    "internet/Video-LLaVA__sample_demo_3.mp4",
    "robot/bridgedata__act_success.mp4",
    "robot/gated-memory-policy__loc_3_ours.mp4",
)


def copy(path: Path, to: Path, scale: float, crf: int, first_s: float) -> Path:
    """Encodes a video again: smaller, worse, without its beginning."""
    with av.open(str(path)) as source, av.open(str(to), "w") as sink:
        stream = source.streams.video[0]
        out = sink.add_stream("libx264", rate=30, options={"crf": str(crf), "preset": "veryfast"})
        out.width, out.height = (
            int(side * scale) // 2 * 2 for side in (stream.width, stream.height)
        )
        out.pix_fmt, out.codec_context.time_base = "yuv420p", Fraction(1, 90_000)
        for frame in source.decode(stream):
            if frame.time >= first_s:
                small = frame.reformat(out.width, out.height, "yuv420p")
                small.pts, small.time_base = (
                    round((frame.time - first_s) * 90_000),
                    Fraction(1, 90_000),
                )
                sink.mux(out.encode(small))
        sink.mux(out.encode())
    return to


def made(paths: Sequence[Path], folder: Path) -> list[ItemRows]:
    decoder = PyAVDecoder(PyAVConfig())
    items = [VideoItem(uri=str(p), num_bytes=p.stat().st_size, split=None) for p in paths]
    inputs = (video_to_clips(item, CFG, decoder) for item in items)
    return write_part(inputs, str(folder), "part.tar")


def selected(
    rows: Sequence[ItemRows],
    work: Path,
    cfg: PreprocessConfig = CFG,
) -> ItemRows:
    """What is left of them; the accounts still add up."""
    found = select_items(cfg, rows, work, name=f"select-{len(list(work.iterdir()))}")
    videos = tuple(video for item in rows for video in item.videos)
    clips, rejects = tuple(kept_clips(found)), tuple(rejects_of(found))
    left = ItemRows(videos=videos, clips=clips, rejects=rejects)
    check_accounts(left)
    return left


def test_encoded_scaled_and_trimmed_copies_of_real_videos_are_kept_once(tmp_path, shared_videos):
    originals = [shared_videos / name for name in REAL]
    copies = [
        copy(path, tmp_path / f"{kind}_{path.stem}.mp4", *how)
        for path in originals
        for kind, how in {"small": (0.5, 32, 0.0), "trimmed": (0.6, 30, 1.37)}.items()
    ]
    rows = made([*originals, *copies], tmp_path)
    assert all(item.clips for item in rows), "there is something to find"
    left = selected(rows, tmp_path)
    kept = {clip.record.video_uri for clip in left.clips}
    assert kept == {str(path) for path in originals}
    assert len(left.clips) == sum(len(item.clips) for item in rows[: len(originals)])
    original_of = {str(c): str(path) for c in copies for path in originals if path.stem in c.stem}
    found = [row for row in left.rejects if row.reason == "near_duplicate"]
    assert len(found) == sum(len(item.clips) for item in rows[len(originals) :])
    for row in found:
        assert row.original_uri == original_of[row.video_uri]
        assert row.detail == f"clip {row.original_clip_id} of {row.original_uri}"
    kept_ids = {clip.record.clip_id for clip in left.clips}
    assert {row.original_clip_id for row in found} <= kept_ids


def id_of(rows: ItemRows, number: int) -> str:
    return rows.clips[number].record.clip_id


@pytest.fixture(scope="module")
def chains(tmp_path_factory) -> tuple[list[ItemRows], Path]:
    """30 x three videos: the second shares a clip with the first, the third one with the second."""
    rows, work = [], tmp_path_factory.mktemp("work")
    for chain in range(30):
        rng = np.random.default_rng(1000 + chain)
        looks = rng.random((2, 6, 8, 8, 3), np.float32)
        a, b, c = (rows_of(3 * chain + i) for i in range(3))
        shared = {id_of(a, 0): looks[0], id_of(b, 2): looks[0]}
        write_looks((a, b, c), work, shared | {id_of(b, 1): looks[1], id_of(c, 3): looks[1]})
        rows += [a, b, c]
    return rows, work


def chain_of(uri: str) -> int:
    return int(uri[-12:-4]) // 3


def test_videos_that_share_a_clip_directly_or_through_others_go_to_one_split(chains):
    left = selected(*chains)
    assert sum(row.reason == "near_duplicate" for row in left.rejects) == 2 * 30
    splits = defaultdict(set)
    for clip in left.clips:
        splits[chain_of(clip.record.video_uri)].add(clip.record.split)
    assert len(splits) == 30 and all(len(of_chain) == 1 for of_chain in splits.values())
    assert sum(of_chain == {"val"} for of_chain in splits.values()) in range(8, 23)


def test_without_the_search_videos_of_a_chain_are_parted(chains):
    cfg = replace(CFG, filters=FiltersConfig())
    splits = defaultdict(set)
    for clip in selected(*chains, cfg).clips:
        splits[chain_of(clip.record.video_uri)].add(clip.record.split)
    assert any(len(of_chain) == 2 for of_chain in splits.values()), "else the test above is void"


def test_a_given_split_is_kept_and_its_copies_go_to_the_earlier_one(tmp_path):
    train, val = rows_of(1000), rows_of(1001)
    looks = np.random.default_rng(5).random((6, 8, 8, 3), np.float32)
    write_looks((train, val), tmp_path, {id_of(rows, 0): looks for rows in (train, val)})
    given = [
        replace(rows, videos=(replace(rows.videos[0], split=split),))
        for rows, split in ((train, "train"), (val, "val"))
    ]
    left = selected(given, tmp_path)
    splits = {clip.record.video_id: clip.record.split for clip in left.clips}
    ids = [rows.videos[0].video_id for rows in given]
    assert splits == {ids[0]: "train", ids[1]: "val"}
    assert [row.video_uri for row in left.rejects if row.reason == "near_duplicate"] == [
        given[1].videos[0].uri
    ]


def test_cameras_of_an_episode_stay_together_and_one_video_is_held_out_at_least(tmp_path):
    rows = [rows_of(i) for i in range(6)]
    paired = [
        replace(
            item,
            videos=(replace(item.videos[0], episode_id=f"{3 + 3 * (i // 2):x}" + 31 * "0"),),
            clips=tuple(
                replace(c, record=replace(c.record, episode_id=f"{3 + 3 * (i // 2):x}" + 31 * "0"))
                for c in item.clips
            ),
        )
        for i, item in enumerate(rows)
    ]
    cfg = replace(CFG, val_fraction=1e-9, filters=FiltersConfig())
    left = selected(paired, tmp_path, cfg)
    val = {clip.record.episode_id for clip in left.clips if clip.record.split == "val"}
    assert val == {"3" + 31 * "0"}, "the lowest hash"
    assert sum(clip.record.split == "val" for clip in left.clips) == 2 * 4
    assert isinstance(left.videos[0], VideoRow)
