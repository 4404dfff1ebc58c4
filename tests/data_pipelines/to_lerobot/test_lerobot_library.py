"""LeRobot itself reads the datasets that we write. Skipped where `lerobot` is not installed.

Its pins do not go with ours: it needs an environment of its own, see
tests/data_pipelines/preprocess/sources/lerobot/test_library.py. In it:

    lr/bin/python -m pytest tests/data_pipelines/to_lerobot/test_lerobot_library.py
"""

import numpy as np
import pytest

from tests.data_pipelines.to_lerobot.lerobot_run import clips_of, write_dataset, write_run, z_of

CAMERA = "observation.images.main"


@pytest.fixture(params=[1, 3])
def stack(request):
    return request.param


@pytest.fixture
def lerobot(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return pytest.importorskip("lerobot.datasets.lerobot_dataset")


def test_lerobot_reads_frames_z_actions_and_tasks(tmp_path, lerobot, stack):
    run = write_run(tmp_path / "run", stack)
    write_dataset(run, tmp_path / "set", task="move the dot")
    clips = clips_of(run)
    dataset = lerobot.LeRobotDataset("lafp/set", root=tmp_path / "set")
    assert dataset.num_episodes == len(clips)
    assert dataset.num_frames == sum(len(clip.frames) - stack for clip in clips.values())
    assert set(dataset.meta.stats) == set(dataset.features)
    number = 0
    for episode in dataset.meta.episodes:
        clip = clips[episode["clip_id"]]
        for t in range(stack - 1, len(clip.frames) - 1):
            item = dataset[number]
            assert item["episode_index"] == episode["episode_index"] and item["index"] == number
            assert item["task"] == "move the dot"
            np.testing.assert_array_equal(
                item["latent_action"], z_of(clip.frames[t], clip.frames[t + 1])
            )
            np.testing.assert_array_equal(item["action"], clip.labels.true_action[t])
            np.testing.assert_array_equal(item["observation.state"], clip.labels.state[t])
            # Decoders round colours differently, most at sharp coloured edges.
            shown = 255 * item[CAMERA].numpy().transpose(1, 2, 0)
            assert np.abs(shown - clip.frames[t]).mean() < 2
            number += 1
    assert number == len(dataset)


def test_lerobot_reads_chunks_of_z_and_pads_them_at_the_end_of_an_episode(tmp_path, lerobot):
    run = write_run(tmp_path / "run")
    write_dataset(run, tmp_path / "set", key="action")
    deltas = {"action": [0.0, 0.1, 0.2], CAMERA: [-0.1, 0.0]}
    dataset = lerobot.LeRobotDataset("lafp/set", root=tmp_path / "set", delta_timestamps=deltas)
    last = dataset.meta.episodes[0]["dataset_to_index"] - 1
    item = dataset[last - 1]
    assert item["action"].shape == (3, 3) and item[CAMERA].shape == (2, 3, 32, 32)
    assert item["action_is_pad"].tolist() == [False, False, True]
    np.testing.assert_array_equal(item["action"][1], dataset[last]["action"][0])


def test_lerobot_takes_episodes_out_of_it(tmp_path, lerobot):
    from lerobot.datasets.dataset_tools import delete_episodes

    run = write_run(tmp_path / "run")
    write_dataset(run, tmp_path / "set")
    dataset = lerobot.LeRobotDataset("lafp/set", root=tmp_path / "set")
    left = delete_episodes(dataset, [0, 5], output_dir=tmp_path / "less", repo_id="lafp/less")
    assert left.num_episodes == dataset.num_episodes - 2
    length = dataset.meta.episodes[0]["length"]
    np.testing.assert_array_equal(left[0]["latent_action"], dataset[length]["latent_action"])
