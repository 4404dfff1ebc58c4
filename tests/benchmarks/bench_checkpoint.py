"""How long steps wait for a checkpoint of a LAM of 100 million parameters.

python -m tests.benchmarks.bench_checkpoint [--rounds 3] [--folder DIR]

Steps wait while the engine writes to the local disk; reading back, checksums and storing run beside
them. One JSON line per engine: ``wait_s`` is the former, ``store_s`` the latter, ``ratio`` the
time of writing as many bytes to one file over ``wait_s``; medians, taken in turns.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lafp.config import load_config
from lafp.objectives import OBJECTIVES
from lafp.train.checkpoints import Checkpoints
from lafp.train.engines import ENGINES
from lafp.train.engines.base import Engine
from lafp.train.engines.ddp import DdpConfig
from lafp.train.engines.deepspeed import DeepSpeedConfig
from lafp.train.tasks.lam import TrainLamConfig
from lafp.train.tasks.lam_sections import SupervisionConfig
from lafp.train.tasks.trained_lam import LamInputs, TrainedLam
from lafp.types import ObsSpec, Window

PRESET = Path("configs/train_lam/lapa_50m.yaml")
OVERRIDES = [
    "objective.idm.depth=12",
    "objective.fdm.depth=16",
    "train.num_workers=1",
    "train.global_batch_size=16",
]
SIZE_PX = 128
CHUNK = bytes(1 << 24)


def engine_of(name: str) -> tuple[Engine, int]:
    """An engine that has taken a step, and its number of parameters."""
    cfg = load_config(TrainLamConfig, PRESET, OVERRIDES)
    engine_cfg = DdpConfig() if name == "ddp" else DeepSpeedConfig(zero_stage=2)
    obs = ObsSpec(height_px=SIZE_PX, width_px=SIZE_PX, frame_stack=1, fps=10)
    objective = OBJECTIVES.get(cfg.objective.name)(cfg.objective, obs)
    module = TrainedLam(objective, SupervisionConfig(), None)
    train = replace(cfg.train, engine=engine_cfg, use_gpu=False, precision="fp32")
    num_parameters = sum(p.numel() for p in module.parameters())
    return ENGINES.get(name)(train, module, torch.device("cpu")), num_parameters


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def write(path: Path, num_bytes: int) -> None:
    """The limit: as many bytes to one file."""
    with path.open("wb") as file:
        for _ in range(num_bytes // len(CHUNK)):
            file.write(CHUNK)


def measure(name: str, root: Path, num_rounds: int) -> None:
    engine, num_parameters = engine_of(name)
    take_a_step(engine)
    checkpoints = Checkpoints(str(root / name), num_to_keep=1)
    rounds = []
    for step in range(1, num_rounds + 1):
        folder = Path(tempfile.mkdtemp(dir=root))
        wait_s = seconds(lambda folder=folder, step=step: engine.save(folder, step))
        num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        limit_s = seconds(lambda size=num_bytes: write(root / "limit", size))
        checkpoints.save(folder, step)
        rounds.append((wait_s, limit_s, seconds(checkpoints.wait)))
    wait_s, limit_s, store_s = np.median(rounds, axis=0).tolist()
    line = {
        "bench": f"checkpoint/{name}",
        "num_parameters": num_parameters,
        "gb": round(num_bytes / 1e9, 2),
        "wait_s": round(wait_s, 2),
        "limit_s": round(limit_s, 2),
        "store_s": round(store_s, 2),
        "ratio": round(limit_s / wait_s, 3),
        "rounds": num_rounds,
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(line), flush=True)


def take_a_step(engine: Engine) -> None:
    """So that the optimizer has its state."""
    obs, next_obs = 2 * torch.rand(2, 1, 3, SIZE_PX, SIZE_PX) - 1
    k = torch.ones(1, dtype=torch.int64)
    window = Window(obs=obs, next_obs=next_obs, future_obs=next_obs, offset_steps=k)
    engine.forward_backward(LamInputs(window=window, labeled=None), True)
    engine.step(1e-4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="on the disk to measure; a temporary one by default")
    args = parser.parse_args()
    root = Path(tempfile.mkdtemp(dir=args.folder))
    try:
        for name in ("ddp", "deepspeed"):
            measure(name, root, args.rounds)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
