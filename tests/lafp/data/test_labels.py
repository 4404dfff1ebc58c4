import itertools

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lafp.config import ConfigError
from lafp.data.labels import action_spec, count_labels, labeled_episodes, labeled_subset
from lafp.runs.wording import label_words
from tests.synthetic_shards import write_shard_set


@pytest.fixture(scope="module")
def labeled(tmp_path_factory) -> str:
    """40 labeled train clips, two per episode, and 4 of split val."""
    folder = tmp_path_factory.mktemp("labeled")
    uri = write_shard_set(folder, num_clips=44, num_val_clips=4, frames=(3, 4), has_labels=True)
    rows = pq.read_table(folder / "clips").to_pylist()
    for index, row in enumerate(rows):
        row["episode_id"] = f"episode-{index // 2}"
    pq.write_table(pa.Table.from_pylist(rows), folder / "clips/part-00000.parquet")
    return uri


def test_subsets_of_one_seed_are_nested(labeled):
    subsets = [labeled_subset(labeled, "train", f, 7) for f in (0.01, 0.05, 0.25, 0.5, 1.0)]
    assert [len(s) for s in subsets] == [2, 2, 10, 20, 40]
    for small, large in itertools.pairwise(subsets):
        assert small <= large


def test_an_episode_is_in_a_subset_with_all_of_its_clips(labeled):
    subset = labeled_subset(labeled, "train", 0.3, 0)
    episode_of = labeled_episodes(labeled, "train")
    chosen = {episode_of[clip] for clip in subset}
    assert subset == {clip for clip, episode in episode_of.items() if episode in chosen}


def test_a_subset_depends_on_the_seed_alone(labeled):
    assert labeled_subset(labeled, "train", 0.25, 1) == labeled_subset(labeled, "train", 0.25, 1)
    assert labeled_subset(labeled, "train", 0.25, 1) != labeled_subset(labeled, "train", 0.25, 2)


def test_a_subset_stays_in_its_split(labeled):
    train, val = (labeled_subset(labeled, split, 1.0, 0) for split in ("train", "val"))
    assert len(train) == 40 and len(val) == 4 and not train & val


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01])
def test_a_fraction_out_of_range_is_refused(labeled, fraction):
    with pytest.raises(ValueError, match="fraction"):
        labeled_subset(labeled, "train", fraction, 0)


def test_the_action_spec_is_the_sets(labeled):
    spec = action_spec(labeled)
    assert (spec.dim, spec.low, spec.high) == (2, (-2.0, -2.0), (2.0, 2.0))


def test_a_set_without_labels_is_refused(tmp_path):
    uri = write_shard_set(tmp_path, num_clips=4, frames=(3, 4))
    with pytest.raises(ConfigError, match="no actions"):
        action_spec(uri)
    with pytest.raises(ConfigError, match="No labeled train clips"):
        labeled_subset(uri, "train", 0.5, 0)


def test_labels_are_counted_in_transitions_of_whole_episodes(labeled):
    subset = labeled_subset(labeled, "train", 0.25, 0)
    rows = pq.read_table(f"{labeled}/clips").to_pylist()
    frames = [row["num_frames"] for row in rows if row["clip_id"] in subset]
    assert count_labels(labeled, 0.25, 0, 1) == (sum(frames) - len(frames), 5)
    assert count_labels(labeled, 0.25, 0, 3) == (sum(frames) - 3 * len(frames), 5)
    assert label_words(128, 1) == "128 labeled transitions (1 episode)"
