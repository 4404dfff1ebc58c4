"""A source video leaves a run: from shards, tables and latents, whenever the job is killed."""

import hashlib
import json
import os
import shutil
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.label_latents import LabelLatentsConfig, label_latents
from data_pipelines.latent_tables import write_tables
from data_pipelines.preprocess.action_statistics import ActionStatistics, label_sums
from data_pipelines.preprocess.clip.measure.motion import FiltersConfig
from data_pipelines.preprocess.clip.resize import ResizeConfig
from data_pipelines.preprocess.clip.split_clips import ClipConfig
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.manifest import (
    check_totals,
    write_reject_rows,
)
from data_pipelines.preprocess.rejects import RejectRow
from data_pipelines.preprocess.shards import ShardsConfig
from data_pipelines.preprocess.taken_down import read_takedowns, record_uri
from data_pipelines.takedown import job
from data_pipelines.takedown.apply import apply
from data_pipelines.takedown.config import TakedownConfig
from data_pipelines.takedown.job import take_down
from lafp import storage
from lafp.config import ConfigError
from lafp.data.shards.edit import drop_clips
from lafp.data.shards.format import (
    Labels,
    ShardEntry,
    ShardWriter,
    entry_name,
    read_records,
    signatures_name,
)
from lafp.data.shards.sets import open_shard_set, shards_sha256
from lafp.data.stored_latents import LatentReader, LatentSet, LatentShardWriter
from lafp.runs import lease
from lafp.runs.lease import InUseError, owned
from lafp.storage import strict_json
from lafp.storage.secrets import without_secrets
from lafp.storage.tables import open_table, rewrite_table
from lafp.video import decode_clip
from ray_jobs import takedown as command_line
from tests.made_shard_set import make_shard_set
from tests.shard_tables import divide, table_file
from tests.synthetic_shards import SyntheticClip, write_clips, write_shard_set
from tests.synthetic_video import moving_square, write_video

