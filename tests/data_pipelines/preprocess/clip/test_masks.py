"""Masks of the agent, a yellow square, from the source to the shard."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
from PIL import Image

from data_pipelines.preprocess.clip.labels.read import LabelsConfig
from data_pipelines.preprocess.clip.masks import MasksConfig
from data_pipelines.preprocess.clip.resize import ResizeConfig
from data_pipelines.preprocess.clip.split_clips import ClipConfig
from data_pipelines.preprocess.clip.video_to_clips import item_videos, video_to_clips
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.job import list_inputs, preprocess
from data_pipelines.preprocess.rejects import RejectRow
from data_pipelines.preprocess.rows import EncodedClip, LongVideo, VideoRow
from data_pipelines.preprocess.sources.masks import found_masks
from lafp.config import ConfigError, config_from_dict
from lafp.data.shards.sets import open_shard_set
from lafp.runs.run_dir import RunDir
from lafp.storage.tables import read_rows
from lafp.train.tasks.lam import LamTask, TrainLamConfig
from lafp.video import VIDEO_DECODERS, EncodeConfig, decode_clip
from lafp.video.decoders.base import VideoError
from lafp.video.decoders.pyav import PyAVConfig
from ray_jobs.core.cluster import start_local
from ray_jobs.preprocess import resolve
from tests.synthetic_video import write_video

EXACT = EncodeConfig(crf=0, pixel_format="yuv444p")
SIDE_PX = 45
LOSSLESS = {"options": {"crf": "0", "g": "5"}, "pixel_format": "yuv444p"}
# 3 pixels become one, so that no share of a pixel is a half.
HEIGHT_PX, WIDTH_PX = 192, 288


def square(num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """A yellow square that jumps over blue, and its mask in white, uint8 [T, H, W, 3] each."""
    rng = np.random.default_rng(0)
    frames = np.zeros((num_frames, HEIGHT_PX, WIDTH_PX, 3), np.uint8)
    frames[..., 2] = rng.integers(0, 255, (num_frames, 1, 1))
    masks = np.zeros_like(frames)
    for frame, mask in zip(frames, masks, strict=True):
        y, x = rng.integers(0, [HEIGHT_PX - SIDE_PX, WIDTH_PX - SIDE_PX])
        frame[y : y + SIDE_PX, x : x + SIDE_PX] = 255, 240, 20
        mask[y : y + SIDE_PX, x : x + SIDE_PX] = 255
    return frames, masks


def write_source(folder: Path, num_frames: int = 50, fps: float = 25.0) -> tuple[Path, Path]:
    """A source with ``deep/a.mp4``, and its masks as a video."""
    frames, masks = square(num_frames)
    for name, shown in (("source", frames), ("masks", masks)):
        (folder / name / "deep").mkdir(parents=True)
        write_video(folder / name / "deep/a.mp4", shown, fps, **LOSSLESS)
    return folder / "source", folder / "masks"


def as_pictures(masks: Path, num_frames: int) -> Path:
    """Replaces the mask video by pictures."""
    (masks / "deep/a.mp4").unlink()
    folder = masks / "deep/a"
    folder.mkdir()
    for number, pixels in enumerate(square(num_frames)[1]):
        Image.fromarray(pixels[..., 0]).save(folder / f"{number}.png")
    return folder


def config(source: Path, masks: Path, **changes) -> PreprocessConfig:
    settings = {
        "source": str(source),
        "masks": MasksConfig(source=str(masks)),
        "clip": ClipConfig(fps=10.0, max_s=1.0, min_frames=8),
        "resize": ResizeConfig(width_px=64, height_px=64),
        "encode": EXACT,
    }
    return PreprocessConfig(**settings | changes)


def rows_of(cfg: PreprocessConfig, piece: int | None = None) -> list:
    decoder = VIDEO_DECODERS.build(PyAVConfig())
    (item,) = list_inputs(cfg)
    return list(video_to_clips(replace(item, piece=piece), cfg, decoder))


def clips_of(rows: list) -> list[EncodedClip]:
    return [row for row in rows if isinstance(row, EncodedClip)]


def rejects_of(rows: list) -> list[tuple[str, float, float]]:
    found = [row for row in rows if isinstance(row, RejectRow)]
    return [(row.reason, round(row.start_s, 3), round(row.end_s, 3)) for row in found]


def unpacked(clip: EncodedClip) -> np.ndarray:
    """bool [T, H, W]."""
    frames = decode_clip(clip.video)
    bits = np.unpackbits(clip.labels.mask, axis=2)[..., : frames.shape[2]]
    assert clip.labels.mask.shape[:2] == frames.shape[:2] and clip.record.has_mask
    return bits.astype(bool)


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("form", ["video", "pictures"])
@pytest.mark.parametrize("fps", [10.0, 25.0, 40.0])
def test_a_mask_has_the_pixels_that_its_frame_shows(tmp_path, fit, form, fps):
    """At 10 per second frames are left out, at 40 they repeat; clips begin inside of the video."""
    source, masks = write_source(tmp_path)
    if form == "pictures":
        as_pictures(masks, 50)
    size = {"crop": (60, 64), "pad": (96, 80)}[fit]  # both scale by a third
    resize = ResizeConfig(width_px=size[0], height_px=size[1], fit=fit)
    cfg = config(source, masks, resize=resize, clip=ClipConfig(fps=fps, max_s=1.0, min_frames=8))
    clips = clips_of(rows_of(cfg))
    assert len(clips) == 2
    for clip in clips:
        shown = decode_clip(clip.video)[..., 0] > 127
        assert shown.any((1, 2)).mean() > 0.7  # cropping may hide the square
        np.testing.assert_array_equal(unpacked(clip), shown)


def test_pieces_of_a_long_video_have_the_masks_of_the_whole(tmp_path):
    source, masks = write_source(tmp_path, num_frames=90, fps=10.0)
    whole = clips_of(rows_of(config(source, masks)))
    cfg = config(source, masks, piece_s=3.0)
    (item,) = list_inputs(cfg)
    decoder = VIDEO_DECODERS.build(PyAVConfig())
    ((long_video,),) = [list(rows) for rows in item_videos(item, cfg, decoder, may_defer=True)]
    assert isinstance(long_video, LongVideo) and len(long_video.spans_s) == 3
    pieces = [clip for piece in range(3) for clip in clips_of(rows_of(cfg, piece))]
    assert len(pieces) == len(whole) == 9
    for clip, wanted in zip(pieces, whole, strict=True):
        assert clip.record.clip_id == wanted.record.clip_id
        np.testing.assert_array_equal(clip.labels.mask, wanted.labels.mask)


def test_a_video_without_masks_becomes_clips_without(tmp_path):
    source, masks = write_source(tmp_path)
    (masks / "deep/a.mp4").rename(masks / "deep/other.mp4")
    clips = clips_of(rows_of(config(source, masks)))
    assert len(clips) == 2
    assert all(clip.labels is None and not clip.record.has_mask for clip in clips)


def test_masks_of_another_number_or_shape_reject_their_video(tmp_path):
    source, masks = write_source(tmp_path)
    write_video(masks / "deep/a.mp4", square(49)[1], 25)
    assert rejects_of(rows := rows_of(config(source, masks))) == [("masks_mismatch", 0, 2)]
    assert "50 frames, 49 masks" in rows[-1].detail
    write_video(masks / "deep/a.mp4", square(50)[1][:, :, :192], 25)
    assert rejects_of(rows := rows_of(config(source, masks))) == [("masks_mismatch", 0, 2)]
    assert "192x192 px, frames of 288x192" in rows[-1].detail
    write_video(masks / "deep/a.mp4", square(50)[1][:, ::2, ::2], 25)  # smaller masks are scaled
    assert len(clips_of(rows_of(config(source, masks)))) == 2
    (masks / "deep/a.mp4").write_bytes(b"no video")
    assert rejects_of(rows_of(config(source, masks))) == [("bad_masks", 0, 2)]


def test_a_broken_mask_costs_the_clip_that_shows_its_frame(tmp_path):
    source, masks = write_source(tmp_path)
    pictures = as_pictures(masks, 50)
    (pictures / "10.png").write_bytes(b"")
    rows = rows_of(config(source, masks, clip=ClipConfig(fps=25.0, max_s=1.0, min_frames=8)))
    assert rejects_of(rows) == [("bad_masks", 0.0, 1.0)]
    assert "frame 10" in next(row.detail for row in rows if isinstance(row, RejectRow))
    (clip,) = clips_of(rows)
    np.testing.assert_array_equal(unpacked(clip), decode_clip(clip.video)[..., 0] > 127)
    assert [type(row) for row in rows].count(VideoRow) == 1


def test_numbers_of_objects_are_no_masks(tmp_path):
    source, masks = write_source(tmp_path)
    for path in as_pictures(masks, 50).iterdir():
        Image.fromarray(np.array(Image.open(path)) // 255).save(path)
    rows = rows_of(config(source, masks))
    assert {reason for reason, _, _ in rejects_of(rows)} == {"bad_masks"} and not clips_of(rows)
    detail = next(row.detail for row in rows if isinstance(row, RejectRow))
    assert "the brightest pixel of a mask is 1, not white (255) on black" in detail


def test_folders_without_masks_and_sources_that_are_no_videos_are_errors(tmp_path):
    source, masks = write_source(tmp_path)
    with pytest.raises(ConfigError, match=r"no files in .*elsewhere"):
        list(list_inputs(config(source, tmp_path / "elsewhere")))
    np.savez(source / "b.npz", image_0=square(2)[0], action=np.zeros((2, 1), np.float32))
    with pytest.raises(ConfigError, match=r"masks belong to video files, .*b\.npz"):
        list(list_inputs(config(source, masks, labels=LabelsConfig())))
    with pytest.raises(ValueError, match=r"masks\.source"):
        PreprocessConfig(source=str(source), masks=MasksConfig())


@pytest.mark.parametrize("kind", ["glob", "file", "list"])
def test_masks_are_found_beside_sources_of_any_kind(tmp_path, kind):
    source, masks = write_source(tmp_path)
    if kind == "glob":
        source = source / "*/*.mp4"
    elif kind == "file":
        source, masks = source / "deep/a.mp4", masks / "deep"
    else:
        (source / "list.txt").write_text("deep/a.mp4\n")
        source = source / "list.txt"
    (item,) = list_inputs(config(source, masks))
    assert item.masks_uri == str(tmp_path / "masks/deep/a")


def test_masks_that_belong_to_two_videos_are_an_error(tmp_path):
    source, masks = write_source(tmp_path)
    shutil.copytree(source, tmp_path / "other/source")
    elsewhere = tmp_path / "lists"
    elsewhere.mkdir()
    uris = [str(folder / "deep/a.mp4") for folder in (source, tmp_path / "other/source")]
    (elsewhere / "list.txt").write_text("\n".join([*uris, uris[0]]))
    (item, *_) = list_inputs(config(elsewhere / "list.txt", masks))  # no masks of that name
    assert item.masks_uri == str(masks / "a")
    with pytest.raises(ConfigError, match=r"masks/deep/a would .* two videos, .*source/deep/a"):
        list(list_inputs(config(elsewhere / "list.txt", masks / "deep")))
    (tmp_path / "list.txt").write_text("\n".join(uris))
    assert len(list(list_inputs(config(tmp_path / "list.txt", masks)))) == 2
    shutil.copy(source / "deep/a.mp4", source / "deep/a.mkv")
    with pytest.raises(ConfigError, match=r"two videos, .*a\.mkv and .*a\.mp4"):
        list(list_inputs(config(source, masks)))


def test_demonstrations_that_were_collected_without_masks_have_none(tmp_path):
    demonstrations = RunDir(str(tmp_path)).stage("demonstrations")
    demonstrations.begin({}, {})
    demonstrations.finish({})
    (tmp_path / "demonstrations/videos").mkdir()
    cfg = PreprocessConfig(masks=MasksConfig())
    with pytest.raises(ConfigError, match=r"was collected without masks.*draw_masks=true"):
        resolve(cfg, RunDir(str(tmp_path)))
    (tmp_path / "demonstrations/masks/videos").mkdir(parents=True)
    assert resolve(cfg, RunDir(str(tmp_path))).masks.source.endswith("demonstrations/masks/videos")


@pytest.mark.parametrize("form", ["video", "pictures"])
def test_masks_that_are_too_large_are_not_read(tmp_path, form):
    source, masks = write_source(tmp_path)
    if form == "pictures":
        as_pictures(masks, 50)
    cfg = config(source, masks)
    (item,) = list_inputs(cfg)
    files = [masks / "deep/a.mp4"] if form == "video" else (masks / "deep/a").iterdir()
    limits = replace(cfg.limits, max_bytes=sum(file.stat().st_size for file in files) - 1)
    decoder = VIDEO_DECODERS.build(PyAVConfig())
    with (
        found_masks(item, limits, decoder) as opens,
        pytest.raises(VideoError, match=r"the masks have \d+ bytes"),
    ):
        opens(25.0)


@pytest.fixture(scope="module")
def local_ray():
    start_local(2)
    yield
    ray.shutdown()


def lapo(**mask) -> TrainLamConfig:
    objective = {
        "name": "lapo",
        "latent_action_dim": 8,
        "encoder": {"name": "small_cnn", "channels": [8]},
        "fdm": {"channels": [8, 8]},
        "bottleneck": {"name": "none"},
        "mask": mask,
    }
    raw = {"objective": objective, "train": {"num_steps": 1, "global_batch_size": 4}}
    return config_from_dict(TrainLamConfig, raw)


def test_a_set_counts_its_masks_and_a_lam_that_wants_masks_needs_some(local_ray, tmp_path):
    source, masks = write_source(tmp_path)
    write_video(source / "b.mp4", square(60)[0], 25)  # without masks
    out, plain = str(tmp_path / "out"), str(tmp_path / "plain")
    summary = preprocess(config(source, masks, val_fraction=0), out)
    assert (summary["num_clips"], summary["num_masked_clips"]) == (5, 2)
    assert open_shard_set(out).num_masked_clips == {"train": 2}
    rows = read_rows(f"{out}/clips/part-00000.parquet", ["video_uri", "has_mask"])
    assert all(row["has_mask"] == row["video_uri"].endswith("a.mp4") for row in rows)
    LamTask(lapo(), out, None)
    with pytest.raises(ConfigError, match=r"mask\.fraction=0\.0001 keeps no mask"):
        LamTask(lapo(fraction=0.0001), out, None)
    preprocess(replace(config(source, masks, val_fraction=0), masks=None), plain)
    with pytest.raises(ConfigError, match=r"no training clip of .*plain has one\. Preprocess with"):
        LamTask(lapo(), plain, None)
    with pytest.raises(ConfigError, match=r"no video of .* has masks in"):
        (masks / "deep/a.mp4").rename(masks / "deep/c.mp4")
        preprocess(config(source, masks, val_fraction=0), str(tmp_path / "none"))
