"""LeRobot v3.0 as LeRobot itself writes it. Slow, and skipped where `lerobot` is not installed.

Its pins (av < 16, torch < 2.11) do not go with ours: it needs an environment of its own, in which
av is replaced against its pin:

    python -m venv lr
    lr/bin/pip install lerobot==0.4.4 boto3 omegaconf ray[data]==2.60.0 pytest pytest-timeout
    lr/bin/pip install --no-deps av==18.1.0
    lr/bin/python -m pytest -m slow tests/data_pipelines/preprocess/sources/lerobot/test_library.py
"""

from dataclasses import replace

import numpy as np
import pytest

from lafp.video import decode_clip
from tests.labeled_source import CFG, go_through
from tests.synthetic_video import number_of, numbered

pytestmark = pytest.mark.slow

LENGTHS = [20, 33, 27]
CAMERAS = ("observation.images.front", "observation.images.wrist")


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    lerobot = pytest.importorskip("lerobot.datasets.lerobot_dataset")
    names = ["height", "width", "channels"]
    camera = {"dtype": "video", "shape": (64, 128, 3), "names": names}
    vector = {"dtype": "float32", "shape": (2,), "names": ["x", "y"]}
    features = dict.fromkeys(CAMERAS, camera) | {"action": vector, "observation.state": vector}
    dataset = lerobot.LeRobotDataset.create(
        "lafp/toy", fps=10, features=features, root=tmp_path / "set", use_videos=True
    )
    for episode, length in enumerate(LENGTHS):
        pictures = numbered(length + 50 * episode, 64, 128)[50 * episode :]
        for t, picture in enumerate(pictures):
            row = np.float32([t, episode])
            frame = dict.fromkeys(CAMERAS, picture) | {"action": row, "observation.state": 2 * row}
            dataset.add_frame(frame | {"task": "do it"})
        dataset.save_episode()
    dataset.finalize()
    return tmp_path / "set"


def test_a_dataset_that_lerobot_wrote_is_read(source):
    clips, rejects = go_through(replace(CFG, source=str(source)))
    assert (len(clips), rejects) == (2 * len(LENGTHS), [])
    assert len({clip.record.episode_id for clip in clips}) == len(LENGTHS)
    for clip in clips:
        episode = int(clip.record.video_uri.rpartition("#")[2])
        rows = np.stack([np.arange(LENGTHS[episode]), np.full(LENGTHS[episode], episode)], axis=1)
        np.testing.assert_array_equal(clip.labels.true_action, rows)
        np.testing.assert_array_equal(clip.labels.state, 2 * rows)
        numbers = [number_of(frame) for frame in decode_clip(clip.video)]
        assert numbers == [50 * episode + t for t in range(LENGTHS[episode])]
