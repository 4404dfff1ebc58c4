"""One shard set holds labels of one kind: an odd episode is a reject, a second robot an error."""

import re
from dataclasses import replace

import numpy as np
import pytest

from data_pipelines.preprocess.estimate import estimate
from data_pipelines.preprocess.job import list_inputs
from data_pipelines.preprocess.label_kinds import LabelKinds
from lafp.config import ConfigError
from tests.labeled_source import CFG, select
from tests.synthetic_video import moving_square


def write_episodes(folder, sizes, state_sizes=None):
    """Episodes with so many numbers in their actions and states."""
    folder.mkdir()
    for i, size in enumerate(sizes):
        arrays = {"image_0": moving_square(12, 32, 64, seed=i), "action": np.zeros((12, size))}
        if state_sizes:
            arrays["state"] = np.zeros((12, state_sizes[i]))
        np.savez(folder / f"{i:02d}.npz", **arrays)
    return replace(CFG, source=str(folder))


def test_an_odd_episode_is_a_reject_that_says_what_most_have(tmp_path):
    cfg = write_episodes(tmp_path / "set", [*(4 * [2]), 3, *(8 * [2])])
    found = select(cfg, tmp_path / "parts")
    assert len(found.clips) == 12
    (reject,) = found.rejects
    assert reject.video_uri.endswith("04.npz#0")
    assert (reject.reason, reject.detail) == (
        "labels_mismatch",
        "actions of 3 numbers, most clips have actions of 2 numbers",
    )


def test_states_are_of_one_size_too(tmp_path):
    cfg = write_episodes(tmp_path / "set", 12 * [2], [*(11 * [7]), 8])
    found = select(cfg, tmp_path / "parts")
    assert [reject.video_uri[-8:] for reject in found.rejects] == ["11.npz#0"]
    assert "states of 8" in found.rejects[0].detail


def test_two_robots_are_an_error_that_names_a_video_of_both(tmp_path):
    cfg = write_episodes(tmp_path / "set", [2, 2, 2, 7, 7])
    with pytest.raises(ConfigError) as caught:
        select(cfg, tmp_path / "parts")
    for word in ("00.npz#0 has actions of 2 numbers", "03.npz#0 has actions of 7 numbers"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ([2, 2, 2, 7, 7], "the job would stop"),
        ([*(11 * [2]), 3], "1 of 12 clips would be rejected"),
        (5 * [2], None),
    ],
)
def test_a_dry_run_warns_of_what_the_job_does_then(tmp_path, sizes, said):
    cfg = write_episodes(tmp_path / "set", sizes)
    warnings = [line for line in estimate(cfg, list_inputs(cfg)) if line.startswith("warning")]
    if said is None:
        assert warnings == []
        return
    (warning,) = warnings
    number = re.search(rf"(\d\d)\.npz#0 has actions of {max(sizes)} numbers", warning)[1]
    assert sizes[int(number)] == max(sizes)
    assert said in warning and "actions of 2 numbers" in warning
    try:
        found = select(cfg, tmp_path / "parts")
    except ConfigError:
        assert said == "the job would stop"
    else:
        assert f"{len(found.rejects)} of" in warning


def test_two_robots_are_known_long_before_the_last_part(tmp_path):
    kinds, others = LabelKinds(), LabelKinds()
    kinds.add("actions of 2 numbers", 40, "a.npz")
    kinds.add("actions of 7 numbers", 4, "b.npz")
    kinds.check()
    others.add("actions of 7 numbers", 6, "c.npz")
    kinds.merge(others)
    with pytest.raises(ConfigError, match=r"a\.npz has actions of 2 .* b\.npz has actions of 7"):
        kinds.check()
