from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lafp.config import load_config
from lafp.models.bottlenecks.vq import VqConfig
from lafp.objectives import OBJECTIVES
from lafp.train.tasks.lam import TrainLamConfig
from lafp.types import ObsSpec
from ray_jobs.studies.study_config import StudyConfig, cells

FOLDER = Path(__file__).parents[2] / "configs" / "train_lam"
PATHS = [path for path in sorted(FOLDER.glob("*.yaml")) if path.stem != "base"]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_config_loads_and_its_batches_are_whole_clips_per_worker(path):
    cfg = load_config(TrainLamConfig, path)
    clips = cfg.train.global_batch_size // cfg.window.windows_per_clip
    assert clips % (cfg.train.num_workers * cfg.train.gradient_accumulation) == 0


@pytest.mark.parametrize("name", ["lapo", "laof"])
def test_lapo_and_what_is_built_on_it_have_the_papers_latents(name):
    cfg = load_config(TrainLamConfig, FOLDER / f"{name}.yaml")
    assert cfg.objective.latent_action_dim == 128
    assert cfg.objective.bottleneck == VqConfig(
        num_codebooks=2, num_discrete_latents=4, num_codes=64, commitment_weight=0.2, decay=0.999
    )
    assert cfg.window.frame_stack == 2


@pytest.mark.parametrize("name", ["slalom", "lapo_debug", "laom_debug"])
def test_the_small_models_are_small(name):
    cfg = load_config(TrainLamConfig, FOLDER / f"{name}.yaml")
    obs = ObsSpec(height_px=48, width_px=48, frame_stack=cfg.window.frame_stack, fps=10.0)
    model = OBJECTIVES.get(cfg.objective.name)(cfg.objective, obs)
    assert sum(p.numel() for p in model.parameters()) < 1_000_000


@pytest.mark.parametrize(
    ("name", "size_px", "num_million"),
    [("5m", 64, 5), ("50m", 128, 50), ("300m", 224, 300), ("1b", 224, 1000)],
)
def test_the_lapa_presets_have_as_many_parameters_as_they_say(name, size_px, num_million):
    cfg = load_config(TrainLamConfig, FOLDER / f"lapa_{name}.yaml")
    obs = ObsSpec(height_px=size_px, width_px=size_px, frame_stack=1, fps=10.0)
    with torch.device("meta"):
        model = OBJECTIVES.get(cfg.objective.name)(cfg.objective, obs)
    num_parameters = sum(p.numel() for p in model.parameters())
    assert num_parameters == pytest.approx(num_million * 1e6, rel=0.05)
    assert cfg.objective.idm.width // cfg.objective.idm.num_heads == 64


def test_every_shipped_laom_embeds_observations_as_a_feature_map():
    """A ReLU vector in its place ends with half of its units dead, and predicts nothing."""
    lams = {path.stem: load_config(TrainLamConfig, path) for path in PATHS}
    for path in (FOLDER.parent / "studies").glob("*.yaml"):
        for cell in cells(load_config(StudyConfig, path)):
            if cell.pipeline.train_lam is not None:
                lams[f"{path.stem}/{cell.name}"] = cell.pipeline.train_lam
    laoms = {name: cfg.objective for name, cfg in lams.items() if cfg.objective.name == "laom"}
    assert len(laoms) > 8
    assert {name for name, cfg in laoms.items() if cfg.encoder.name != "strided_resnet"} == set()


def test_labels_only_is_laom_with_labels_but_for_the_weight_of_the_fdm():
    """Same network, augmentation, input and labels: else it is no control of what videos add."""
    study = load_config(StudyConfig, FOLDER.parent / "studies" / "dmc_distractors.yaml")
    lams = {cell.variant: cell.pipeline.train_lam for cell in cells(study)}
    for episodes in (1, 5, 20):
        control = lams[f"labels_only_{episodes}-distractors"]
        laom = lams[f"laom_labels_{episodes}-distractors"]
        assert control.fdm_weight == 0 and laom.fdm_weight == 1
        assert replace(control, fdm_weight=1.0) == laom
