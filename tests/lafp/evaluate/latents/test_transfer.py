"""Latent actions on frames of other clips, with models whose right values are known."""

from dataclasses import dataclass

import pytest
import torch

from lafp.evaluate.latents.transfer import (
    GAP_PX,
    NUM_STEPS,
    NUM_STRIPS,
    can_predict,
    filmstrips,
    measure_transfer,
)
from lafp.evaluate.probes import lam_probe
from lafp.evaluate.probes.lam_probe import transitions_of_probe
from lafp.lam import Lam
from lafp.objectives.base import Objective
from lafp.types import ObsSpec
from tests.synthetic_shards import damage_clips, write_shard_set

OBS = ObsSpec(height_px=16, width_px=16, frame_stack=2, fps=10)


@dataclass(frozen=True, kw_only=True)
class Config:
    name: str = "known"


class Shift(Objective):
    """z is how much a ramp of each colour grows, and the forward model adds that ramp."""

    Config = Config
    latent_action_dim = 3

    def __init__(self, size_px: int = 16, uses_latent: bool = True) -> None:
        super().__init__(Config(), OBS)
        self.nothing = torch.nn.Parameter(torch.zeros(()))
        self.size_px, self.uses_latent = size_px, uses_latent
        self.register_buffer("ramp", torch.linspace(-1, 1, 16).expand(1, 1, 16, 16))

    def forward(self, window):
        raise NotImplementedError

    def embed(self, obs):
        return obs.mean((2, 3))

    def infer_latent_action(self, obs, next_obs):
        change = (next_obs - obs)[:, -3:]
        return (change * self.ramp).sum((2, 3)) / self.ramp.square().sum()

    def predict_next_frame(self, obs, latent_action):
        pool = torch.nn.functional.adaptive_avg_pool2d
        added = self.uses_latent * latent_action[:, :, None, None] * self.ramp
        return pool(obs[:, -3:] + added, self.size_px)


@pytest.fixture(scope="module")
def labeled(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("labeled")
    return write_shard_set(folder, num_clips=16, num_val_clips=8, frames=(9, 12), has_labels=True)


@pytest.fixture(scope="module")
def held_out(labeled):
    return transitions_of_probe(labeled, frozenset(), 200)[1]


@pytest.mark.parametrize("size_px", [16, 8])
def test_a_forward_model_that_shows_z_anywhere_has_no_error(held_out, size_px):
    found = measure_transfer(Lam(Shift(size_px)), held_out)
    assert found.own.mean == pytest.approx(0, abs=0.02)
    assert found.other.mean == pytest.approx(0, abs=0.02)


def test_a_forward_model_that_ignores_z_loses_all_of_it(held_out):
    found = measure_transfer(Lam(Shift(uses_latent=False)), held_out)
    assert found.own.mean >= 1 and found.other.mean >= 1


class Watched(Shift):
    """Keeps the frames from which it predicts."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = []

    def predict_next_frame(self, obs, latent_action):
        self.seen.append(obs.flatten(1))
        return super().predict_next_frame(obs, latent_action)


def test_the_other_frame_is_of_another_clip_however_long_the_clips_are(tmp_path):
    uri = write_shard_set(
        tmp_path, num_clips=3, num_val_clips=2, frames=(300, 300), has_labels=True
    )
    objective = Watched()
    measure_transfer(Lam(objective), transitions_of_probe(uri, frozenset(), 600)[1])
    own, other = (torch.cat(objective.seen[i::2]) for i in range(2))
    assert len(own) > 512
    half = len(own) // 2
    for clip, elsewhere, shown in (
        (own[:half], own[half:], other[:half]),
        (own[half:], own[:half], other[half:]),
    ):
        assert (shown == shown[0]).all()
        assert (elsewhere == shown[0]).all(1).any() and not (clip == shown[0]).all(1).any()


def test_a_filmstrip_has_the_clip_its_prediction_and_the_other_clip(labeled):
    assert can_predict(Lam(Shift()))
    picture = filmstrips(Lam(Shift()), labeled)
    tile, gap = 64, 3  # 16 px, enlarged four times
    strip = 3 * (tile + gap) - gap, (NUM_STEPS + 1) * (tile + gap) - gap
    assert picture.shape == (2 * strip[0] + GAP_PX, 2 * strip[1] + GAP_PX, 3)
    assert NUM_STRIPS == 4  # two by two
    assert (picture[strip[0] : strip[0] + GAP_PX] == 255).all()
    assert (picture[:, strip[1] : strip[1] + GAP_PX] == 255).all()
    rows = [picture[n * (tile + gap) : n * (tile + gap) + tile] for n in range(3)]
    assert (rows[0][:, :tile] == rows[1][:, :tile]).all()  # both begin with the clip's frame
    assert (rows[0][:, :tile] != rows[2][:, :tile]).any()  # the third with another clip's


def test_damaged_clips_are_left_out_of_measurement_and_pictures(tmp_path):
    shards = write_shard_set(
        tmp_path, num_clips=16, num_val_clips=8, frames=(9, 12), has_labels=True
    )
    damage_clips(shards, num=4)
    assert filmstrips(Lam(Shift()), shards) is not None
    damage_clips(shards, num=4)  # sound again
    damage_clips(shards)
    assert filmstrips(Lam(Shift()), shards) is None
    held_out = transitions_of_probe(shards, frozenset(), 200)[1]
    assert not list(held_out.windows(2, torch.device("cpu")))


def test_long_clips_go_through_the_model_in_parts(labeled, held_out, monkeypatch):
    lam, sizes = Lam(Shift()), []

    def features_of(window):
        sizes.append(len(window))
        return lam.infer_latent_action(window.obs, window.next_obs)

    whole, data = held_out.features(features_of, 2, torch.device("cpu"))
    monkeypatch.setattr(lam_probe, "WINDOWS_PER_BATCH", 7)
    sizes.clear()
    parts, same = held_out.features(features_of, 2, torch.device("cpu"))
    assert max(sizes) == 7 and sum(sizes) == len(whole)
    torch.testing.assert_close(whole, parts)
    assert torch.equal(data.targets, same.targets) and torch.equal(data.episode, same.episode)


def test_triples_are_equally_far_apart_and_stay_in_their_clip(held_out):
    """In these clips nothing but the dot moves, so frames of one clip share their background."""
    num = 0
    for (a, b, c), episode in held_out.triples(2, 2, torch.device("cpu")):
        # The second frame of a stack two steps on follows the first of that stack.
        assert a.shape == b.shape == c.shape and len(a) == len(episode)
        num += len(a)
    windows = sum(len(w) for w, _ in held_out.windows(2, torch.device("cpu")))
    assert num == windows - 3 * held_out.num_episodes  # a span of 4 steps instead of one
