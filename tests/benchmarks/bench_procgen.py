"""Steps per second of our environment of Procgen against bare procgen2, in interleaved turns.

python -m tests.benchmarks.bench_procgen [num_episodes]    # one JSON line

Both step the same game with the same actions, side by side in one native environment on one thread,
and read every picture. There is no policy. ``planner`` is the rate with the planner's actions.
"""

import json
import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np
from procgen import ProcgenGym3Env

from lafp.envs.experts.procgen_planners import STAND
from lafp.envs.procgen import Procgen, ProcgenConfig

GAME = "maze"
NUM_TURNS, NUM_STEPS = 15, 40


def main(num: int = 100) -> None:
    bare = ProcgenGym3Env(num=num, env_name=GAME, distribution_mode="easy", num_threads=0)
    ours = Procgen(ProcgenConfig(task=GAME, expert="planner", episode_steps=10**6))
    stand = np.full(num, STAND, np.int32)
    ours.reset(np.arange(num))

    def step_bare() -> None:
        bare.act(stand)
        bare.observe()

    def step_ours() -> None:
        ours.step(stand)

    def step_planned() -> None:
        ours.step(ours.expert())

    contenders = {"bare": step_bare, "ours": step_ours, "planner": step_planned}
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(NUM_TURNS):
        ours.reset(np.arange(num))
        for name, step in contenders.items():
            rates[name].append(num * rate(step, 5 if name == "planner" else NUM_STEPS))
    ratios = [a / b for a, b in zip(rates["ours"], rates["bare"], strict=True)]
    result = {name: round(median(values)) for name, values in rates.items()}
    ratio = {"ratio": round(median(ratios), 2), "lowest": round(min(ratios), 2)}
    print(json.dumps({"bench": "procgen", "num": num, "steps_per_cpu_s": result} | ratio))


def rate(step: Callable[[], None], num_steps: int) -> float:
    start = time.process_time()
    for _ in range(num_steps):
        step()
    return num_steps / (time.process_time() - start)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
