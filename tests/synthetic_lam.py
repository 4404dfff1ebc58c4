"""A small untrained latent action model on disk, for what comes after it."""

import torch

from lafp.config import config_from_dict
from lafp.finished.saved_model import save_model
from lafp.objectives.lapo import Lapo
from lafp.types import ObsSpec


def write_lam(uri: str, seed: int = 0, size_px: int = 16, frame_stack: int = 1) -> str:
    """Writes a LAM with Z = 4 and returns its URI."""
    cfg = config_from_dict(
        Lapo.Config,
        {
            "latent_action_dim": 4,
            "encoder": {"name": "small_cnn", "channels": [8], "embed_dim": 16},
            "fdm": {"channels": [8, 8]},
            "bottleneck": {"name": "none"},
        },
    )
    obs = ObsSpec(height_px=size_px, width_px=size_px, frame_stack=frame_stack, fps=10)
    torch.manual_seed(seed)
    lam = Lapo(cfg, obs)
    save_model(uri, kind="lam", config=cfg, specs={"obs": obs}, module=lam, metrics={})
    return uri
