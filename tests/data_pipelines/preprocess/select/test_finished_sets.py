"""A source against finished sets: only what is new is kept, and nothing of the sets is written."""

import json
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_pipelines.preprocess.clip.measure.motion import FiltersConfig
from data_pipelines.preprocess.clip.resize import ResizeConfig
from data_pipelines.preprocess.clip.split_clips import ClipConfig
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.manifest import (
    check_totals,
)
from data_pipelines.preprocess.shards import ShardsConfig
from data_pipelines.preprocess.taken_down import read_takedowns
from data_pipelines.takedown.config import TakedownConfig
from data_pipelines.takedown.job import take_down
from lafp import storage
from lafp.config import ConfigError, load_config
from lafp.data.shards.format import signatures_name
from lafp.runs.run_dir import RunDir
from ray_jobs.core.job import dry_run, state_of
from ray_jobs.preprocess import JOB, check
from tests.made_shard_set import make_shard_set
from tests.shard_tables import table_file, upload_folder
from tests.synthetic_shards import write_shard_set
from tests.synthetic_video import moving_square, write_video

CFG = PreprocessConfig(
    clip=ClipConfig(fps=10.0, max_s=3.0, min_frames=8),
    resize=ResizeConfig(width_px=48, height_px=32),
    filters=FiltersConfig(min_motion=0.0003, drop_duplicates=True),
    shards=ShardsConfig(max_bytes=10_000),
    val_fraction=0.3,
)
ROOT = Path(__file__).parents[4]
SET = "runs/mine/shards/first"


def make(source: Path, shards: Path, against: Sequence[str] = ()) -> dict[str, object]:
    filters = replace(CFG.filters, against=tuple(against))
    return make_shard_set(replace(CFG, filters=filters), source, shards)


def table(folder: Path, name: str) -> list[dict]:
    return pq.read_table(folder / table_file(name)).to_pylist()


