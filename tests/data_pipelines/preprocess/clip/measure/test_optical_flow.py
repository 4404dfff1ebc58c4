"""Optical flow of known translations, and its way through a shard into a window."""

from dataclasses import replace
from itertools import islice

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import torch

from data_pipelines.preprocess.clip.measure.optical_flow import OpticalFlowConfig, optical_flow
from data_pipelines.preprocess.clip.resize import ResizeConfig
from data_pipelines.preprocess.clip.split_clips import ClipConfig
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.job import preprocess
from lafp.config import ConfigError, config_from_dict
from lafp.data.order.clips import ClipOrder
from lafp.data.order.window_draws import WindowConfig
from lafp.data.shards.reader import ClipReader
from lafp.data.windows import cut_windows
from lafp.train.tasks.lam import LamTask, TrainLamConfig
from lafp.types import ClipBatch
from ray_jobs.core.cluster import start_local
from tests.synthetic_video import write_video


def translated(velocity: tuple[float, float], size_px: int, num_frames: int = 3) -> np.ndarray:
    """Smooth texture that moves by ``velocity`` (x, y) pixels per frame."""
    noise = np.random.default_rng(0).normal(size=(2 * size_px, 2 * size_px)).astype(np.float32)
    texture = cv2.GaussianBlur(noise, (0, 0), 3)
    texture = 255 * (texture - texture.min()) / (texture.max() - texture.min())
    frames = []
    for t in range(num_frames):
        shift = np.float32([[1, 0, velocity[0] * t], [0, 1, velocity[1] * t]])
        moved = cv2.warpAffine(texture, shift, texture.shape[::-1])
        middle = slice(size_px // 2, size_px // 2 + size_px)
        frames.append(np.repeat(moved[middle, middle, None], 3, axis=2))
    return np.stack(frames).astype(np.uint8)


@pytest.mark.parametrize("size_px", [24, 64, 128])
@pytest.mark.parametrize("velocity", [(2.0, 0.0), (-1.5, 0.75), (0.0, 0.0)])
def test_a_known_translation_is_found_in_pixels_of_the_frame(velocity, size_px):
    flow = optical_flow(translated(velocity, size_px), OpticalFlowConfig(height_px=8, width_px=12))
    assert flow.shape == (2, 2, 8, 12) and flow.dtype == np.float16
    inner = flow[:, :, 2:-2, 3:-3].astype(np.float32)
    error = np.abs(inner - np.float32(velocity)[None, :, None, None])
    assert error.mean() < 0.1


def test_the_same_frames_give_the_same_bytes():
    frames = translated((1.0, -2.0), 64)
    first, second = (optical_flow(frames, OpticalFlowConfig()) for _ in range(2))
    assert first.tobytes() == second.tobytes()


@pytest.fixture(scope="module")
def local_ray():
    start_local(2)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def shards(local_ray, tmp_path_factory) -> str:
    """Two videos through the real stages: one moves right by 2 px per step, one down by 1."""
    source, out = tmp_path_factory.mktemp("source"), str(tmp_path_factory.mktemp("out"))
    for name, velocity in {"right": (2.0, 0.0), "down": (0.0, 1.0)}.items():
        write_video(source / f"{name}.mp4", translated(velocity, 64, 12), fps=10)
    cfg = PreprocessConfig(
        source=str(source),
        clip=ClipConfig(fps=10.0, min_frames=8),
        resize=ResizeConfig(width_px=64, height_px=64),
        optical_flow=OpticalFlowConfig(height_px=8, width_px=8),
        val_fraction=0.5,
    )
    preprocess(cfg, out)
    return out


def test_flow_goes_through_the_shard_into_windows(shards):
    records = {r["clip_id"]: r for r in pq.read_table(f"{shards}/clips").to_pylist()}
    assert not any(record["has_labels"] for record in records.values())
    means = {}
    for split in ("train", "val"):
        order = ClipOrder(shard_set=shards, split=split, seed=0)
        refs = list(islice(order.visits(), 1))
        arrays = ClipReader(shards).read_batch(refs)
        assert "true_action" not in arrays
        batch = ClipBatch(**{name: torch.from_numpy(array) for name, array in arrays.items()})
        window = cut_windows(batch, WindowConfig(windows_per_clip=5), seed=0)
        assert (
            window.optical_flow.shape == (5, 2, 8, 8) and window.optical_flow.dtype == torch.float32
        )
        name = records[refs[0].location.clip_id]["video_uri"].rpartition("/")[2]
        means[name] = window.optical_flow[:, :, 2:-2, 2:-2].mean((0, 2, 3))
    torch.testing.assert_close(means["right.mp4"], torch.tensor([2.0, 0.0]), atol=0.15, rtol=0)
    torch.testing.assert_close(means["down.mp4"], torch.tensor([0.0, 1.0]), atol=0.15, rtol=0)


def laof(size_px: int) -> TrainLamConfig:
    objective = {
        "name": "laof",
        "latent_action_dim": 8,
        "encoder": {"name": "small_cnn", "channels": [8]},
        "fdm": {"channels": [8, 8]},
        "bottleneck": {"name": "none"},
        "optical_flow_height_px": size_px,
        "optical_flow_width_px": size_px,
    }
    raw = {"objective": objective, "train": {"num_steps": 1, "global_batch_size": 4}}
    return config_from_dict(TrainLamConfig, raw)


def test_a_lam_is_trained_on_optical_flow_of_the_stored_size_only(shards):
    LamTask(laof(8), shards, None)
    with pytest.raises(ConfigError, match=r"wants optical flow of 16x16 px, .* holds one of 8x8"):
        LamTask(laof(16), shards, None)


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="height_px must be at least 2, got 1"):
        replace(OpticalFlowConfig(), height_px=1)
