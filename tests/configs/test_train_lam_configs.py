from pathlib import Path

import pytest

from lafp.config import load_config
from lafp.models.quantizers import VqConfig
from lafp.objectives import OBJECTIVES
from lafp.train.tasks.lam import TrainLamConfig
from lafp.types import ObsSpec

FOLDER = Path(__file__).parents[2] / "configs" / "train_lam"
PATHS = [path for path in sorted(FOLDER.glob("*.yaml")) if path.stem != "base"]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_config_loads_and_its_batches_are_whole_clips_per_worker(path):
    cfg = load_config(TrainLamConfig, path)
    clips = cfg.train.global_batch_size // cfg.window.windows_per_clip
    assert clips % (cfg.train.num_workers * cfg.train.gradient_accumulation) == 0


def test_lapo_has_the_papers_latents():
    cfg = load_config(TrainLamConfig, FOLDER / "lapo.yaml")
    assert cfg.objective.latent_action_dim == 128
    assert cfg.objective.bottleneck == VqConfig(
        num_codebooks=2, num_discrete_latents=4, num_codes=64, commitment_weight=0.05, decay=0.999
    )
    assert cfg.window.frame_stack == 2


@pytest.mark.parametrize("name", ["slalom", "lapo_debug", "laom_debug"])
def test_the_small_models_are_small(name):
    cfg = load_config(TrainLamConfig, FOLDER / f"{name}.yaml")
    obs = ObsSpec(height_px=48, width_px=48, frame_stack=cfg.window.frame_stack, fps=10.0)
    model = OBJECTIVES.get(cfg.objective.name)(cfg.objective, obs)
    assert sum(p.numel() for p in model.parameters()) < 1_000_000
