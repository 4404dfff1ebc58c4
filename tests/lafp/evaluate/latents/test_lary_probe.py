"""LARY's attentive probe on clips whose classes are told by motion alone."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lafp.config import ConfigError, config_from_dict
from lafp.evaluate.latents.config import EvaluateLamConfig
from lafp.evaluate.latents.lary_probe import (
    AttentiveProbe,
    LaryClips,
    check_lary_classes,
    lary_accuracy,
    lary_clips,
    most_frequent,
    share_of,
)
from lafp.evaluate.latents.lary_tables import lam_features, write_lary_tokens
from lafp.lam import load_lam
from lafp.types import ObsSpec, Window
from tests.synthetic_lam import write_lam
from tests.synthetic_lary import write_motions, write_pictures

CPU, OBS = torch.device("cpu"), ObsSpec(height_px=16, width_px=16, frame_stack=1, fps=10)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lary")
    return write_motions(folder, "train", 16, seed=0), write_motions(folder, "val", 16, seed=1)


def displacement(window: Window) -> torch.Tensor:
    """What a perfect LAM infers: where the frame moves, by the peak of the cross-correlation."""
    now, then = (torch.fft.fft2(obs.mean(1)) for obs in (window.obs, window.next_obs))
    peak = torch.fft.ifft2(then * now.conj()).real.flatten(1).argmax(1)
    moved = torch.stack([peak // 16, peak % 16], dim=1)
    return ((moved + 8) % 16 - 8).float()


@pytest.fixture(scope="module")
def clips(tables) -> tuple[LaryClips, LaryClips]:
    train, val = (lary_clips(displacement, table, OBS, CPU) for table in tables)
    assert train is not None and val is not None and train.features.shape == (64, 8, 2)
    return train, val


def accuracy(fit: LaryClips, held_out: LaryClips) -> float:
    return lary_accuracy(fit, held_out, CPU, width=32).mean


def test_motions_are_named_from_z_that_tells_them(clips):
    found = lary_accuracy(*clips, CPU, width=32)
    assert found.mean > 0.95 and found.num_values == 64
    assert found.low < found.mean <= found.high


def test_classes_without_a_relation_to_the_clips_are_named_by_chance(clips):
    draw = random.Random(0)
    shuffled = [replace(c, classes=tuple(draw.sample(c.classes, 64))) for c in clips]
    assert 0.1 < accuracy(*shuffled) < 0.45


def test_the_probe_reads_the_order_of_the_frame_pairs():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        probe = AttentiveProbe(num_pairs=8, num_features=5, width=64, num_classes=7)
        features = torch.randn(3, 8, 5)
    assert (probe(features) - probe(features.flip(1))).abs().max() > 1e-4
    with torch.no_grad():
        probe.time.zero_()
    torch.testing.assert_close(probe(features), probe(features.flip(1)))


def test_a_rare_class_is_drawn_as_often_as_others():
    """Two classes overlap. Where one is 15 times as frequent, it would be named too often."""

    def drawn(num_often: int, num_rare: int, seed: int) -> LaryClips:
        classes = ("often",) * num_often + ("rare",) * num_rare
        centre = torch.tensor([-1.0] * num_often + [1.0] * num_rare)
        told = centre + torch.randn(len(centre), generator=torch.Generator().manual_seed(seed))
        features = torch.stack([told, torch.ones_like(told)], dim=1)
        return LaryClips(features=features[:, None].repeat(1, 8, 1), classes=classes)

    rare = drawn(0, 200, seed=2)
    assert accuracy(drawn(240, 16, seed=1), rare) > 0.8


def test_a_class_that_train_lacks_counts_as_wrong(clips):
    train, val = clips
    others = tuple("jump" if name == "left" else name for name in val.classes)
    assert accuracy(train, replace(val, classes=others)) == pytest.approx(0.75, abs=0.03)
    assert most_frequent(train, replace(val, classes=others)).mean in (0.0, 0.25)


def test_the_probed_tokens_are_those_that_lary_gets(tables, tmp_path):
    lam = load_lam(write_lam(str(tmp_path / "lam"), frame_stack=2))
    with torch.no_grad():
        found = lary_clips(lam_features(lam), tables[1], lam.obs, CPU, tmp_path / "features")
    write_lary_tokens(lam, tables[1], str(tmp_path / "out"))
    files = sorted((tmp_path / "out/latent_actions/toy/val/my-lam").iterdir())
    written = [np.load(file)["tokens"] for file in files]
    np.testing.assert_array_equal(found.features.numpy(), np.stack(written)[:, :, 0])
    assert found.classes[:4] == ("left", "right", "up", "down")


def test_a_clip_that_cannot_be_read_is_left_out_with_its_class(tables, tmp_path):
    text = Path(tables[1].table).read_text().splitlines()
    text[1] = text[1].replace("left_0.mp4", "nowhere.mp4")
    (tmp_path / "toy_metadata_val.csv").write_text("\n".join(text))
    table = replace(tables[1], table=str(tmp_path / "toy_metadata_val.csv"))
    found = lary_clips(displacement, table, OBS, CPU)
    assert found.features.shape[0] == len(found.classes) == 63
    assert found.classes[:2] == ("right", "up")
    nothing = replace(table, frames=str(tmp_path))
    assert lary_clips(displacement, nothing, OBS, CPU) is None


def test_a_probe_has_the_weights_of_lary_s():
    """LARY's ``FeatureEvaluator`` of 5 features and 7 classes, with 8 of its 128 times."""
    probe = AttentiveProbe(num_pairs=8, num_features=5, width=64, num_classes=7)
    assert sum(parameter.numel() for parameter in probe.parameters()) == 197_319
    assert probe(torch.randn(3, 8, 5)).shape == (3, 7)


