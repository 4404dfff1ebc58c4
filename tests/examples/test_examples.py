"""The files in examples/ run as their docstrings say, on small settings."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

from tests.synthetic_shards import write_shard_set

LAPO = Path(__file__).parents[2] / "examples/lapo_in_150_lines.py"
SCORE = r"{} (-?\d\.\d\d) \[(-?\d\.\d\d), (-?\d\.\d\d)\]"


@pytest.fixture(scope="module")
def lapo():
    spec = importlib.util.spec_from_file_location("lapo_in_150_lines", LAPO)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def probed(text: str, name: str) -> tuple[float, ...]:
    """R2 and its interval, as they were printed."""
    return tuple(map(float, re.search(SCORE.format(name), text).groups()))


def test_lapo_has_the_lines_that_its_name_promises():
    assert len(LAPO.read_text().splitlines()) <= 150


def test_lapo_learns_the_actions_of_slalom(lapo, capsys):
    lapo.main(["--num-clips", "60", "--num-steps", "100"])
    text = capsys.readouterr().out
    trained, low, _ = probed(text, "trained model")
    untrained, _, high = probed(text, "before training")
    assert low > high, f"{trained} is not above {untrained}"
    assert float(re.findall(r"change explained (-?\d\.\d\d)", text)[-1]) > 0.2


@pytest.mark.parametrize("bottleneck", ["noise", "vq"])
def test_lapo_reads_a_shard_set(lapo, bottleneck, tmp_path, capsys):
    uri = write_shard_set(tmp_path / "shards", has_labels=True, num_clips=24, num_val_clips=8)
    lapo.main(["--shards", uri, "--num-steps", "3", "--bottleneck", bottleneck])
    text = capsys.readouterr().out
    assert "step 3/3" in text
    assert probed(text, "trained model") and probed(text, "before training")


def test_clips_of_a_shard_set_are_those_of_the_split(lapo, tmp_path):
    uri = write_shard_set(tmp_path / "shards", has_labels=True, num_clips=12, num_val_clips=4)
    (train, spec), (val, _) = (lapo.shard_clips(uri, split, 6) for split in ("train", "val"))
    assert (len(train.frames), len(val.frames)) == (6, 4)
    assert not set(train.clip_key.tolist()) & set(val.clip_key.tolist())
    assert train.true_action.shape[2] == spec.dim == 2


def test_all_pairs_are_probed_and_pairs_lie_side_by_side(lapo):
    clips, spec = lapo.slalom_clips(4, first_seed=7)
    window = lapo.random_pairs(clips, 32)
    assert window.obs.shape == window.next_obs.shape == (32, 3, 48, 48)
    torch.testing.assert_close(window.offset_steps, torch.ones(32, dtype=torch.int64))
    torch.manual_seed(0)
    model = lapo.Lapo(48, 48, "noise", torch.tensor(0.1)).eval()
    score = lapo.probe(model, [clips, clips], spec)
    assert score.num_transitions == int((clips.num_frames - 1).sum())
