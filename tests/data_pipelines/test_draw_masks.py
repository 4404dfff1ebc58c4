"""Masks from a tiny segmenter: drawn on a real local Ray, then read by preprocess."""

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray

from data_pipelines.draw_masks import DrawMasksConfig
from data_pipelines.preprocess.clip.probe import LimitsConfig
from data_pipelines.preprocess.rejects import REASONS
from lafp import storage
from lafp.config import ConfigError, load_config
from lafp.data.shards.clip_tables import clip_rows
from lafp.data.shards.format import Labels
from lafp.data.shards.sets import read_shard_entry
from lafp.models.segmenter import SegmenterConfig
from lafp.runs.run_dir import RunDir
from lafp.storage.tables import read_rows
from lafp.video import VIDEO_DECODERS
from lafp.video.decoders.pyav import PyAVConfig
from ray_jobs import draw_masks as job
from ray_jobs import preprocess
from ray_jobs.core.cluster import start_local
from ray_jobs.core.job import dry_run, execute
from tests.synthetic_segmenter import classes_of, write_segmenter
from tests.synthetic_video import moving_square, write_video

HEIGHT, WIDTH, FPS, NUM_FRAMES = 48, 64, 10.0, 40
LOSSLESS = {"options": {"crf": "0", "g": "5"}, "pixel_format": "yuv444p"}
CLASS = 2
DECODER = VIDEO_DECODERS.build(PyAVConfig())


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory) -> Path:
    return write_segmenter(tmp_path_factory.mktemp("segmenter") / "segformer")


@pytest.fixture(scope="module", autouse=True)
def local_ray(s3_server):
    start_local(2)
    yield
    ray.shutdown()


def write(path: Path, seed: int = 0, num_frames: int = NUM_FRAMES, **how) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = moving_square(num_frames, HEIGHT, WIDTH, seed)
    return write_video(path, frames, FPS, **LOSSLESS | how)


def config(source: object, segmenter: Path, **changes) -> DrawMasksConfig:
    chosen = SegmenterConfig(path=str(segmenter), classes=(str(CLASS),))
    return replace(DrawMasksConfig(source=str(source), segmenter=chosen), **changes)


def decoded(path: Path, **size) -> tuple[np.ndarray, np.ndarray]:
    """Frames and times as preprocess decodes them."""
    info = DECODER.probe(str(path), 1 << 24, np.inf)
    width, height = size.get("width", info.width_px), size.get("height", info.height_px)
    frames = [e.pixels() for e in DECODER.frames(str(path), info, width, height, np.inf)]
    assert len(frames) == len(info.times_s)
    return np.stack(frames), np.append(info.times_s, info.duration_s)


def clips_in(shards: Path) -> list[tuple[str, float, np.ndarray]]:
    """URI of the video, start and masks, bool [T, H, W], of each clip with masks."""
    columns = ["clip_id", "video_uri", "start_s", "width_px", "has_mask"]
    rows = {row["clip_id"]: row for row in clip_rows(str(shards), columns)}
    found = []
    for tar in shards.glob("*.tar"):
        data = tar.read_bytes()
        for clip in read_shard_entry(str(shards), tar.name).clips:
            row = rows[clip.clip_id]
            if row["has_mask"]:
                labels = Labels.from_bytes(data[clip.labels_offset :][: clip.labels_bytes])
                bits = np.unpackbits(labels.mask, axis=2)[..., : row["width_px"]]
                found.append((row["video_uri"], row["start_s"], bits.astype(bool)))
    return found


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, segmenter):
    """A run with masks of a folder in which one file is broken and one no video."""
    folder = tmp_path_factory.mktemp("draw")
    source = folder / "source"
    write(source / "a.mp4")
    write(source / "deep/b.b.mkv", seed=1)
    (source / "deep/broken.mp4").write_bytes((source / "a.mp4").read_bytes()[:300])
    (source / "notes.txt").write_text("no video")
    run = RunDir(str(folder / "run"))
    cfg = config(source, segmenter)
    return cfg, run, execute(job.JOB, cfg, run)


def test_masks_have_the_frames_and_times_of_their_videos_and_the_model_s_pixels(drawn, segmenter):
    cfg, run, _ = drawn
    masks = Path(run.stage("masks/videos").path("mask_videos"))
    names = {str(path.relative_to(masks)) for path in masks.rglob("*") if path.is_file()}
    assert names == {"a.mp4", "deep/b.b.mp4"}
    for video, mask in (("a.mp4", "a.mp4"), ("deep/b.b.mkv", "deep/b.b.mp4")):
        frames, times_s = decoded(Path(cfg.source) / video)
        pixels, mask_times_s = decoded(masks / mask)
        wanted = classes_of(segmenter, "segformer", frames) == CLASS
        assert 0.02 < wanted.mean() < 0.98
        np.testing.assert_array_equal(pixels, np.repeat(255 * wanted[..., None], 3, axis=3))
        np.testing.assert_allclose(mask_times_s, times_s, atol=1e-3)


