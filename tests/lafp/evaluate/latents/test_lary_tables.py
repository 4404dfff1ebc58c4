"""The files that LARY's commands read: their names, their arrays, and z in them."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lafp.config import ConfigError, config_from_dict
from lafp.data.windows import pixels_to_float
from lafp.evaluate.latents.config import EvaluateLamConfig
from lafp.evaluate.latents.lary_tables import (
    check_lary_table,
    pair_features,
    read_rows,
    write_lary_tokens,
)
from lafp.lam import load_lam
from lafp.types import Window
from tests.synthetic_lam import write_lam
from tests.synthetic_lary import INDICES, write_pictures, write_video
from tests.synthetic_shards import moving_dot


@pytest.fixture(scope="module")
def lam(tmp_path_factory):
    return load_lam(write_lam(str(tmp_path_factory.mktemp("lam"))))


def latents(lam, frames: np.ndarray) -> np.ndarray:
    obs = pixels_to_float(torch.from_numpy(frames).permute(0, 3, 1, 2))
    return lam.infer_latent_action(obs[:-1], obs[1:]).numpy()


def read_table(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def test_pairs_of_pictures_get_a_token_each_in_the_files_of_lary_s_regression(lam, tmp_path):
    table = write_pictures(tmp_path)
    found = write_lary_tokens(lam, table, str(tmp_path / "out"))
    assert found["table"] == str(tmp_path / "out/data/val_la_calvin_5_my-lam.csv")
    assert (found["num_rows"], found["num_rejects"]) == (2, 1)
    rows, given = read_table(found["table"]), read_table(table.table)
    expected = latents(lam, moving_dot(4, seed=3, size_px=16)[0])
    for number, row in enumerate(rows):
        path = f"calvin/val/my-lam/latent_action_{number:08d}.npz"
        assert row == given[number] | {"la_path": path}
        with np.load(tmp_path / "out/latent_actions" / path) as arrays:
            assert set(arrays) == {"tokens", "indices"}
            assert arrays["tokens"].shape == (1, 4) and arrays["tokens"].dtype == np.float32
            np.testing.assert_allclose(arrays["tokens"][0], expected[number], atol=1e-5)
    (reject,) = read_table(found["table"].replace(".csv", ".rejects.csv"))
    assert reject["tgt_img"].endswith("frame_000015.png") and "No such file" in reject["reason"]


def test_nine_frames_of_a_video_get_eight_tokens(lam, tmp_path):
    table, frames = write_video(tmp_path)
    found = write_lary_tokens(lam, table, str(tmp_path / "out"))
    assert found["table"].endswith("data/val_la_robot_1st_my-lam.csv")  # without a stride
    (row,) = read_table(found["table"])
    assert row["action"] == "push"
    with np.load(tmp_path / "out/latent_actions" / row["la_path"]) as arrays:
        tokens = arrays["tokens"]
    assert tokens.shape == (8, 1, 4)
    expected = latents(lam, frames[[min(index, 11) for index in INDICES]])
    np.testing.assert_allclose(tokens[:, 0], expected, atol=0.02)  # the video is encoded


def test_the_first_frame_fills_the_stacks_before_it_as_in_an_episode(tmp_path):
    lam = load_lam(write_lam(str(tmp_path / "lam"), frame_stack=3))
    table = write_pictures(tmp_path / "pictures")
    write_lary_tokens(lam, table, str(tmp_path / "out"))
    first, second, third, _ = moving_dot(4, seed=3, size_px=16)[0]
    for number, (a, b) in enumerate([(first, second), (second, third)]):
        stacks = [np.concatenate(frames, -1)[None] for frames in ((a, a, a), (a, a, b))]
        path = f"out/latent_actions/calvin/val/my-lam/latent_action_{number:08d}.npz"
        with np.load(tmp_path / path) as arrays:
            expected = latents(lam, np.concatenate(stacks))
            np.testing.assert_allclose(arrays["tokens"], expected, atol=1e-5)


def test_the_frames_of_a_video_are_stacked_in_their_order(tmp_path):
    lam = load_lam(write_lam(str(tmp_path / "lam"), frame_stack=3))
    table, _ = write_video(tmp_path / "video")
    ((row,),) = read_rows(table, lam.obs, [])
    seen = []

    def features_of(window: Window) -> torch.Tensor:
        seen.append(window)
        return lam.infer_latent_action(window.obs, window.next_obs)

    found = pair_features(features_of, [row, row], lam.obs, lam.device)
    frames = row.frames
    padded = np.concatenate([frames[:1], frames[:1], frames])
    stacks = [np.concatenate(padded[i : i + 3], -1) for i in range(9)]
    expected = latents(lam, np.stack(stacks))
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-5)
    np.testing.assert_array_equal(found[0], found[1])
    newest = pixels_to_float(torch.from_numpy(frames).permute(0, 3, 1, 2))
    (window,) = seen
    torch.testing.assert_close(window.obs[:8, -3:], newest[:-1])
    torch.testing.assert_close(window.next_obs[:8, -3:], newest[1:])


def test_a_video_row_without_nine_frames_is_left_out_and_told(lam, tmp_path):
    table, _ = write_video(tmp_path)
    text = Path(table.table).read_text()
    Path(table.table).write_text(text + 'a.mp4,"0,1,2",push\na.mp4\n')
    found = write_lary_tokens(lam, table, str(tmp_path / "out"))
    assert (found["num_rows"], found["num_rejects"]) == (1, 2)
    reasons = [r["reason"] for r in read_table(found["table"].replace(".csv", ".rejects.csv"))]
    assert reasons[0] == "3 sample_indices, expected 9" and "invalid literal" in reasons[1]


def test_an_export_that_cannot_work_is_refused_before_the_start(tmp_path):
    table = write_pictures(tmp_path)
    check_lary_table(table)
    with pytest.raises(ConfigError, match="there is no /nowhere"):
        check_lary_table(replace(table, frames="/nowhere"))
    other = tmp_path / "calvin_metadata_train.csv"
    other.write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match="has the columns a, b; expected src_img and tgt_img, or"):
        check_lary_table(replace(table, table=str(other)))
    with pytest.raises(ValueError, match="two tables have one dataset, split and model"):
        EvaluateLamConfig(lary_tables=(table, replace(table, frames="elsewhere")))
    with pytest.raises(ConfigError, match="is no table of LARY"):
        tables = {"lary_tables": [{"table": "x.csv", "frames": "y"}]}
        config_from_dict(EvaluateLamConfig, tables)