CFG = PreprocessConfig(
    clip=ClipConfig(fps=10.0, max_s=3.0, min_frames=8),
    resize=ResizeConfig(width_px=48, height_px=32),
    filters=FiltersConfig(min_motion=0.0003, drop_duplicates=True),
    shards=ShardsConfig(max_bytes=10_000),
    val_fraction=0.25,
)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Video b, a copy of it, b encoded again, a clip of it in a compilation, and others."""
    folder = tmp_path_factory.mktemp("source")
    b = moving_square(60, seed=2)
    write_video(folder / "b.mp4", b)
    shutil.copy(folder / "b.mp4", folder / "copy.mp4")
    write_video(folder / "encoded_again.mkv", b, options={"crf": "26", "g": "30"})
    unlike_all = 255 - moving_square(30, seed=50)
    others = np.concatenate([b[:30], unlike_all])
    write_video(folder / "compilation.mp4", others, options={"crf": "20"})
    for i in range(6):
        write_video(folder / f"z_{i}.mp4", moving_square(40 + 7 * i, seed=10 + i))
    return folder


def make(source: Path, shards: Path) -> None:
    make_shard_set(CFG, source, shards)
    shutil.copy(shards / "totals.json", shards / "summary.json")


def make_latents(shards: Path, folder: Path) -> None:
    """Latents that name their clip and frame: the first column is a number of the clip."""
    folder.mkdir(parents=True)
    names = [row["shard"] for row in table(shards, "manifest")]
    for name in names:
        entry = strict_json.read(ShardEntry, str(shards / entry_name(name)))
        scratch = folder / "scratch"
        scratch.mkdir()
        writer = LatentShardWriter(scratch, name, 2, 1)
        for number, clip in enumerate(entry.clips):
            if number == 1:
                writer.reject(clip.clip_id, "video", "damaged", "for the test")
                continue
            rows = np.arange(clip.num_frames - 1, dtype=np.float32)
            first = np.full_like(rows, number_of(clip.clip_id))
            writer.add(clip.clip_id, "video", np.stack([first, rows], axis=1))
        made = writer.close()
        shutil.move(writer.path, folder / made.file)
        strict_json.write(str(folder / entry_name(name)), made)
        shutil.rmtree(scratch)
    sha256 = shards_sha256(str(shards))
    totals = write_tables(str(folder), names)
    spec = LatentSet(lam_sha256="lam", shards_sha256=sha256, **totals)
    strict_json.write(str(folder / "latent_set.json"), spec)
    (folder / "summary.json").write_text(json.dumps(asdict(spec) | {"wall_s": 1.0}))
    begun = {"identity": {}, "inputs": {"shards": sha256}}
    (folder / "provenance.json").write_text(json.dumps(begun))


def number_of(clip_id: str) -> int:
    return int(clip_id[:2], 16)  # float16 holds it exactly


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    make(source, run / "shards/videos")
    make_latents(run / "shards/videos", run / "latents/videos")
    (run / "latents/unfinished").mkdir()
    text = (run / "latents/videos/provenance.json").read_text()
    (run / "latents/unfinished/provenance.json").write_text(text)
    return run


@pytest.fixture
def run(whole, tmp_path) -> Path:
    return shutil.copytree(whole, tmp_path / "run")


def table(folder, name: str) -> list[dict]:
    with storage.local_file(storage.join(str(folder), table_file(name))) as path:
        return pq.read_table(path).to_pylist()


def check_readable(run) -> dict[str, bytes]:
    """What a reader gets at this moment: clip id -> its stored video. All of it must be sound."""
    shards, clips = storage.join(str(run), "shards/videos"), {}
    rows = {row["clip_id"] for row in table(shards, "clips")}
    spec = json.loads(storage.read_text(storage.join(shards, "shard_set.json")))
    latents = storage.join(str(run), "latents/videos")
    for shard in table(shards, "manifest"):
        name = shard["shard"]
        entry = strict_json.read(ShardEntry, storage.join(shards, entry_name(name)))
        data = storage.read_bytes(storage.join(shards, name))
        assert hashlib.sha256(data).hexdigest() == shard["sha256"] == entry.sha256
        assert (len(data), len(entry.clips)) == (shard["num_bytes"], shard["num_clips"])
        reader = LatentReader(latents)
        for number, clip in enumerate(entry.clips):
            video = data[clip.video_offset : clip.video_offset + clip.video_bytes]
            clips[clip.clip_id] = video
            assert clip.num_frames <= spec["max_clip_frames"]
            if video not in SEEN:
                SEEN.add(video)
                assert len(decode_clip(video)) == clip.num_frames
            check_latents(reader, name, clip, may_be_missing=number <= 1)
    assert set(clips) <= rows
    return clips


SEEN: set[bytes] = set()
"""Videos that were decoded already: it is slow."""


def check_latents(reader, shard, clip, may_be_missing) -> None:
    try:
        latents = reader.read(shard, clip)
    except RuntimeError:
        assert may_be_missing
        return
    frames = np.arange(clip.num_frames - 1)
    np.testing.assert_array_equal(latents[:-1, 1], frames)
    assert (latents[:-1, 0] == number_of(clip.clip_id)).all()


def of(name: str, source: Path) -> TakedownConfig:
    return TakedownConfig(output="set by the test", video_uri=str(source / name))


def state(run: Path) -> dict[str, str]:
    """Every file's hash, without the time of the takedown."""
    digests = {}
    for path in sorted(path for path in run.rglob("*") if path.is_file()):
        data = path.read_bytes()
        if path.name == "takedowns.jsonl":
            rows = [json.loads(line) | {"taken_down_at": ""} for line in data.splitlines()]
            data = json.dumps(rows).encode()
        digests[str(path.relative_to(run))] = hashlib.sha256(data).hexdigest()
    return digests


def signatures_in(shards: Path) -> dict[str, bytes]:
    """Signatures of all shards that the manifest names, by clip."""
    names = [signatures_name(row["shard"]) for row in table(shards, "manifest")]
    assert {path.name for path in shards.glob("*.signatures.parquet")} == set(names)
    rows = [row for name in names for row in pq.read_table(shards / name).to_pylist()]
    return {row["clip_id"]: row["signature"] for row in rows}


def names_in(rows) -> set[str]:
    return {Path(row["video_uri"]).name for row in rows}


def test_the_source_holds_every_kind_of_copy(whole):
    rejects = table(whole / "shards/videos", "rejects")
    reasons = {(Path(row["video_uri"]).name, row["reason"]) for row in rejects}
    assert ("copy.mp4", "same_file") in reasons
    assert ("encoded_again.mkv", "near_duplicate") in reasons
    assert ("compilation.mp4", "near_duplicate") in reasons
    assert "compilation.mp4" in names_in(table(whole / "shards/videos", "clips"))
    assert len(table(whole / "shards/videos", "manifest")) >= 4