def test_preprocess_puts_the_model_s_masks_into_shards(drawn, segmenter):
    """By the command that the job suggests, with clips that have the size and rate of the video."""
    cfg, run, _ = drawn
    (command,) = job.JOB.next_steps(cfg, run)
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "ray_jobs.preprocess"]
    kept = [
        f"resize={{width_px: {WIDTH}, height_px: {HEIGHT}}}",
        "clip={fps: 10, max_s: 2, min_frames: 8, shots: null, max_frozen_s: null}",
        "filters={}",
        "max_reject_fraction=1",
    ]
    overrides = [*words[4 : words.index("--run-name")], *kept]
    made = load_config(preprocess.JOB.schema, words[3], overrides)
    summary = execute(preprocess.JOB, made, run)
    assert summary["num_masked_clips"] == summary["num_clips"] == 4
    for uri, start_s, masks in clips_in(Path(run.stage("shards/videos").uri)):
        first = round(start_s * FPS)
        frames = decoded(Path(uri))[0][first : first + len(masks)]
        assert len(frames) == 20
        wanted = classes_of(segmenter, "segformer", frames) == CLASS
        np.testing.assert_array_equal(masks, wanted)


def test_a_video_that_is_no_use_is_counted_with_its_reason(drawn):
    cfg, run, summary = drawn
    assert (summary["num_videos"], summary["num_rejected_videos"]) == (2, 1)
    assert summary["num_frames"] == 2 * NUM_FRAMES and sum(summary["rejects"].values()) == 1
    stage = run.stage("masks/videos")
    (reject,) = read_rows(stage.path("rejects.parquet"), ["video_uri", "reason", "detail"])
    assert reject["video_uri"].endswith("deep/broken.mp4") and reject["reason"] in REASONS
    text = "\n".join(job.JOB.tell(cfg, stage, summary))
    assert "Masks of 2 videos (80 frames)" in text and stage.path("mask_videos") in text
    assert "is seen in 100 % of the frames" in text and "Mind: the agent" not in text
    few = "\n".join(job.JOB.tell(cfg, stage, summary | {"num_empty_frames": 60}))
    assert "Mind: the agent covers" in few and "is seen in 25 % of the frames" in few
    assert "1 video without masks" in text and REASONS[reject["reason"]] in text
    assert "1 .txt" in text
    rows = read_rows(stage.path("videos.parquet"), None)
    shares = [row["agent_share"] for row in rows]
    assert summary["agent_share"] == pytest.approx(np.mean(shares)) and min(shares) > 0


def test_only_what_is_missing_is_drawn_again(drawn, tmp_path, segmenter):
    cfg, run, _ = drawn
    stage = run.stage("masks/videos")
    files = {Path(info.uri) for info in storage.list_files(stage.uri)}
    mask = Path(stage.path("mask_videos/a.mp4"))
    (record,) = (path for path in files if path.parent.name == "records" and path.stem == "a")
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in files}
    mask_bytes = mask.read_bytes()
    # As if the job had been killed between the masks of a.mp4 and their record.
    record.unlink()
    Path(stage.path("summary.json")).unlink()
    mask.write_bytes(b"half")
    assert execute(job.JOB, cfg, run)["num_videos"] == 2
    assert mask.read_bytes() == mask_bytes
    same = {p for p in files if (p.stat().st_mtime_ns, p.stat().st_ino) == before[p]}
    others = {p for p in files - same if {"mask_videos", "records"} & {*p.parts}}
    assert others == {mask, record}
    with pytest.raises(ConfigError, match=r"segmenter\.classes"):
        other = replace(cfg.segmenter, classes=("person",))
        execute(job.JOB, replace(cfg, segmenter=other), run)


def test_a_frame_that_does_not_decode_has_the_mask_of_the_one_before(tmp_path, segmenter):
    """So masks and frames stay as many, and preprocess cuts the damaged span out itself."""
    path = write(tmp_path / "source/a.mp4")
    info = DECODER.probe(str(path), 1 << 24, np.inf)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 200] = bytes(200)
    path.write_bytes(data)
    events = list(DECODER.frames(str(path), info, WIDTH, HEIGHT, np.inf))
    sound = [
        np.searchsorted(info.times_s, e.time_s + 1e-5) - 1 for e in events if hasattr(e, "time_s")
    ]
    assert 0 < len(sound) < NUM_FRAMES
    run = RunDir(str(tmp_path / "run"))
    summary = execute(job.JOB, config(path.parent, segmenter), run)
    assert summary["num_frames"] == NUM_FRAMES
    masks, _ = decoded(Path(run.stage("masks/videos").path("mask_videos/a.mp4")))
    for number in range(NUM_FRAMES):
        if number not in sound:
            last = max(n for n in sound if n < number)
            np.testing.assert_array_equal(masks[number], masks[last])