def videos(rows: Sequence[dict]) -> set[str]:
    return {Path(row["video_uri"]).name for row in rows}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Set A of six videos; source B of copies, a compilation with a clip of one, and new videos."""
    folder = tmp_path_factory.mktemp("sets")
    a, b = folder / "a", folder / "b"
    a.mkdir()
    b.mkdir()
    looks = [moving_square(40 + 7 * number, seed=10 + number) for number in range(6)]
    for number, frames in enumerate(looks):
        write_video(a / f"a_{number}.mp4", frames)
    lower = {"crf": "26", "g": "30"}
    write_video(b / "again_2.mkv", looks[2], options=lower)
    write_video(b / "again_4.mp4", looks[4], options=lower)
    shutil.copy(a / "a_3.mp4", b / "same_3.mp4")
    shutil.copy(a / "a_3.mp4", b / "same_3_twice.mp4")
    news = [255 - moving_square(45 + 7 * number, seed=50 + number) for number in range(3)]
    compilation = np.concatenate([looks[5][:30], news[0][:30]])
    write_video(b / "compilation.mp4", compilation, options={"crf": "20"})
    for number, frames in enumerate(news[1:]):
        write_video(b / f"new_{number}.mp4", frames)
    write_video(b / "new_0_again.mkv", news[1], options=lower)
    make(a, folder / SET)
    make(b, folder / "runs/mine/shards/second", [str(folder / SET)])
    return folder


def test_only_what_is_new_is_kept_and_every_second_is_accounted_for(folder):
    first, second = folder / SET, folder / "runs/mine/shards/second"
    clips, rejects = table(second, "clips"), table(second, "rejects")
    assert videos(clips) == {"compilation.mp4", "new_0.mp4", "new_1.mp4"}
    reasons = defaultdict(set)
    for row in rejects:
        what = (row["reason"], row["detail"], row["original_clip_id"], row["original_uri"])
        reasons[Path(row["video_uri"]).name].add(what)
    same = str(folder / "a/a_3.mp4")
    same_file = ("same_file", f"in {first}: {same}", None, same)
    assert reasons["same_3.mp4"] == reasons["same_3_twice.mp4"] == {same_file}
    originals = {row["clip_id"]: row for row in table(first, "clips")}
    for name, original in (("again_2.mkv", 2), ("again_4.mp4", 4), ("compilation.mp4", 5)):
        assert reasons[name], name
        for reason, detail, clip_id, uri in reasons[name]:
            assert (reason, detail) == ("near_duplicate", f"clip {clip_id} of {uri} in {first}")
            assert originals[clip_id]["video_uri"] == uri == str(folder / f"a/a_{original}.mp4")
    assert {reason for reason, *_ in reasons["new_0_again.mkv"]} == {"near_duplicate"}
    assert all(" in " not in detail for _, detail, *_ in reasons["new_0_again.mkv"])
    assert not {row["clip_id"] for row in clips} & originals.keys()
    summary = json.loads((second / "totals.json").read_text())
    assert summary["num_videos"] == 8 and summary["num_clips"] == len(clips)
    funnel = summary["funnel"]
    seconds = sum(row["end_s"] - row["start_s"] for row in (*clips, *rejects))
    assert seconds == pytest.approx(funnel["inputs"]["seconds"], abs=1e-3)


def test_without_the_set_the_copies_are_kept(folder, tmp_path):
    make(folder / "b", tmp_path / "alone")
    kept = videos(table(tmp_path / "alone", "clips"))
    assert kept >= {"again_2.mkv", "again_4.mp4", "same_3.mp4"}


def test_a_video_goes_to_the_split_that_the_set_has_its_copy_in(folder, tmp_path):
    for split in ("train", "val"):
        known = shutil.copytree(folder / SET, tmp_path / split)
        for name in ("clips", "manifest"):
            rows = pq.read_table(known / table_file(name))
            at = rows.schema.get_field_index("split")
            rows = rows.set_column(at, "split", [[split] * len(rows)])
            pq.write_table(rows, known / table_file(name))
        make(folder / "b", tmp_path / f"made_{split}", [str(known)])
        clips = table(tmp_path / f"made_{split}", "clips")
        found = {r["split"] for r in clips if r["video_uri"].endswith("compilation.mp4")}
        assert found == {split}


def test_the_order_of_sets_and_of_the_listing_changes_no_kept_clip(folder, tmp_path):
    second = folder / "runs/mine/shards/second"
    renamed = tmp_path / "b"
    renamed.mkdir()
    for number, path in enumerate(sorted((folder / "b").iterdir(), reverse=True)):
        if "new_0_again" not in path.name:  # else it is the earlier one
            shutil.copy(path, renamed / f"{number:02d}_{path.name}")
    make(renamed, tmp_path / "made", [str(folder / SET)])
    kept = {row["clip_id"] for row in table(tmp_path / "made", "clips")}
    assert kept == {row["clip_id"] for row in table(second, "clips")}
    with pytest.raises(ConfigError, match=r"No clips .* every video was rejected"):
        make(folder / "b", tmp_path / "all", [str(second), str(folder / SET)])


def test_a_set_on_s3_is_compared_with_like_a_local_one(folder, tmp_path, s3_bucket):
    uri = storage.join(s3_bucket, SET)
    upload_folder(folder / SET, uri)
    make(folder / "b", tmp_path / "made", [uri])
    clips, local = table(tmp_path / "made", "clips"), folder / "runs/mine/shards/second"
    assert clips == table(local, "clips")
    details = [
        row["detail"].replace(uri, str(folder / SET)) for row in table(tmp_path / "made", "rejects")
    ]
    assert details == [row["detail"] for row in table(local, "rejects")]


def test_a_takedown_of_the_run_finds_copies_across_its_sets(folder, tmp_path):
    run = shutil.copytree(folder / "runs/mine", tmp_path / "mine")
    first, second = run / "shards/first", run / "shards/second"
    pictures = {
        row["clip_id"]: row["signature"]
        for shard in table(first, "manifest")
        for row in pq.read_table(first / signatures_name(shard["shard"])).to_pylist()
    }
    gone = [r["clip_id"] for r in table(first, "clips") if r["video_uri"].endswith("a_5.mp4")]
    assert gone
    # The compilation holds a copy of a clip of a_5, which lies in the other set.
    take_down(TakedownConfig(output=str(run), video_uri=str(folder / "b/compilation.mp4")), False)
    assert "a_5.mp4" not in videos(table(second, "rejects"))
    left = {row["clip_id"] for row in table(first, "clips")}
    removed = [clip_id for clip_id in gone if clip_id not in left]
    assert removed and "compilation.mp4" not in videos(table(second, "clips"))
    for path in run.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not any(pictures[clip_id][-64:] in data for clip_id in removed), path
    # A file is known as the copy of one in the other set.
    take_down(TakedownConfig(output=str(run), video_uri=str(folder / "b/same_3.mp4")), False)
    assert "a_3.mp4" not in videos(table(first, "clips"))
    record = read_takedowns(str(second))[-1]
    assert {Path(uri).name for uri in record.video_uris} == {
        "a_3.mp4",
        "same_3.mp4",
        "same_3_twice.mp4",
    }
    for shards in (first, second):
        check_totals(json.loads((shards / "totals.json").read_text()))


def job(folder: Path, tmp_path: Path, *against: str) -> tuple[PreprocessConfig, RunDir]:
    filters = replace(CFG.filters, against=against)
    run = RunDir(storage.join(str(tmp_path), "run"))
    return replace(CFG, source=str(folder / "b"), filters=filters), run


@pytest.mark.parametrize("kind", ["missing", "unfinished", "without", "half"])
def test_a_set_that_cannot_be_compared_with_is_one_line_before_anything_starts(
    folder, tmp_path, kind
):
    uri, expected = str(tmp_path / "set"), "No shard set at .*set: shard_set.json is missing"
    if kind == "without":
        write_shard_set(tmp_path / "set", num_clips=4)
        expected = r"has no signatures of its clips.*filters\.drop_duplicates=true"
    elif kind != "missing":
        shutil.copytree(folder / SET, tmp_path / "set")
        if kind == "half":
            next((tmp_path / "set").glob("*.signatures.parquet")).unlink()
            expected = r"signatures\.parquet is missing. Copy the shard set again"
        else:
            (tmp_path / "set/shard_set.json").unlink()
    cfg, run = job(folder, tmp_path, str(folder / SET), uri)
    for ask in (check, JOB.inputs, partial(dry_run, JOB)):
        with pytest.raises(ConfigError, match=f"^filters.against: .*{expected}"):
            ask(cfg, run)


def test_a_dry_run_says_with_how_many_clips_the_source_is_compared(folder, tmp_path):
    lines = dry_run(JOB, *job(folder, tmp_path, str(folder / SET)))
    assert f"  compared with {len(table(folder / SET, 'clips'))} clips of finished sets" in lines


def test_sets_without_the_search_are_refused():
    path = ROOT / "configs/preprocess/videos.yaml"
    overrides = ["source=x", "filters.against=[runs/a]"]
    assert load_config(PreprocessConfig, path, overrides).filters.against == ("runs/a",)
    with pytest.raises(ConfigError, match=r"drop_duplicates is false.*Set drop_duplicates=true"):
        load_config(PreprocessConfig, path, [*overrides, "filters.drop_duplicates=false"])


def test_a_set_that_changes_is_another_input_wherever_it_lies(folder, tmp_path):
    other = shutil.copytree(folder / SET, tmp_path / "moved")
    cfg, run = job(folder, tmp_path, str(folder / SET))
    moved, _ = job(folder, tmp_path, str(other))
    stage = run.stage(JOB.stage(cfg))
    stage.begin(cfg, dict(JOB.inputs(cfg, run)))
    assert state_of(JOB, moved, run) == "partial"
    take_down(TakedownConfig(output=str(other), video_uri=str(folder / "a/a_1.mp4")), False)
    with pytest.raises(ConfigError, match=r"other inputs.*filters\.against was '1 sets"):
        state_of(JOB, moved, run)