@pytest.mark.parametrize("name", ["b.mp4", "copy.mp4", "encoded_again.mkv"])
def test_all_that_looks_like_the_video_goes_and_nothing_else(run, whole, source, name):
    before = check_readable(run)
    owner = {row["clip_id"]: row["video_uri"] for row in table(whole / "shards/videos", "clips")}
    take_down(replace(of(name, source), output=str(run)), is_dry_run=False)
    after = check_readable(run)
    gone = {clip_id for clip_id in before if owner[clip_id] == str(source / "b.mp4")}
    assert len(gone) == 2
    assert after == {clip_id: data for clip_id, data in before.items() if clip_id not in gone}
    shards = run / "shards/videos"
    assert {row["clip_id"] for row in table(shards, "clips")} == set(after)
    assert not names_in(table(shards, "clips")) & {"b.mp4", "copy.mp4", "encoded_again.mkv"}
    # That the copy is one of b stays on record where another video was named.
    same_files = set() if name != "encoded_again.mkv" else {"copy.mp4"}
    assert names_in(table(shards, "rejects")) & {"b.mp4", "copy.mp4"} == same_files
    (record,) = read_takedowns(str(shards))
    known = {*record.video_uris, *(uri for uri, _, _ in record.spans)}
    copies = {"b.mp4", "copy.mp4", "encoded_again.mkv", "compilation.mp4"}
    assert {Path(uri).name for uri in known} == copies
    assert "compilation.mp4" in names_in(table(shards, "clips"))
    pictures = signatures_in(whole / "shards/videos")
    assert set(pictures) == set(before) and signatures_in(shards).keys() == set(after)
    for path in (path for path in shards.rglob("*") if path.is_file()):
        data = path.read_bytes()
        if path.suffix == ".tar":
            assert not any(clip_id.encode() in data for clip_id in gone)
        assert not any(pictures[clip_id][-64:] in data for clip_id in gone)
    summary = json.loads((shards / "summary.json").read_text())
    check_totals(summary)
    spec = json.loads((shards / "shard_set.json").read_text())
    assert sum(spec["num_clips"].values()) == summary["num_clips"] == len(after)
    assert summary["num_rejects"] == len(table(shards, "rejects"))
    assert summary["num_shards"] == len(list(shards.glob("*.tar")))
    left = len({owner[clip_id] for clip_id in after})
    assert summary["num_videos_with_clips"] == left


def test_latents_made_from_it_go_too(run, source):
    take_down(replace(of("b.mp4", source), output=str(run)), is_dry_run=False)
    check_readable(run)
    shards, latents = run / "shards/videos", run / "latents/videos"
    spec = LatentSet(**json.loads((latents / "latent_set.json").read_text()))
    assert spec.shards_sha256 == shards_sha256(str(shards))
    begun = json.loads((latents / "provenance.json").read_text())
    assert begun == {"identity": {}, "inputs": {"shards": spec.shards_sha256}}
    kept = {row["clip_id"] for row in table(latents, "latents")}
    assert kept | {row["clip_id"] for row in table(latents, "rejects")} == {
        row["clip_id"] for row in table(shards, "clips")
    }
    assert spec.num_clips == len(kept)
    assert len(list(latents.glob("*.npy"))) == len(list(shards.glob("*.tar")))
    assert not (run / "latents/unfinished").exists()


@pytest.mark.parametrize("is_study", [False, True])
def test_no_file_of_a_run_or_a_study_holds_its_clips(whole, source, tmp_path, is_study):
    home = tmp_path / "home"
    folder, key = (home / "stages", "0a1b") if is_study else (home, "")
    shards, latents = folder / "shards/videos" / key, folder / "latents/videos" / key
    shutil.copytree(whole / "shards/videos", shards)
    shutil.copytree(whole / "latents/videos", latents)
    clips = stored_clips(shards)
    pages = ["report.html", "runs/a/report.html"] if is_study else ["report.html"]
    stage = f"stages/{{}}/{key}" if is_study else "{}"
    pages += [f"{stage.format('evaluation')}/latent_views/pairs/0.png"]
    pages += [
        f"{stage.format('lam_evaluation')}/{name}" for name in ("report.html", "transfer.png")
    ]
    results = home / stage.format("evaluation") / "results.parquet"
    for page in (*pages, results):
        (home / page).parent.mkdir(parents=True, exist_ok=True)
        (home / page).write_bytes(b"".join(clips.values()) if page != results else b"kept")
    lines = take_down(replace(of("b.mp4", source), output=str(home)), is_dry_run=False)
    assert all(any(line.endswith(page) for line in lines) for page in pages if "views" not in page)
    gone = clips.keys() - stored_clips(shards).keys()
    assert len(gone) > 1
    assert not gone & {row["clip_id"] for row in table(latents, "latents")}
    for path in (path for path in home.rglob("*") if path.is_file()):
        data = path.read_bytes()
        assert not any(clips[clip_id] in data for clip_id in gone), path
    assert results.read_bytes() == b"kept"
    assert read_takedowns(str(shards)) and (home / "takedowns.jsonl").is_file()


