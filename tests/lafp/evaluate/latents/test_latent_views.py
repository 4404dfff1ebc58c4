from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from lafp.config import ConfigError
from lafp.evaluate.latents.frame_pairs import (
    MIN_HELD_OUT_CLIPS,
    mixed_clips,
    predict_pairs,
    sample_pairs,
)
from lafp.evaluate.latents.latent_views import (
    nearest_of_other_videos,
    read_latent_views,
    view_numbers,
    write_latent_views,
)
from lafp.finished.saved_model import save_model
from lafp.lam import Lam
from lafp.models.encoders import SmallCnnConfig
from lafp.objectives.base import Objective
from lafp.objectives.laom import Laom, LaomConfig
from lafp.objectives.lapo import Lapo, LapoConfig
from lafp.types import LossOutput, ObsSpec, Window
from tests.synthetic_shards import FPS, damage_clips, write_shard_set

OBS = ObsSpec(height_px=16, width_px=16, frame_stack=1, fps=FPS)


class NextFrameIsTheLatent(Objective):
    """z_t is o_{t+1} itself, so predictions from z are exact and from a wrong z are not."""

    def __init__(self, is_constant: bool = False) -> None:
        super().__init__(LapoConfig(), OBS)
        self.latent_action_dim = 3 * 16 * 16
        self.scale = torch.nn.Parameter(torch.tensor(0.0 if is_constant else 1.0))

    def forward(self, window: Window) -> LossOutput:
        raise NotImplementedError

    def infer_latent_action(self, obs, next_obs):
        return 1 + self.scale * next_obs.flatten(1)

    def embed(self, obs):
        return obs.flatten(1)

    def predict_next_frame(self, obs, latent_action):
        return (latent_action - 1).unflatten(1, obs.shape[1:])


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("shards")
    return write_shard_set(folder, num_clips=30, num_val_clips=20, size_px=16)


def views_of(objective: Objective, shards: str):
    lam = Lam(objective)
    pairs = sample_pairs(lam, {shards: 1.0}, seed=0)
    predictions = predict_pairs(pairs, lam)
    return view_numbers(pairs, predictions, lam), pairs, predictions


def test_a_latent_that_holds_the_next_frame_predicts_it_and_a_wrong_one_does_not(shards):
    views, _, predictions = views_of(NextFrameIsTheLatent(), shards)
    assert views.prediction_error == pytest.approx(0, abs=1e-4)
    assert views.wrong_latent_error > 100 * views.prediction_error
    assert views.copy_error > 100 * views.prediction_error
    for prediction in predictions:
        np.testing.assert_allclose(prediction.guess.astype(int), prediction.truth, atol=1)


def test_constant_latents_are_called_collapsed_and_have_no_neighbours(shards):
    views, _, _ = views_of(NextFrameIsTheLatent(is_constant=True), shards)
    assert views.is_collapsed
    assert views.spread == pytest.approx(0, abs=1e-6)
    assert "equal" in views.skipped["neighbours"]


def test_statistics_match_their_definitions(shards):
    views, pairs, _ = views_of(NextFrameIsTheLatent(), shards)
    latent = torch.stack(pairs.latent).double().numpy()
    covariance = np.cov(latent.T, bias=True)
    assert sum(views.spectrum) == pytest.approx(np.trace(covariance))
    assert views.effective_rank == pytest.approx(
        np.trace(covariance) ** 2 / np.square(covariance).sum()
    )
    np.testing.assert_allclose(views.norms, np.linalg.norm(latent, axis=1))
    assert not views.is_collapsed


def test_damaged_clips_are_left_out_and_counted(tmp_path):
    shards = write_shard_set(tmp_path, num_clips=30, num_val_clips=20, size_px=16)
    damage_clips(shards, num=3)
    views, pairs, _ = views_of(NextFrameIsTheLatent(), shards)
    assert (views.num_clips, views.num_damaged_clips) == (17, 3)
    assert len(set(pairs.video)) == 17
    damage_clips(shards, num=3)  # sound again
    damage_clips(shards)
    with pytest.raises(ConfigError, match=r"No val clip .* long enough .*\(20 damaged clips\)"):
        views_of(NextFrameIsTheLatent(), shards)