def test_frames_of_varying_length_and_turned_videos_keep_their_masks(tmp_path, segmenter):
    times_s = np.cumsum(np.random.default_rng(0).uniform(0.02, 0.3, NUM_FRAMES)).tolist()
    write(tmp_path / "source/late.mp4", times_s=times_s)
    write(tmp_path / "source/turned.mp4", rotation_deg=90)
    run = RunDir(str(tmp_path / "run"))
    execute(job.JOB, config(tmp_path / "source", segmenter), run)
    masks = Path(run.stage("masks/videos").path("mask_videos"))
    for name, size in (("late", (HEIGHT, WIDTH)), ("turned", (WIDTH, HEIGHT))):
        frames, frame_times_s = decoded(tmp_path / f"source/{name}.mp4")
        pixels, mask_times_s = decoded(masks / f"{name}.mp4")
        assert pixels.shape[1:3] == frames.shape[1:3] == size
        np.testing.assert_allclose(mask_times_s[:-1], frame_times_s[:-1], atol=1e-3)
        wanted = classes_of(segmenter, "segformer", frames) == CLASS
        np.testing.assert_array_equal(pixels[..., 0] > 127, wanted)


def test_large_frames_are_scaled_before_the_segmenter_sees_them(tmp_path, segmenter):
    path = write(tmp_path / "source/a.mp4", num_frames=4)
    run = RunDir(str(tmp_path / "run"))
    execute(job.JOB, config(path, segmenter, max_side_px=33, batch_size=3), run)
    frames, _ = decoded(path, width=33, height=25)
    masks, _ = decoded(Path(run.stage("masks/videos").path("mask_videos/a.mp4")))
    wanted = classes_of(segmenter, "segformer", frames) == CLASS
    np.testing.assert_array_equal(masks[..., 0] > 127, wanted)


def test_videos_and_masks_on_s3(tmp_path, segmenter, s3_bucket):
    path = write(tmp_path / "source/a.mp4")
    storage.write_bytes(f"{s3_bucket}/source/deep/a.mp4", path.read_bytes())
    run = RunDir(f"{s3_bucket}/run")
    summary = execute(job.JOB, config(f"{s3_bucket}/source", segmenter), run)
    assert summary["num_videos"] == 1
    mask = tmp_path / "mask.mp4"
    mask.write_bytes(storage.read_bytes(f"{run.uri}/masks/videos/mask_videos/deep/a.mp4"))
    wanted = classes_of(segmenter, "segformer", decoded(path)[0]) == CLASS
    np.testing.assert_array_equal(decoded(mask)[0][..., 0] > 127, wanted)


def test_a_source_that_gives_no_masks_is_an_error_that_says_why(tmp_path, segmenter):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(ConfigError, match=r"None of 1 videos got masks\..*a\.mp4"):
        execute(job.JOB, config(tmp_path, segmenter), RunDir(str(tmp_path / "run")))


def test_a_video_beyond_a_limit_is_a_reject(tmp_path, segmenter):
    write(tmp_path / "source/a.mp4")
    write(tmp_path / "source/long.mp4", num_frames=50)
    cfg = config(tmp_path / "source", segmenter, limits=LimitsConfig(max_duration_s=4.5))
    assert execute(job.JOB, cfg, RunDir(str(tmp_path / "run")))["rejects"] == {"too_long": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": None}, r"Set source=FOLDER_OR_URI"),
        ({"source": "videos.txt"}, r"videos\.txt is a list"),
        ({"segmenter": SegmenterConfig()}, r"Set segmenter\.path=FOLDER"),
        ({"segmenter": SegmenterConfig(path="/none")}, r"No segmenter at /none"),
    ],
    ids=str,
)
def test_mistakes_are_told_before_the_start(tmp_path, segmenter, changes, message):
    write(tmp_path / "source/a.mp4")
    cfg = replace(config(tmp_path / "source", segmenter), **changes)
    with pytest.raises(ConfigError, match=message):
        dry_run(job.JOB, cfg, RunDir(str(tmp_path / "run")))


def test_two_videos_of_one_name_are_an_error_and_a_dry_run_counts_videos(tmp_path, segmenter):
    write(tmp_path / "source/a.mp4")
    cfg, run = config(tmp_path / "source", segmenter), RunDir(str(tmp_path / "run"))
    assert any(line.startswith("1 video, ") for line in dry_run(job.JOB, cfg, run))
    write(tmp_path / "source/a.mkv")
    with pytest.raises(ConfigError, match=r"a\.mkv and .*a\.mp4 would have the same masks"):
        execute(job.JOB, cfg, run)
