"""Frames per CPU second of simulated environments, fast rendering against MuJoCo's defaults.

python -m tests.benchmarks.bench_environments    # one JSON line per environment

Simulation, expert and picture together, 64 px (metaworld_mt: 480 px), in interleaved turns of 20
steps. The expert of dmc is untrained: what it does costs the same.
"""

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np

from lafp.envs.dmc import Dmc, DmcConfig
from lafp.envs.metaworld import Metaworld, MetaworldConfig
from lafp.envs.metaworld_mt import MetaworldMt, MetaworldMtConfig
from lafp.envs.mujoco.distractors import DistractorConfig
from lafp.envs.mujoco.rendering import RenderConfig
from tests.simulators import save_random_expert
from tests.synthetic_video import moving_square, write_video

NUM_TURNS, NUM_STEPS = 7, 20
SLOW = RenderConfig(shadows=True, reflections=True, multisampling=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        envs = environments(Path(folder))
        rates = {name: [] for name in envs}
        for env in envs.values():
            env.reset(np.arange(1))
        for _ in range(NUM_TURNS):
            for name, env in envs.items():
                rates[name].append(rate(env))
    for name in ("dmc", "dmc_distractors", "metaworld", "metaworld_mt"):
        slow = "dmc_slow" if name.startswith("dmc") else f"{name}_slow"
        ratios = [a / b for a, b in zip(rates[name], rates[slow], strict=True)]
        result = {
            "frames_per_cpu_s": round(median(rates[name]), 1),
            "ratio": round(median(ratios), 2),
        }
        print(json.dumps({"bench": f"environments/{name}"} | result))


def environments(folder: Path) -> dict[str, Dmc | Metaworld | MetaworldMt]:
    for seed in range(4):
        write_video(folder / f"{seed}.mp4", moving_square(60, seed=seed), fps=10)
    dmc = DmcConfig(task="cheetah-run", expert=save_random_expert(folder / "expert.pt"))
    distractors = DistractorConfig(background=1.0, camera=0.1, color=0.1, videos=str(folder))
    metaworld = MetaworldConfig(task="drawer-open-v3", episode_steps=10**6)
    mt = MetaworldMtConfig(tasks=("drawer-open-v3",), render=RenderConfig())
    return {
        "dmc": Dmc(dmc),
        "dmc_distractors": Dmc(replace(dmc, distractors=distractors)),
        "dmc_slow": Dmc(replace(dmc, render=SLOW)),
        "metaworld": Metaworld(metaworld),
        "metaworld_slow": Metaworld(replace(metaworld, render=SLOW)),
        "metaworld_mt": MetaworldMt(mt),
        "metaworld_mt_slow": MetaworldMt(replace(mt, render=SLOW)),
    }


def rate(env: Dmc | Metaworld | MetaworldMt) -> float:
    action = np.zeros((1, env.action_spec.dim))
    start = time.process_time()
    for _ in range(NUM_STEPS):
        env.expert()
        env.step(action)
    return NUM_STEPS / (time.process_time() - start)


if __name__ == "__main__":
    main()
