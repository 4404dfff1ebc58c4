"""FLOPs of a training step, per window, of the latent action models in ``configs/train_lam``.

python -m tests.benchmarks.bench_lam_flops [CONFIG ...]    # one JSON line per config

Forward and backward pass per window, activations that are computed again included, as the
metric ``mfu`` counts them. A CPU does, slowly. ``ratio``: against the first config.
"""

import json
import sys
from pathlib import Path

import torch

from lafp.config import load_config
from lafp.objectives import OBJECTIVES
from lafp.train.metrics.efficiency import Efficiency
from lafp.train.tasks.lam import TrainLamConfig
from lafp.types import ObsSpec, Window

CONFIGS = Path(__file__).parents[2] / "configs/train_lam"
SIDE_PX = {"videos": 64, "laom": 64, "lapa_5m": 64, "lapa_50m": 128, "lapa_300m": 224}
BATCH = 2  # batch statistics want two


def main() -> None:
    names = sys.argv[1:] or list(SIDE_PX)
    first = None
    for name in names:
        flops, parameters = count(name)
        first = first or flops
        line = {
            "bench": f"lam_flops/{name}",
            "side_px": SIDE_PX[name],
            "million_parameters": round(parameters / 1e6),
            "gflop_per_window": round(flops / 1e9, 2),
            "ratio": round(flops / first, 1),
        }
        print(json.dumps(line), flush=True)


def count(name: str) -> tuple[float, int]:
    """FLOPs per window, and parameters that are trained."""
    cfg = load_config(TrainLamConfig, CONFIGS / f"{name}.yaml")
    stack, side = cfg.window.frame_stack, SIDE_PX[name]
    spec = ObsSpec(height_px=side, width_px=side, frame_stack=stack, fps=10)
    objective = OBJECTIVES.get(cfg.objective.name)(cfg.objective, spec)
    obs, next_obs = torch.zeros(2, BATCH, 3 * stack, side, side)
    offset = torch.ones(BATCH, dtype=torch.int64)
    window = Window(obs=obs, next_obs=next_obs, future_obs=next_obs, offset_steps=offset)
    efficiency = Efficiency(torch.device("cpu"), cfg.train.precision, num_rounds=1)
    with efficiency.counting_once():
        objective(window).loss.backward()
    trained = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    return efficiency.flops_per_step / BATCH, trained


if __name__ == "__main__":
    main()
