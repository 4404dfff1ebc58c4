"""The whole job on real Ray, from files to a shard set that training reads."""

import hashlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import ray

from data_pipelines.on_ray.tasks import stream_tasks
from data_pipelines.preprocess import plan as plan_module
from data_pipelines.preprocess.clip.labels.read import LabelsConfig
from data_pipelines.preprocess.clip.measure.motion import FiltersConfig
from data_pipelines.preprocess.clip.measure.signature import Signature
from data_pipelines.preprocess.clip.resize import ResizeConfig
from data_pipelines.preprocess.clip.split_clips import ClipConfig
from data_pipelines.preprocess.clip.video_to_clips import video_to_clips
from data_pipelines.preprocess.config import PreprocessConfig, TasksConfig
from data_pipelines.preprocess.file_counts import FileCounts
from data_pipelines.preprocess.job import list_inputs, make_shard, make_shards, preprocess, select
from data_pipelines.preprocess.manifest import (
    check_accounts,
    check_totals,
    clips_table,
    shard_set,
    summarize,
)
from data_pipelines.preprocess.parts import TaskQueue, make_parts
from data_pipelines.preprocess.parts_progress import PartsProgress
from data_pipelines.preprocess.plan import Task, make_plan
from data_pipelines.preprocess.rejects import RejectRow
from data_pipelines.preprocess.rows import VideoItem
from data_pipelines.preprocess.shards import ShardsConfig, write_part
from data_pipelines.preprocess.taken_down import Takedown, add_takedowns
from lafp import storage
from lafp.config import ConfigError, load_config
from lafp.data.order.clips import ClipOrder
from lafp.data.shards.format import read_records, signatures_name
from lafp.data.shards.reader import ClipReader
from lafp.data.shards.sets import open_shard_set
from lafp.http.download import HttpConfig
from lafp.runs.run_dir import StageDir
from lafp.storage import StorageError
from lafp.video import VIDEO_DECODERS, EncodeConfig
from lafp.video.decoders.base import VideoInfo
from lafp.video.decoders.pyav import PyAVConfig, PyAVDecoder
from ray_jobs.core import findings
from ray_jobs.core.cluster import start_local
from tests.chaos.s3_faults import faulty_s3
from tests.http_server import serving
from tests.s3_server import point_to_s3
from tests.selecting import select_items
from tests.shard_tables import table_file
from tests.synthetic_video import moving_square, number_of, numbered, write_video

ROOT = Path(__file__).parents[3]
CFG = PreprocessConfig(
    clip=ClipConfig(fps=10.0, max_s=3.0, min_frames=8),
    resize=ResizeConfig(width_px=48, height_px=32),
    filters=FiltersConfig(min_motion=0.0003, drop_duplicates=True),
    shards=ShardsConfig(max_bytes=30_000),
    val_fraction=0.25,
    tasks=TasksConfig(videos_per_task=3),
)


