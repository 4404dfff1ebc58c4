"""How the demonstrators of simulated environments do: the table of docs/environments.md.

python -m tests.benchmarks.expert_outcomes [data/experts]    # TASK.pt of dunnolab/laom

One JSON line per task: mean and standard deviation of the return, and successes. Without a folder
those of dmc are left out. About 5 minutes.
"""

import json
import sys
from pathlib import Path

import numpy as np

from data_pipelines.collect import CollectConfig
from lafp.config import load_config
from lafp.envs.base import VectorEnv
from lafp.envs.dmc import Dmc, DmcConfig
from lafp.envs.episodes import ExplorationConfig
from lafp.envs.metaworld import Metaworld, MetaworldConfig
from lafp.envs.metaworld_mt import MetaworldMt, MetaworldMtConfig
from lafp.envs.mujoco.rendering import RenderConfig
from lafp.envs.procgen import PLANNER, PLANNERS, Procgen, ProcgenConfig
from lafp.evaluate.acting.rollouts import Expert, rollout

CONFIGS = Path(__file__).parents[2] / "configs/collect"
DMC_TASKS = ("cheetah-run", "walker-run", "hopper-hop")
METAWORLD_TASKS = ("drawer-open-v3", "button-press-topdown-v3", "push-v3", "pick-place-v3")
MULTI_GOAL = tuple(f"metaworld_{n}" for n in ("reach_two_goals", "reach_around", "push_two_goals"))


def main(folder: str | None = None) -> None:
    for game in PLANNERS:
        tell(f"{game}, planner", Procgen(ProcgenConfig(task=game, expert=PLANNER)), 20)
    for task in DMC_TASKS if folder else ():
        for share in (0.0, 1.0):
            exploration = ExplorationConfig(share=share)
            expert = f"{folder}/{task}.pt"
            cfg = DmcConfig(task=task, expert=expert, size_px=8, exploration=exploration)
            tell(f"{task}, noise in {share:.0%}", Dmc(cfg), 10)
    for task in METAWORLD_TASKS:
        tell(task, Metaworld(MetaworldConfig(task=task, size_px=8)), 20)
    tell(
        "mt10",
        MetaworldMt(MetaworldMtConfig(tasks=("mt10",), size_px=8, render=RenderConfig())),
        20,
    )
    for name in MULTI_GOAL:
        overrides = ["env.exploration.share=0"]
        tell(
            name, Metaworld(load_config(CollectConfig, CONFIGS / f"{name}.yaml", overrides).env), 20
        )


def tell(name: str, env: VectorEnv, num_episodes: int) -> None:
    result = rollout(env, Expert(env), np.arange(num_episodes))
    found = {"mean": float(result.episode_return.mean()), "std": float(result.episode_return.std())}
    if result.success is not None:
        found |= {"successes": int(result.success.sum()), "of": num_episodes}
        found |= {"modes": result.modes[:, 0].tolist()} if env.mode_sizes else {}
    print(json.dumps({"expert": name} | found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