def test_the_interval_is_wilson_s():
    found = share_of(8, 10)
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-3)
    assert share_of(10, 10).low == pytest.approx(0.7225, abs=1e-3) and share_of(10, 10).high == 1
    assert share_of(0, 10).high == pytest.approx(0.2775, abs=1e-3)


def test_tables_without_classes_are_refused_before_the_start(tables, tmp_path):
    check_lary_classes(*tables)
    pictures = write_pictures(tmp_path / "pictures")
    with pytest.raises(ConfigError, match=r"expected video_path, sample_indices and action"):
        check_lary_classes(tables[0], pictures)
    header, *rows = Path(tables[0].table).read_text().splitlines()
    unlabeled = replace(tables[0], table=str(tmp_path / "toy_metadata_train.csv"))
    Path(unlabeled.table).write_text("\n".join([header.replace("action", "text"), *rows]))
    with pytest.raises(ConfigError, match="has the columns video_path, sample_indices, text"):
        check_lary_classes(unlabeled, tables[1])
    Path(unlabeled.table).write_text("\n".join([header, rows[0]]))
    with pytest.raises(ConfigError, match="has 1 classes in its column action"):
        check_lary_classes(unlabeled, tables[1])


def test_the_probe_needs_the_tables_of_both_splits(tables):
    named = [{"table": table.table, "frames": table.frames} for table in tables]
    cfg = config_from_dict(EvaluateLamConfig, {"lary_tables": named, "lary_probe": "toy"})
    assert [t.dataset_and_split[1] for t in cfg.lary_probe_tables] == ["train", "val"]
    assert EvaluateLamConfig(lary_tables=cfg.lary_tables).lary_probe_tables is None
    for given, missing in ((named[:1], "toy_metadata_val.csv"), ([], "toy_metadata_train.csv")):
        with pytest.raises(ConfigError, match=f"{missing} is not among lary_tables"):
            config_from_dict(EvaluateLamConfig, {"lary_tables": given, "lary_probe": "toy"})