@pytest.fixture(scope="module")
def local_ray():
    start_local(2)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Ten different videos, one of them twice, one encoded again, one static, one no video."""
    folder = tmp_path_factory.mktemp("source")
    for i in range(10):
        write_video(folder / f"video_{i}.mp4", moving_square(25 + 7 * i, seed=i), fps=10)
    (folder / "video_copied.mp4").write_bytes((folder / "video_3.mp4").read_bytes())
    lower = {"crf": "26", "g": "30"}
    write_video(folder / "video_encoded_again.mkv", moving_square(39, seed=2), options=lower)
    write_video(folder / "video_static.mp4", np.repeat(moving_square(1), 40, axis=0))
    (folder / "video_truly.mp4").write_text("<html>404</html>")
    (folder / "notes.txt").write_text("not an input")
    return folder


def made_without_ray(cfg: PreprocessConfig, folder: Path) -> None:
    """What the job must come to, all of it made as one part, in this process."""
    cls = VIDEO_DECODERS.get("pyav")
    decoder = cls(cls.Config())
    inputs = (video_to_clips(item, cfg, decoder) for item in list_inputs(cfg))
    folder.mkdir(exist_ok=True)
    items = write_part(inputs, str(folder), "000000/part-000000.tar")
    selected, out = select_items(cfg, items, folder), str(folder / "shards")
    with clips_table(out, selected, cfg.shards.max_bytes) as layouts:
        for layout in layouts:
            has_signatures = cfg.filters.drop_duplicates
            assert not make_shard(layout, selected.tables, str(folder), out, has_signatures)


class FallingBack(PyAVDecoder):
    """Says of short videos that it could not decode them where it should."""

    def probe(self, path: str, max_pixels: int, deadline: float) -> VideoInfo:
        info = super().probe(path, max_pixels, deadline)
        return replace(info, fallback="Video not supported" if info.duration_s < 5 else "")


def test_videos_that_were_decoded_elsewhere_are_counted_by_reason(source, tmp_path):
    cfg = replace(CFG, source=str(source))
    inputs = (video_to_clips(i, cfg, FallingBack(PyAVConfig())) for i in list_inputs(cfg))
    items = write_part(inputs, str(tmp_path), "000000/part-000000.tar")
    selected = select_items(cfg, items, tmp_path)
    summary = summarize(selected, shard_set(selected, cfg), FileCounts().table(), 1, 1)
    # 2.5, 3.2, 3.9 and 4.6 s; once more the fourth and the third one; the static one.
    assert summary["decoder_fallbacks"] == {"Video not supported": 7}
    told = findings.preprocess(None, StageDir(str(tmp_path), "stage"), summary)
    assert "Mind: 7 videos decoded on the CPU instead of the GPU: Video not supported" in told


def digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.suffix == ".tar" or path.name.startswith(("train-", "val-"))
    }


def table(folder: Path, name: str) -> list[dict]:
    return pq.read_table(folder / table_file(name)).to_pylist()


@pytest.fixture(scope="module")
def made(local_ray, source, tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("out")
    return out, preprocess(replace(CFG, source=str(source)), str(out))


def test_the_shards_are_those_of_one_undisturbed_process(made, source, tmp_path):
    out, _ = made
    made_without_ray(replace(CFG, source=str(source)), tmp_path)
    assert digests(out) == digests(tmp_path / "shards")
    assert not (out / "work").exists()


def test_a_source_against_the_finished_set_gives_only_what_is_new(made, source, tmp_path):
    new = tmp_path / "new"
    new.mkdir()
    (new / "a_copy.mp4").write_bytes((source / "video_3.mp4").read_bytes())
    lower = {"crf": "26", "g": "30"}
    write_video(new / "again.mkv", moving_square(46, seed=3), fps=10, options=lower)
    write_video(new / "other.mp4", 255 - moving_square(40, seed=77), fps=10)
    filters = replace(CFG.filters, against=(str(made[0]),))
    cfg = replace(CFG, source=str(new), filters=filters)
    summary = preprocess(cfg, str(tmp_path / "out"))
    assert {Path(row["video_uri"]).name for row in table(tmp_path / "out", "clips")} == {
        "other.mp4"
    }
    rejects = {Path(r["video_uri"]).name: r for r in table(tmp_path / "out", "rejects")}
    reasons = {name: row["reason"] for name, row in rejects.items()}
    assert reasons == {"a_copy.mp4": "same_file", "again.mkv": "near_duplicate"}
    assert all(str(made[0]) in row["detail"] for row in rejects.values())
    assert summary["num_videos"] == 3 and not (tmp_path / "out/work").exists()


def test_rejects_say_what_became_of_the_rest(made):
    out, summary = made
    reasons = {Path(row["video_uri"]).name: row["reason"] for row in table(out, "rejects")}
    assert reasons["video_copied.mp4"] == "same_file"
    assert reasons["video_encoded_again.mkv"] == "near_duplicate"
    assert reasons["video_static.mp4"] == "static"
    assert reasons["video_truly.mp4"] == "not_a_video"
    assert (summary["num_videos"], summary["num_videos_with_clips"]) == (14, 10)
    funnel = summary["funnel"]
    rejected_s = sum(reject["seconds"] for reject in funnel["rejects"].values())
    assert funnel["inputs"]["seconds"] == pytest.approx(funnel["clips"]["seconds"] + rejected_s)


def test_tables_shards_and_totals_agree(made):
    out, summary = made
    clips, shards = table(out, "clips"), table(out, "manifest")
    spec = open_shard_set(str(out))
    assert len(clips) == summary["num_clips"] == sum(spec.num_clips.values())
    assert len({clip["clip_id"] for clip in clips}) == len(clips)
    for shard in shards:
        path = out / shard["shard"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == shard["sha256"]
        assert path.stat().st_size == shard["num_bytes"]
        inside = [record.clip_id for record in read_records(path)]
        assert inside == [c["clip_id"] for c in clips if c["shard"] == shard["shard"]]
        assert len(inside) == shard["num_clips"]
        looks = pq.read_table(out / signatures_name(shard["shard"])).to_pylist()
        assert [row["clip_id"] for row in looks] == inside
        assert all(len(Signature.from_bytes(row["signature"]).pictures) > 2 for row in looks)
    lengths = [clip["num_frames"] for clip in clips]
    assert (spec.min_clip_frames, spec.max_clip_frames) == (min(lengths), max(lengths))
    assert (spec.fps, spec.width_px, spec.height_px, spec.action) == (10.0, 48, 32, None)
    assert len(shards) > 2, "max_bytes closes shards"


def test_tables_open_in_pandas_and_duckdb_and_agree(made, monkeypatch):
    out, summary = made
    monkeypatch.chdir(out)
    (query,) = re.findall(r"```sql\n(.*?)```", (ROOT / "docs/shard_tables.md").read_text(), re.S)
    by_reason = duckdb.sql(query).fetchall()
    rejects = pd.read_parquet("rejects.parquet")
    hours = (rejects.end_s - rejects.start_s).groupby(rejects.reason).sum() / 3600
    assert {reason: spans for reason, spans, _ in by_reason} == dict(rejects.reason.value_counts())
    assert {reason: h for reason, _, h in by_reason} == pytest.approx(dict(hours))
    clips = pd.read_parquet("clips")
    assert clips.num_frames.sum() == summary["num_frames"]
    assert [len(pairs) for pairs in clips.pair_motion] == list(clips.num_frames - 1)
    joined = duckdb.sql(
        "SELECT s.num_clips, count(*), s.num_frames, sum(c.num_frames) FROM 'clips/*.parquet' c "
        "JOIN 'manifest.parquet' s USING (shard) GROUP BY ALL"
    )
    assert all(row[0] == row[1] and row[2] == row[3] for row in joined.fetchall())
    assert len(joined) == summary["num_shards"] == len(pd.read_parquet("manifest.parquet"))


def test_a_video_lies_in_one_split_and_both_splits_are_there(made):
    out, _ = made
    splits: dict[str, set[str]] = {}
    for clip in table(out, "clips"):
        splits.setdefault(clip["video_id"], set()).add(clip["split"])
        assert clip["shard"].startswith(clip["split"])
    assert all(len(of_video) == 1 for of_video in splits.values())
    assert {split for of_video in splits.values() for split in of_video} == {"train", "val"}


def test_training_reads_every_clip(made):
    out, summary = made
    reader = ClipReader(str(out))
    num_read = 0
    for split in ("train", "val"):
        order = ClipOrder(shard_set=str(out), split=split, seed=0)
        visits = order.visits()
        for _ in range(order.num_clips):
            row = reader.read(next(visits))
            assert row["frames"].shape[1:] == (32, 48, 3)
            num_read += 1
    assert num_read == summary["num_clips"]


def test_running_again_does_nothing_even_after_a_kill_just_before_the_end(made, source):
    out, summary = made
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert preprocess(replace(CFG, source=str(source)), str(out)) == summary
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_an_interrupted_job_redoes_only_what_is_missing(
    local_ray, made, source, tmp_path, monkeypatch
):
    monkeypatch.setattr(plan_module, "CHUNK_ITEMS", 4)
    cfg = replace(CFG, source=str(source), tasks=TasksConfig(videos_per_task=1))
    work = tmp_path / "work"
    plan = make_plan(list_inputs(cfg), cfg.tasks, str(work))
    assert (plan.num_items, plan.num_chunks) == (14, 4)
    make_parts(cfg, replace(plan, num_chunks=2, num_items=8))
    done = {path: path.stat().st_mtime_ns for path in work.glob("*/part-*.json")}
    assert len(done) == 8
    (work / "000002").mkdir()
    (work / "000002/.part-000001.tar.123.tmp").write_bytes(b"left by a killed task")
    later = source / "a_new_video.mp4"
    write_video(later, moving_square(30, seed=99))
    try:
        assert make_plan(list_inputs(cfg), cfg.tasks, str(work)) == plan
    finally:
        later.unlink()
    make_parts(cfg, plan)
    assert all(path.stat().st_mtime_ns == then for path, then in done.items())
    preprocess(cfg, str(tmp_path))
    assert digests(tmp_path) == digests(made[0]), "neither tasks nor interruptions matter"


def test_a_takedown_between_shards_moves_the_clips_of_those_that_were_made(
    local_ray, source, tmp_path
):
    cfg, out = replace(CFG, source=str(source)), str(tmp_path)
    plan = make_plan(list_inputs(cfg), cfg.tasks, str(tmp_path / "work"))
    make_parts(cfg, plan)
    selected = select(cfg, plan, out, FileCounts())
    with clips_table(out, selected, cfg.shards.max_bytes) as layouts:
        make_shards(cfg, layouts, selected.tables, plan.work, out)
    made = sorted(tmp_path.glob("train-*.tar"))
    first, *others = (record.video_id for path in made for record in read_records(path))
    # So many that fewer shards are needed than were made.
    gone = tuple({first, *others[len(others) // 3 :]})
    video = Takedown(takedown_id="t", taken_down_at="", video_ids=gone, video_uris=(), spans=())
    add_takedowns(out, [video])
    preprocess(cfg, out)
    clips = table(tmp_path, "clips")
    assert clips and not {clip["video_id"] for clip in clips} & set(gone)
    shards = sorted(path.name for path in tmp_path.glob("*.tar"))
    assert shards == sorted({clip["shard"] for clip in clips})
    assert len([name for name in shards if name.startswith("train")]) < len(made)
    for name in shards:
        expected = [clip["clip_id"] for clip in clips if clip["shard"] == name]
        assert [record.clip_id for record in read_records(tmp_path / name)] == expected
        entry = json.loads((tmp_path / name).with_suffix(".json").read_text())
        assert [clip["clip_id"] for clip in entry["clips"]] == expected
        looks = pq.read_table(tmp_path / signatures_name(name)).to_pylist()
        assert [row["clip_id"] for row in looks] == expected
    assert len(list(tmp_path.glob("*.signatures.parquet"))) == len(shards)


def test_a_long_video_is_shared_out_in_pieces_and_comes_to_the_same(local_ray, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for seed, num_frames in enumerate((30, 400, 35)):
        write_video(source / f"{seed}.mp4", moving_square(num_frames, seed=seed), fps=10)
    cfg = replace(CFG, source=str(source), piece_s=9.0)
    plan = make_plan(list_inputs(cfg), cfg.tasks, str(tmp_path / "out/work"))
    make_parts(cfg, plan)
    folder = tmp_path / "out/work/000000"
    pieces = sorted(folder.glob("part-000000-0001-*.json"))
    assert len(pieces) == 5
    pieces[2].unlink()
    times = {path: path.stat().st_mtime_ns for path in folder.glob("*.json")}
    make_parts(cfg, plan)
    assert pieces[2].exists()
    assert all(path.stat().st_mtime_ns == then for path, then in times.items())
    summary = preprocess(cfg, str(tmp_path / "out"))
    assert (summary["num_videos"], summary["num_videos_with_clips"]) == (3, 3)
    made_without_ray(cfg, tmp_path / "alone")
    assert digests(tmp_path / "out") == digests(tmp_path / "alone/shards")


def work_until_last(name: str, folder: str) -> bool:
    """A slow call, which ends once the last one has run, to which the result of another leads."""
    deadline = time.monotonic() + 60
    while name == "slow" and not Path(folder, "last").exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    Path(folder, name).touch()
    return True


def test_tasks_for_pieces_start_while_a_slow_task_is_pending(local_ray, tmp_path):
    items = [VideoItem(uri=name, num_bytes=1, split=None) for name in ("slow", "long", "last")]
    plan = make_plan(items[:2], TasksConfig(videos_per_task=1), str(tmp_path / "work"))
    queue = TaskQueue(plan, PartsProgress("videos", plan))
    calls = map(lambda task: (name := task.items[0].uri, (name, str(tmp_path))), queue)
    done = []
    for name, is_in_time in stream_tasks(work_until_last, calls):
        assert is_in_time
        done.append(name)
        if name == "long":
            queue.add([Task(part="a piece", items=(items[2],))])
    assert sorted(done) == ["last", "long", "slow"] and done[0] == "long"


def test_s3_to_s3_gives_the_same_shards(s3_bucket, made, source, local_ray_on_s3):
    assert_same_shards_on_s3(s3_bucket, made, source)


@pytest.mark.slow
def test_a_faulty_s3_gives_the_same_shards(s3_server, s3_bucket, made, source, monkeypatch):
    """An error, a lost answer or a body that breaks off befalls three requests in ten."""
    with faulty_s3(s3_server["AWS_ENDPOINT_URL"], seed=1, share=0.3) as proxy:
        point_to_s3(monkeypatch, proxy.url)
        ray.shutdown()
        start_local(2)
        assert_same_shards_on_s3(s3_bucket, made, source)
        ray.shutdown()
    assert sum(proxy.faults.values()) > 20


def assert_same_shards_on_s3(bucket: str, made, source: Path) -> None:
    for path in source.iterdir():
        storage.write_bytes(storage.join(bucket, "in", path.name), path.read_bytes())
    cfg = replace(CFG, source=storage.join(bucket, "in"))
    out = storage.join(bucket, "out")
    summary = preprocess(cfg, out)
    assert summary["num_clips"] == made[1]["num_clips"]
    names = [info.uri.removeprefix(f"{out}/") for info in storage.list_files(out)]
    assert "shard_set.json" in names and not any(name.startswith("work/") for name in names)
    for shard in table(made[0], "manifest"):
        here = [c["clip_id"] for c in table(made[0], "clips") if c["shard"] == shard["shard"]]
        entry = json.loads(storage.read_text(storage.join(out, shard["shard"][:-4] + ".json")))
        assert [clip["clip_id"] for clip in entry["clips"]] == here


@pytest.fixture
def local_ray_on_s3(s3_server):
    """Workers take the S3 endpoint from the environment that Ray was started in."""
    ray.shutdown()
    start_local(2)
    yield


def write_episodes(folder: Path, num: int, start: int = 0) -> None:
    folder.mkdir()
    for i in range(start, start + num):
        frames = numbered(20 + i)
        frames[:, :4] = 10 * i  # so that no two episodes are the same file
        write_video(folder / f"episode_{i:06d}.mp4", frames, fps=10, options={"crf": "4"})
        action = np.stack([np.arange(20 + i), np.full(20 + i, i)], axis=1).astype(np.float32)
        action[-1] = 0
        state = np.random.default_rng(i).normal(size=(20 + i, 3)).astype(np.float32)
        np.savez(folder / f"episode_{i:06d}.npz", action=action, state=state)


def test_labeled_episodes_keep_their_actions_and_their_split(local_ray, tmp_path):
    write_episodes(tmp_path / "labeled", 4)
    write_episodes(tmp_path / "labeled_val", 2, start=4)
    cfg = PreprocessConfig(
        source=str(tmp_path / "labeled"),
        val_source=str(tmp_path / "labeled_val"),
        name="labeled",
        labels=LabelsConfig(),
        clip=ClipConfig(fps=None, max_s=60.0, min_frames=4),
        resize=ResizeConfig(width_px=64, height_px=32),
        encode=EncodeConfig(crf=4),
    )
    out = tmp_path / "out"
    preprocess(cfg, str(out))
    spec = open_shard_set(str(out))
    assert spec.num_clips == {"train": 4, "val": 2}
    assert spec.fps == 10.0
    for split, episodes in (("train", range(4)), ("val", range(4, 6))):
        order = ClipOrder(shard_set=str(out), split=split, seed=0)
        visits, reader, seen = order.visits(), ClipReader(str(out)), set()
        for _ in range(order.num_clips):
            row = reader.read(next(visits))
            num_frames = int(row["num_frames"])
            numbers = [number_of(frame) for frame in row["frames"][:num_frames]]
            assert numbers == list(range(num_frames))
            assert row["true_action"][: num_frames - 1, 0].tolist() == numbers[:-1]
            seen.add(num_frames - 20)
        assert seen == set(episodes)
    train = np.concatenate(
        [np.stack([np.arange(19 + i), np.full(19 + i, i)], axis=1) for i in range(4)]
    )
    np.testing.assert_allclose(spec.action["mean"], train.mean(axis=0))
    np.testing.assert_allclose(spec.action["std"], train.std(axis=0))
    assert (spec.action["low"], spec.action["high"]) == ([0, 0], [21, 3])
    assert (spec.action["min"], spec.action["max"]) == ([0, 0], [21, 3])
    exact = np.quantile(train, 0.99, axis=0, method="inverted_cdf")
    np.testing.assert_allclose(spec.action["q99"], exact, rtol=1e-3)


def test_a_rate_that_nobody_says_is_in_the_summary(local_ray, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for i in range(3):
        times = {"timestamp": np.arange(20) / 30} if i == 2 else {}
        frames = moving_square(20, 32, 64, seed=i)
        np.savez(folder / f"{i}.npz", image_0=frames, action=np.zeros((20, 2)), **times)
    cfg = PreprocessConfig(
        source=str(folder),
        name="labeled",
        labels=LabelsConfig(),
        clip=ClipConfig(fps=None, max_s=60.0, min_frames=4),
        resize=ResizeConfig(width_px=64, height_px=32),
    )
    summary = preprocess(cfg, str(tmp_path / "out"))
    assert summary["assumed"] == {"labels.fps": {"value": 5.0, "videos": 2}}


def test_the_workers_of_a_cluster_share_one_rate_per_host(local_ray, tmp_path):
    data = write_video(tmp_path / "x.mp4", moving_square(20)).read_bytes()
    with serving() as host:
        names = [f"/{i}.mp4" for i in range(12)]
        host.files.update({name: data + name.encode() for name in names})
        host.answers.update(dict.fromkeys(names, host.serve_slowly))
        uris = [*(host.url + name for name in names), "no.mp4"]
        (tmp_path / "list.txt").write_text("\n".join(uris))
        cfg = replace(
            CFG,
            source=str(tmp_path / "list.txt"),
            filters=FiltersConfig(min_motion=0.0, drop_duplicates=False),
            http=HttpConfig(
                requests_per_s_per_host=10.0,
                connections_per_host=1,
                retries=0,
                allow_private_addresses=True,
            ),
        )
        summary = preprocess(cfg, str(tmp_path / "out"))
        times_s = [at_s for at_s, _, _ in host.hits]
    assert (summary["num_videos"], summary["num_clips"], summary["num_rejects"]) == (13, 12, 1)
    assert len(times_s) == 12 and host.max_open == 1
    # Each answer takes 0.15 s; two processes without a common bound would ask at the same time.
    assert all(b - a > 0.07 for a, b in itertools.pairwise(times_s))


def test_a_source_of_nothing_but_rejects_is_a_config_error_with_the_reasons(local_ray, tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    for i in range(4):
        (folder / f"{i}.mp4").write_text("<html>404</html>")
    too_many = r"4 of 4 videos in .* give no clip.*4 not_a_video \(not a container"
    rejects = tmp_path / "out/rejects.parquet"
    for cfg, message in (
        (replace(CFG, source=str(folder)), too_many),
        (replace(CFG, source=str(folder)), too_many),  # all parts are there, and judged again
        (replace(CFG, source=str(folder), max_reject_fraction=1.0), "No clips in"),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            preprocess(cfg, str(tmp_path / "out"))
        shown = str(caught.value)
        assert "For example: " in shown and shown.endswith(f"All rejects are in {rejects}.")
        assert shown.count(".mp4: a web page") == 3
        assert pq.read_table(rejects)["reason"].to_pylist() == 4 * ["not_a_video"]
        rejects.unlink()


def test_odd_files_of_a_folder_are_rows_or_counted_and_end_no_job(local_ray, tmp_path):
    folder, out = tmp_path / "source", tmp_path / "out"
    folder.mkdir()
    latin = folder / os.fsdecode(b"latin\xe9.mp4")
    for seed, path in enumerate((folder / "a.mxf", latin, folder / "new\nline.mp4")):
        made = write_video(tmp_path / "v.mp4", moving_square(40, seed=seed), fps=10)
        path.write_bytes(made.read_bytes())
    for name in ("b.zip", "c.unheard", "d.json", "e.jpg", "f.json"):
        (folder / name).write_bytes(b"PK\x03\x04")
    os.mkfifo(folder / "pipe.mp4")
    (folder / "loop.mp4").symlink_to("loop.mp4")
    (folder / "self").symlink_to(".")
    summary = preprocess(replace(CFG, source=str(folder), val_fraction=0.0), str(out))
    assert summary["num_videos_with_clips"] == 3
    files = summary["files"]
    assert (files["seen"], files["read"]) == (11, 7)
    assert {kind["what"]: kind["files"] for kind in files["left_out"]} == {
        ".json": 2,
        ".jpg": 1,
        "a named pipe": 1,
    }
    rejects = pd.read_parquet(out / "rejects.parquet")
    names = rejects.video_uri.str.removeprefix(f"{folder}/")
    reasons = dict(zip(names, rejects.reason, strict=True))
    no_videos = dict.fromkeys(["b.zip", "c.unheard"], "not_a_video")
    assert reasons == no_videos | dict.fromkeys(["loop.mp4", "self"], "unreadable")
    clips = pd.read_parquet(out / "clips")
    contents = {storage.read_bytes(uri) for uri in clips.video_uri}
    assert latin.read_bytes() in contents and len(contents) == 3


def test_a_failing_disk_is_a_storage_error_that_names_the_cause(local_ray, source, tmp_path):
    cfg = replace(CFG, source=str(source))
    in_the_way = tmp_path / "work/000000/part-000001.tar"
    in_the_way.mkdir(parents=True)  # nothing can be renamed onto it
    with pytest.raises(StorageError, match=r"part-000001\.tar"):
        preprocess(cfg, str(tmp_path))
    in_the_way.rmdir()
    assert preprocess(cfg, str(tmp_path))["num_clips"] > 0


def test_workers_do_not_load_torch(local_ray):
    @ray.remote
    def loaded() -> list[str]:
        import data_pipelines.preprocess.job  # noqa: F401

        return [name for name in sys.modules if name in ("torch", "deepspeed", "matplotlib")]

    assert ray.get(loaded.remote()) == []


def test_an_unaccounted_span_is_found(tmp_path, source):
    cls = VIDEO_DECODERS.get("pyav")
    (item,) = (i for i in list_inputs(replace(CFG, source=str(source / "video_9.mp4"))))
    rows = video_to_clips(item, CFG, cls(cls.Config()))
    (made,) = write_part([rows], str(tmp_path), "part.tar")
    check_accounts(made)
    with pytest.raises(RuntimeError, match="clips and rejects cover"):
        check_accounts(replace(made, clips=made.clips[1:]))
    twice = RejectRow(video_uri=made.videos[0].uri, start_s=0.0, end_s=1.0, reason="damaged")
    with pytest.raises(RuntimeError, match="clips and rejects cover"):
        check_accounts(replace(made, rejects=(*made.rejects, twice)))


def test_totals_that_do_not_add_up_are_found(made):
    _, summary = made
    check_totals(summary)
    lost = json.loads(json.dumps(summary))
    lost["funnel"]["clips"]["seconds"] -= 1.0
    with pytest.raises(RuntimeError, match="clips and rejects"):
        check_totals(lost)


@pytest.mark.parametrize("name", ["videos", "demonstrations", "labeled"])
def test_every_config_loads(name):
    cfg = load_config(PreprocessConfig, ROOT / f"configs/preprocess/{name}.yaml")
    assert cfg.name == ("labeled" if name == "labeled" else "videos")
    assert (cfg.labels is not None) == (name == "labeled")
    assert cfg.source is None


def job(source: Path, folder: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "ray_jobs.preprocess", "configs/preprocess/videos.yaml"]
    command += [f"source={source}", "clip.min_frames=8", "clip.max_s=3", "tasks.videos_per_task=1"]
    command += ["filters.drop_duplicates=false", "--run-name", "run", "--storage", str(folder)]
    return subprocess.Popen(
        [*command, *more],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"RAY_ADDRESS": ""},
        start_new_session=True,
    )


def test_a_dry_run_says_what_to_expect_and_writes_nothing(source, tmp_path):
    process = job(source, tmp_path, "--dry-run", "deadline_h=0.001")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    expected = ("inputs: 14 videos", "sample: all of them, 1 min 9 s of video", "nodes: ")
    for line in (*expected, "expected: about 1 min 9 s of video"):
        assert line in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_driver_killed_again_and_again_comes_to_the_same_set_of_clips(tmp_path):
    source, work = tmp_path / "source", tmp_path / "run/shards/videos/work"
    source.mkdir()
    for i in range(40):
        write_video(source / f"{i}.mp4", moving_square(60 + i, 160, 240, seed=i))
    for goal in (3, 14, 26):
        process = job(source, tmp_path)
        deadline = time.monotonic() + 600
        while len(list(work.glob("*/part-*.json")) if work.is_dir() else []) < goal:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert len(list(work.glob("*/part-*.json"))) < 40, "killed too late to test anything"
    process = job(source, tmp_path)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    cfg = load_config(PreprocessConfig, tmp_path / "run/shards/videos/config.yaml")
    made_without_ray(cfg, tmp_path / "undisturbed")
    expected = digests(tmp_path / "undisturbed/shards")
    assert digests(tmp_path / "run/shards/videos") == expected and expected
    process = job(source, tmp_path)
    output, _ = process.communicate(timeout=600)
    assert "complete, nothing to do" in output