def test_a_file_of_clips_without_the_video_is_not_written_again(run, source):
    shards = run / "shards/videos"
    num_files = divide(shards, 3)

    def files() -> dict[str, tuple[int, set[str]]]:
        return {
            path.name: (path.stat().st_ino, names_in(pq.read_table(path).to_pylist()))
            for path in (shards / "clips").iterdir()
        }

    before = files()
    take_down(replace(of("b.mp4", source), output=str(run)), is_dry_run=False)
    after, has_clips_beside = files(), 0
    assert len(after) == open_shard_set(str(shards)).num_clip_files == num_files > 2
    for name, (inode, names) in before.items():
        has_clips_beside += "b.mp4" not in names and after[name] == (inode, names)
        assert after[name][1] == names - {"b.mp4"}
    assert has_clips_beside


def stored_clips(shards: Path) -> dict[str, bytes]:
    found = {}
    for row in table(shards, "manifest"):
        data = (shards / row["shard"]).read_bytes()
        for clip in strict_json.read(ShardEntry, str(shards / entry_name(row["shard"]))).clips:
            found[clip.clip_id] = data[clip.video_offset : clip.video_offset + clip.video_bytes]
    return found


def test_a_run_of_a_study_is_refused_by_the_name_of_the_study(tmp_path, source):
    run = tmp_path / "mine/runs/seed_0"
    run.mkdir(parents=True)
    (run / "stages.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"is a run of a study.*folder of the study, .*mine\."):
        take_down(replace(of("b.mp4", source), output=str(run)), is_dry_run=True)


def test_by_its_id_and_on_s3_it_is_the_same(run, whole, source, s3_bucket):
    video_id = next(
        row["video_id"]
        for row in table(whole / "shards/videos", "clips")
        if row["video_uri"].endswith("/b.mp4")
    )
    take_down(TakedownConfig(output=str(run), video_id=video_id), is_dry_run=False)
    uri = storage.join(s3_bucket, "runs/mine")
    for path in whole.rglob("*"):
        if path.is_file():
            storage.write_bytes(storage.join(uri, str(path.relative_to(whole))), path.read_bytes())
    take_down(replace(of("b.mp4", source), output=uri), is_dry_run=False)
    assert check_readable(uri) == check_readable(run)
    there = {info.uri.removeprefix(uri + "/") for info in storage.list_files(uri)}
    assert there == set(state(run))


def test_a_dry_run_says_what_would_go_and_writes_nothing(run, source):
    before = state(run)
    lines = take_down(replace(of("b.mp4", source), output=str(run)), is_dry_run=True)
    assert state(run) == before
    text = "\n".join(lines)
    for part in ("copy.mp4", "2 clips of 6.0 s", "near-duplicate spans in", "latents/videos"):
        assert part in text


class Killed(BaseException):
    """Nothing catches it, so nothing is tidied up after it."""


def kill_at(number: int, cfg: TakedownConfig) -> bool:
    """Runs a takedown that ends before its n-th write. Returns whether it came so far."""
    num_writes = 0

    def counted(function):
        def write(*args, **kwargs):
            nonlocal num_writes
            num_writes += 1
            if num_writes == number:
                raise Killed
            return function(*args, **kwargs)

        return write

    with pytest.MonkeyPatch.context() as patch:
        for name in ("write_bytes", "upload", "delete", "delete_folder"):
            patch.setattr(storage, name, counted(getattr(storage, name)))
        try:
            take_down(cfg, is_dry_run=False)
        except Killed:
            return True
    return False


def test_killed_before_any_write_it_comes_to_the_same_and_readers_never_see_a_broken_set(
    run, whole, source, tmp_path
):
    before = check_readable(whole)
    take_down(replace(of("b.mp4", source), output=str(run)), is_dry_run=False)
    expected, after = state(run), check_readable(run)
    number = 0
    while True:
        number += 1
        other = shutil.copytree(whole, tmp_path / f"other/{number}/run")
        cfg = replace(of("b.mp4", source), output=str(other))
        if not kill_at(number, cfg):
            break
        assert check_readable(other) in (before, after)
        kill_at(number // 2 + 1, cfg)  # and a second time, somewhere else
        assert check_readable(other) in (before, after)
        try:
            take_down(cfg, is_dry_run=False)
        except ConfigError:
            raise AssertionError(f"killed at write {number}") from None
        assert state(other) == expected, f"killed at write {number}"
        shutil.rmtree(other)
    assert number > 15


def test_killed_between_two_sets_it_still_follows_rejects_from_one_to_the_other(source, tmp_path):
    for name, files in {
        "first": ("b.mp4", "z_0.mp4"),
        "again": ("encoded_again.mkv", "z_1.mp4"),
    }.items():
        (tmp_path / name).mkdir()
        for file in files:
            shutil.copy(source / file, tmp_path / name)
    whole = tmp_path / "whole/run"
    first = whole / "shards/first"
    make(tmp_path / "first", first)
    # Its name comes before the other's, so it is changed before it.
    cfg = replace(CFG, filters=replace(CFG.filters, against=(str(first),)))
    make_shard_set(cfg, tmp_path / "again", whole / "shards/again")
    assert "encoded_again.mkv" not in names_in(table(whole / "shards/again", "clips"))
    expected, number = None, 0
    while True:
        run = shutil.copytree(whole, tmp_path / f"{number}/run")
        video = replace(of("encoded_again.mkv", tmp_path / "again"), output=str(run))
        was_killed = number > 0 and kill_at(number, video)
        take_down(video, is_dry_run=False)
        assert names_in(table(run / "shards/first", "clips")) == {"z_0.mp4"}, number
        expected = expected or state(run)
        assert state(run) == expected, f"killed at write {number}"
        if number and not was_killed:
            break
        number += 3  # often enough to end before and after each set's journal
    assert number > 15


def test_the_same_takedown_again_changes_nothing_and_another_goes_on_from_there(run, source):
    take_down(replace(of("b.mp4", source), output=str(run)), is_dry_run=False)
    once = state(run)
    (line,) = take_down(replace(of("copy.mp4", source), output=str(run)), is_dry_run=False)
    assert "taken down already" in line
    assert state(run) == once
    for number in range(6):
        video = of(f"z_{number}.mp4", source)
        take_down(replace(video, output=str(run)), is_dry_run=False)
        clips = check_readable(run)
    assert names_in(table(run / "shards/videos", "clips")) == {"compilation.mp4"}
    assert len(clips) == 1
    compilation = replace(of("compilation.mp4", source), output=str(run / "shards/videos"))
    take_down(compilation, is_dry_run=False)
    assert check_readable_shards_are_gone(run)
    with pytest.raises(ConfigError, match=r"No clips in .*: all of its videos were taken down"):
        label_latents(LabelLatentsConfig(), str(run / "shards/videos"), "no lam", "no folder")
    assert len(read_takedowns(str(run / "shards/videos"))) == 8


def check_readable_shards_are_gone(run: Path) -> bool:
    shards = run / "shards/videos"
    assert table(shards, "manifest") == table(shards, "clips") == []
    return not list(shards.glob("*.tar")) and not (run / "latents/videos").exists()


def test_what_was_taken_down_does_not_come_back(run, source):
    shards = run / "shards/videos"
    take_down(replace(of("b.mp4", source), output=str(run)), is_dry_run=False)
    left = {row["clip_id"] for row in table(shards, "clips")}
    shutil.rmtree(shards)
    make(source, shards)
    assert {row["clip_id"] for row in table(shards, "clips")} == left
    rejects = {
        Path(row["video_uri"]).name
        for row in table(shards, "rejects")
        if row["reason"] == "taken_down"
    }
    assert rejects == {"b.mp4", "copy.mp4", "encoded_again.mkv", "compilation.mp4"}


def test_the_record_outlives_the_set():
    assert record_uri("s3://b/runs/mine/shards/videos") == "s3://b/runs/mine/takedowns.jsonl"
    assert record_uri("/data/set") == "/data/set/takedowns.jsonl"


def test_what_is_not_there_is_a_config_error(run, tmp_path):
    with pytest.raises(ConfigError, match=r"Nothing of x\.mp4 is in"):
        take_down(TakedownConfig(output=str(run), video_uri="x.mp4"), is_dry_run=False)
    with pytest.raises(ConfigError, match="No shard set at"):
        take_down(TakedownConfig(output=str(tmp_path / "no"), video_id="0"), is_dry_run=False)
    (run / "shards/videos/shard_set.json").unlink()
    with pytest.raises(ConfigError, match=r"shard_set.json is missing"):
        take_down(TakedownConfig(output=str(run), video_id="0"), is_dry_run=False)


def test_an_address_that_means_several_videos_without_its_token_is_refused(tmp_path):
    uri = write_shard_set(tmp_path / "set", num_clips=4)
    write_reject_rows(uri, [])
    names = iter(["https://h/get", "https://h/get#@2", "https://h/other", "https://h/more"])

    def renamed(batch):
        at = batch.schema.get_field_index("video_uri")
        return batch.set_column(at, "video_uri", pa.array([next(names) for _ in range(len(batch))]))

    rewrite_table(f"{uri}/clips/part-00000.parquet", renamed)
    with pytest.raises(ConfigError, match=r"several videos in .* the address https://h/get when"):
        take_down(TakedownConfig(output=uri, video_uri="https://h/get?token=b"), is_dry_run=True)
    for name in ("https://h/get#@2", "https://h/other?token=c"):
        lines = take_down(TakedownConfig(output=uri, video_uri=name), is_dry_run=True)
        assert lines[0] == without_secrets(name)


def test_the_command_line_says_what_it_leaves_as_it_is(run, source, monkeypatch, capsys):
    (run / "lam").mkdir()
    command = ["takedown", f"output={run}", f"video_uri={source / 'b.mp4'}"]
    monkeypatch.setattr("sys.argv", command)
    command_line.main()
    said = capsys.readouterr().out
    assert said.startswith("taken down:") and f"left as it is: {run}/lam" in said
    check_readable(run)


FOLDERS = ["", "shards/videos", "latents/videos", "latents/unfinished"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_that_a_living_job_owns_is_not_rewritten(run, source, folder, monkeypatch, capsys):
    if folder == "shards/videos":  # the job has not finished it
        (run / folder / "shard_set.json").unlink()
    before = state(run)
    arguments = [f"output={run}", f"video_uri={source / 'b.mp4'}"]
    monkeypatch.setattr(sys, "argv", ["takedown", *arguments])
    with owned(storage.join(str(run), folder).rstrip("/"), "raysubmit_7", print):
        with pytest.raises(SystemExit, match="1"):
            command_line.main()
        said = capsys.readouterr().err
        for part in (str(run / folder), f"process {os.getpid()} on", "Ray job raysubmit_7, since"):
            assert part in said
        assert said.count("\n") == 1
        if folder != "shards/videos":
            cfg = replace(of("b.mp4", source), output=str(run))
            assert take_down(cfg, is_dry_run=True)  # it writes nothing
    assert state(run) == before


def test_a_set_alone_is_claimed_too(run, source):
    shards = shutil.copytree(run / "shards/videos", run.parent / "alone")
    cfg = replace(of("b.mp4", source), output=f"{shards}/")
    with owned(str(shards), None, print), pytest.raises(InUseError, match="alone is in use by"):
        take_down(cfg, is_dry_run=False)
    take_down(cfg, is_dry_run=False)
    assert not (shards / lease.FILE).exists()


def test_what_a_living_takedown_rewrites_is_refused_to_jobs_and_free_again_afterwards(
    run, source, monkeypatch
):
    refused = []

    def try_to_own(*args):
        for folder in FOLDERS:
            with pytest.raises(InUseError), owned(str(run / folder), None, print):
                pass
            refused.append(folder)
        apply(*args)
        time.sleep(0.2)  # claims are renewed, of a folder that is deleted by now too

    monkeypatch.setattr(job, "apply", try_to_own)
    monkeypatch.setattr(lease, "RENEWED_EVERY_S", 0.01)
    take_down(replace(of("b.mp4", source), output=str(run)), is_dry_run=False)
    assert refused == FOLDERS
    assert not list(run.rglob(lease.FILE)) and not (run / "latents/unfinished").exists()


def actions_of(uri: str, clip_ids: set[str]) -> ActionStatistics:
    """Over the pairs of some training clips."""
    statistics = ActionStatistics()
    for path in sorted(Path(uri).glob("train-*.json")):
        entry = strict_json.read(ShardEntry, str(path))
        data = path.with_suffix(".tar").read_bytes()
        for clip in entry.clips:
            if clip.clip_id in clip_ids:
                arrays = data[clip.labels_offset : clip.labels_offset + clip.labels_bytes]
                statistics.add(label_sums(Labels.from_bytes(arrays).true_action[:-1]))
    return statistics


@pytest.mark.parametrize("is_bounded", [False, True])
def test_action_statistics_are_those_of_the_clips_that_are_left(tmp_path, is_bounded):
    uri = write_shard_set(tmp_path / "set", num_clips=6, has_labels=True, num_val_clips=1)
    with open_table(storage.join(uri, "rejects.parquet"), RejectRow):
        pass
    rows = table(uri, "clips")
    train = {row["clip_id"] for row in rows if row["split"] == "train"}
    before = actions_of(uri, train).per_dimension()
    bounds = {"low": [-9.0, -9.0], "high": [9.0, 9.0]}
    if not is_bounded:
        bounds = {"low": before["min"], "high": before["max"]}
    spec = open_shard_set(uri)
    spec = replace(spec, action=spec.action | before | bounds)
    strict_json.write(str(tmp_path / "set/shard_set.json"), spec)
    take_down(TakedownConfig(output=uri, video_uri="synthetic/1.mp4"), is_dry_run=False)
    left = train - {row["clip_id"] for row in rows if row["video_uri"] == "synthetic/1.mp4"}
    expected, after = actions_of(uri, left).per_dimension(), open_shard_set(uri).action
    assert {name: after[name] for name in expected} == expected
    assert after["mean"] != before["mean"]
    assert after["low"] == (bounds["low"] if is_bounded else expected["min"])
    assert after["dim"] == 2


def test_masks_are_counted_anew(tmp_path):
    clips = [
        SyntheticClip(
            frames=np.zeros((6, 16, 16, 3), np.uint8),
            true_action=None,
            split="val" if number == 5 else "train",
            mask=np.zeros((6, 16, 2), np.uint8) if number in (0, 1, 5) else None,
        )
        for number in range(6)
    ]
    uri = write_clips(tmp_path / "set", clips, 2, seed=0, max_action=1.0)
    with open_table(storage.join(uri, "rejects.parquet"), RejectRow):
        pass
    assert open_shard_set(uri).num_masked_clips == {"train": 2, "val": 1}
    take_down(TakedownConfig(output=uri, video_uri="synthetic/1.mp4"), is_dry_run=False)
    assert open_shard_set(uri).num_masked_clips == {"train": 1, "val": 1}


@pytest.mark.parametrize("has_labels", [False, True])
def test_a_shard_without_clips_is_as_if_written_without_them(tmp_path, has_labels):
    uri = write_shard_set(tmp_path / "set", num_clips=4, has_labels=has_labels)
    shard = tmp_path / "set/train-000000.tar"
    entry = strict_json.read(ShardEntry, str(tmp_path / "set/train-000000.json"))
    gone = {entry.clips[0].clip_id, entry.clips[2].clip_id}
    made = drop_clips(shard, entry, gone, "train-000000-x.tar", tmp_path / "out.tar")
    writer = ShardWriter(tmp_path / "expected.tar")
    records = {r.clip_id: r for r in read_records(shard)}
    data = shard.read_bytes()
    for clip in (entry.clips[1], entry.clips[3]):
        video = data[clip.video_offset : clip.video_offset + clip.video_bytes]
        arrays = data[clip.labels_offset : clip.labels_offset + clip.labels_bytes]
        labels = Labels.from_bytes(arrays) if has_labels else None
        writer.add(records[clip.clip_id], video, labels)
    writer.close()
    assert (tmp_path / "out.tar").read_bytes() == (tmp_path / "expected.tar").read_bytes()
    assert made.clips == tuple(writer.clips)
    assert uri == str(tmp_path / "set")
