from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from lafp.envs.slalom import Slalom, SlalomConfig
from lafp.evaluate.acting.rollouts import Expert, rollout
from lafp.evaluate.rows.outcomes import (
    BORDER_PX,
    GREEN,
    NEUTRAL,
    RED,
    is_measured,
    read_episode_outcomes,
    read_outcomes,
    tile,
    write_episodes,
    write_outcomes,
)
from lafp.evaluate.rows.results import Subject
from lafp.video import decode_clip

SUBJECT = Subject(label="demonstrator", method="demonstrator", task="slalom", distractors=False)


@pytest.fixture(scope="module")
def parts():
    env = Slalom(SlalomConfig())
    batches = (np.arange(7), np.arange(7, 12))
    return [rollout(env, Expert(env), b, num_recorded=5 * (b[0] == 0)) for b in batches]


def test_every_episode_is_stored_with_what_it_was_about(tmp_path, parts):
    assert not is_measured(str(tmp_path), "demonstrator")
    write_outcomes(str(tmp_path), SUBJECT, parts, fps=10)
    assert is_measured(str(tmp_path), "demonstrator")
    episodes = read_outcomes(str(tmp_path), "demonstrator")
    assert [episode.episode for episode in episodes] == list(range(12))
    assert [episode.episode_seed for episode in episodes] == list(range(12))
    assert all(episode.success and episode.task == "slalom" for episode in episodes)
    np.testing.assert_array_equal(
        [episode.modes for episode in episodes], np.concatenate([part.modes for part in parts])
    )


@pytest.mark.parametrize(
    ("of_random", "of_demonstrators", "expected"),
    [(0.0, 4.0, 0.5), (1.0, 5.0, 0.25), (-6.0, -2.0, 2.0), (4.0, 4.0, 2.0), (5.0, 1.0, 2.0)],
)
def test_a_return_is_between_random_actions_and_demonstrators_where_these_do_better(
    tmp_path, parts, of_random, of_demonstrators, expected
):
    write_outcomes(str(tmp_path), SUBJECT, parts, fps=10)
    episodes = [
        replace(e, success=None, label=label, method=label, episode_return=episode_return)
        for label, episode_return in (
            ("demonstrator", of_demonstrators),
            ("random", of_random),
            ("latent_bc", 2.0),
        )
        for e in read_outcomes(str(tmp_path), "demonstrator")
    ]
    write_episodes(str(tmp_path / "episodes.parquet"), episodes)
    found = read_episode_outcomes(str(tmp_path / "episodes.parquet"))["latent_bc"]
    np.testing.assert_allclose(found, np.full(12, expected))


def test_an_evaluation_without_random_actions_has_its_plain_returns(tmp_path, parts):
    """As those have that were made before there was a random policy."""
    write_outcomes(str(tmp_path), SUBJECT, parts, fps=10)
    episodes = [
        replace(e, success=None, episode_return=4.0)
        for e in read_outcomes(str(tmp_path), "demonstrator")
    ]
    write_episodes(str(tmp_path / "episodes.parquet"), episodes)
    found = read_episode_outcomes(str(tmp_path / "episodes.parquet"))["demonstrator"]
    np.testing.assert_array_equal(found, np.full(12, 4.0))


def test_a_demonstration_without_a_finite_return_is_not_in_their_mean(tmp_path, parts):
    write_outcomes(str(tmp_path), SUBJECT, parts, fps=10)
    first, *others = read_outcomes(str(tmp_path), "demonstrator")
    demonstrations = [
        replace(first, success=None, episode_return=np.inf),
        *(replace(e, success=None, episode_return=4.0) for e in others),
    ]
    ours, random = (
        [replace(e, label=label, method=label, episode_return=value) for e in demonstrations]
        for label, value in (("ours", 2.0), ("random", 0.0))
    )
    write_episodes(str(tmp_path / "episodes.parquet"), [*demonstrations, *random, *ours])
    found = read_episode_outcomes(str(tmp_path / "episodes.parquet"))
    np.testing.assert_array_equal(found["ours"], np.full(12, 0.5))


def test_paths_of_several_batches_are_stored_together(tmp_path, parts):
    write_outcomes(str(tmp_path), SUBJECT, parts, fps=10)
    stored = np.load(tmp_path / "rollouts/demonstrator.npz", allow_pickle=False)
    assert stored["path"].shape == (12, stored["length"].max() + 1, 2)
    np.testing.assert_array_equal(stored["path"][7:, 0], parts[1].path[:, 0])
    np.testing.assert_array_equal(stored["path"][:, -1, 0] > 0.93, stored["success"])


def test_the_video_shows_the_recorded_episodes_to_the_end_of_the_longest(tmp_path, parts):
    write_outcomes(str(tmp_path), SUBJECT, parts, fps=10)
    frames = decode_clip((tmp_path / "rollouts/demonstrator.mp4").read_bytes())
    side = 2 * 48 + 2 * BORDER_PX
    assert frames.shape == (parts[0].length[:5].max() + 1, 2 * side, 4 * side, 3)


def test_tiles_turn_green_at_a_success_and_red_at_a_failure(parts):
    recordings = parts[0].recordings[:2]
    frames = tile(recordings, [True, False])
    side = frames.shape[1]
    for n, color in enumerate((GREEN, RED)):
        corner = frames[:, 0, n * side]
        end = len(recordings[n].frames) - 1
        np.testing.assert_array_equal(corner[:end], np.tile(NEUTRAL, (end, 1)))
        np.testing.assert_array_equal(corner[end:], np.tile(color, (len(frames) - end, 1)))
        inside = frames[0, BORDER_PX : side - BORDER_PX : 2, n * side + BORDER_PX :: 2][:, :48]
        np.testing.assert_array_equal(inside, recordings[n].frames[0])


def test_episodes_of_a_task_without_success_are_stored_and_framed_in_grey(tmp_path, parts):
    unknown = [replace(part, success=None) for part in parts]
    write_outcomes(str(tmp_path), SUBJECT, unknown, fps=10)
    assert {e.success for e in read_outcomes(str(tmp_path), "demonstrator")} == {None}
    assert "success" not in np.load(tmp_path / "rollouts/demonstrator.npz", allow_pickle=False)
    np.testing.assert_array_equal(tile(parts[0].recordings[:1], [None])[-1, 0, 0], NEUTRAL)


def test_the_table_of_all_episodes_opens_in_pandas(tmp_path, parts):
    write_outcomes(str(tmp_path), SUBJECT, parts, fps=10)
    write_episodes(f"{tmp_path}/episodes.parquet", read_outcomes(str(tmp_path), "demonstrator"))
    table = pq.read_table(tmp_path / "episodes.parquet").to_pandas()
    assert table.groupby("label").success.mean().to_dict() == {"demonstrator": 1.0}
