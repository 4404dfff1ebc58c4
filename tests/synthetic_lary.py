"""Tables of LARY with their frames: pairs of pictures, and videos of which 9 frames are taken."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from lafp.evaluate.latents.lary_tables import LaryTable
from lafp.video import EncodeConfig, encode_clip
from tests.synthetic_shards import moving_dot

INDICES = (0, 1, 2, 4, 5, 6, 8, 10, 99)
"""The last one lies past the end of the video, where LARY takes the last frame."""


def write_pictures(folder: Path, num_rows: int = 3) -> LaryTable:
    """Writes a table of picture pairs like CALVIN's. The file of its last row is missing."""
    frames, _ = moving_dot(num_rows + 1, seed=3, size_px=16)
    pictures = folder / "val_stride5/images/ep_1"
    pictures.mkdir(parents=True)
    for number, frame in enumerate(frames[:-1]):
        Image.fromarray(frame).save(pictures / f"frame_{5 * number:06d}.png")
    rows = [
        {
            "dataset": "CALVIN",
            "src_img": f"images/ep_1/frame_{5 * n:06d}.png",
            "tgt_img": f"images/ep_1/frame_{5 * n + 5:06d}.png",
            "action": f"actions/ep_1/action_{5 * n:06d}to{5 * n + 4:06d}.npy",
        }
        for n in range(num_rows)
    ]
    table = _write(folder / "calvin_metadata_val.csv", rows)
    return LaryTable(table=table, frames=str(folder / "val_stride5"), model="my-lam")


def write_video(folder: Path) -> tuple[LaryTable, np.ndarray]:
    """Writes a table of one video of 12 frames. Returns the frames too."""
    frames, _ = moving_dot(12, seed=4, size_px=16)
    (folder / "classification").mkdir(parents=True)
    video = encode_clip(frames, 10, EncodeConfig(crf=0, pixel_format="yuv444p"))
    (folder / "classification/a.mp4").write_bytes(video)
    indices = ",".join(map(str, INDICES))
    row = {"video_path": "a.mp4", "sample_indices": indices, "action": "push"}
    table = _write(folder / "robot_1st_metadata_val.csv", [row])
    return LaryTable(table=table, frames=str(folder / "classification"), model="my-lam"), frames


MOTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
"""Classes of actions and what a square of their videos moves per frame, in px down and right."""


def write_motions(folder: Path, split: str, num_per_class: int, seed: int) -> LaryTable:
    """Writes a table of videos of 9 frames, each of a square that moves one way from anywhere."""
    rng, rows = np.random.default_rng(seed), []
    videos = folder / "classification" / split
    videos.mkdir(parents=True)
    for number in range(num_per_class):
        for action, step in MOTIONS.items():
            start, frames = rng.integers(0, 16, 2), np.full((9, 16, 16, 3), 20, np.uint8)
            frames[:, :4, :4] = 220
            for t, frame in enumerate(frames):
                frame[:] = np.roll(frame, tuple(start + t * np.array(step)), (0, 1))
            name = f"{split}/{action}_{number}.mp4"
            encoding = EncodeConfig(crf=0, pixel_format="yuv444p")
            (folder / "classification" / name).write_bytes(encode_clip(frames, 10, encoding))
            indices = ",".join(map(str, range(9)))
            rows.append({"video_path": name, "sample_indices": indices, "action": action})
    table = _write(folder / f"toy_metadata_{split}.csv", rows)
    return LaryTable(table=table, frames=str(folder / "classification"), model="my-lam")


def _write(path: Path, rows: list[dict[str, str]]) -> str:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)