def test_every_pair_is_two_neighbouring_frames_of_one_clip_with_its_own_motion(shards):
    _, pairs, _ = views_of(NextFrameIsTheLatent(), shards)
    for index, (obs, next_obs) in pairs.stacks.items():
        difference = (obs.float() - next_obs.float()).abs().mean() / 255
        assert pairs.motion[index] == pytest.approx(float(difference), abs=1e-6)


def test_held_out_clips_are_used_only_where_there_are_enough(tmp_path, shards):
    _, pairs, _ = views_of(NextFrameIsTheLatent(), shards)
    assert (pairs.split, pairs.num_clips) == ("val", 20)
    few = write_shard_set(tmp_path, num_clips=20, num_val_clips=MIN_HELD_OUT_CLIPS - 1)
    assert sample_pairs(Lam(NextFrameIsTheLatent()), {few: 1.0}, seed=0).split == "train"


def test_a_mixture_is_looked_at_by_its_weights(tmp_path):
    sources = {
        write_shard_set(tmp_path / str(n), num_clips=num, seed=n): weight
        for n, (num, weight) in enumerate(((200, 3.0), (200, 1.0), (5, 4.0)))
    }
    refs = mixed_clips(sources, "train", seed=0)
    counts = Counter(ref.shard_set for ref in refs)
    # 240 clips at 3 : 1 : 4, but the last set has no more than 5.
    assert [counts[uri] for uri in sources] == [90, 30, 5]
    assert {ref.shard_set for ref in refs[:3]} == set(sources)
    pairs = sample_pairs(Lam(NextFrameIsTheLatent()), sources, seed=0)
    assert pairs.num_clips == 125 and len(set(pairs.video)) == 125


def test_neighbours_come_from_other_videos_one_each_while_there_are_some():
    video = ["a", "a", "b", "b", "c"]
    distance = np.array([0.0, 0.1, 0.2, 0.3, 0.4])
    assert nearest_of_other_videos(video, 0, distance) == [2, 4, 3]


def test_frames_of_another_size_than_the_models_are_an_error(tmp_path):
    shards = write_shard_set(tmp_path, num_clips=4, size_px=24)
    with pytest.raises(ConfigError, match=r"16x16 px, .* holds 24x24"):
        sample_pairs(Lam(NextFrameIsTheLatent()), {shards: 1.0}, seed=0)


@pytest.fixture(scope="module")
def lapo_uri(tmp_path_factory) -> str:
    torch.manual_seed(0)
    cfg = LapoConfig(
        latent_action_dim=8,
        encoder=SmallCnnConfig(channels=(8, 8), embed_dim=16),
        is_target_half_size=True,
    )
    return save(Lapo(cfg, OBS), cfg, tmp_path_factory.mktemp("lam"))


def save(objective, cfg, folder) -> str:
    save_model(
        str(folder), kind="lam", config=cfg, specs={"obs": OBS}, module=objective, metrics={}
    )
    return str(folder)


def test_pictures_and_numbers_are_written_and_the_same_for_the_same_seed(
    tmp_path, shards, lapo_uri
):
    written = [
        write_latent_views(lapo_uri, {shards: 1.0}, str(tmp_path / name), seed=3)
        for name in ("a", "b")
    ]
    assert written[0] == written[1] == read_latent_views(str(tmp_path / "a"))
    assert written[0].codebook["usage"] > 0
    for name in ("predictions.png", "neighbours.png", "motion.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert min(Image.open(tmp_path / "a" / name).size) > 90


def test_an_objective_without_pixels_says_why_there_are_no_predictions(tmp_path, shards):
    torch.manual_seed(0)
    cfg = LaomConfig(latent_action_dim=8, encoder=SmallCnnConfig(channels=(8, 8), embed_dim=16))
    uri = save(Laom(cfg, OBS), cfg, tmp_path / "lam")
    numbers = write_latent_views(uri, {shards: 1.0}, str(tmp_path / "views"), seed=0)
    assert "laom" in numbers.skipped["predictions"]
    assert numbers.prediction_error is None
    assert not (tmp_path / "views/predictions.png").exists()
