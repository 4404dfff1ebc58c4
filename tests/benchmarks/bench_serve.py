"""Time per action of the policy server on loopback, beside the agent called directly.

python -m tests.benchmarks.bench_serve [--device cuda] [--size-px 128] [--num-rounds 500]

Prints one JSON line. Both use one CPU thread and are timed once per round, in turns one before the
other. ``overhead`` is the server's time less the agent's in the same round: HTTP, MessagePack and a
second process.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch

import lafp
from lafp.config import config_from_dict
from lafp.finished.saved_model import save_model
from lafp.policies import POLICIES
from lafp.serve.client import RemoteAgent
from lafp.types import ActionSpec, ObsSpec

TOKEN = "a-token-for-benchmarks"
NUM_WARMUP_ROUNDS = 20
ACTION = ActionSpec(dim=7, low=(-1.0,) * 7, high=(1.0,) * 7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size-px", type=int, default=128)
    parser.add_argument("--num-rounds", type=int, default=500)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as run:
        write_policy(run, args.size_px)
        agent = lafp.Agent.load(run, policy="flow", device=args.device)
        process = serving(run, args.device)
        try:
            with RemoteAgent(url_of(process), TOKEN, timeout_s=60) as remote:
                seconds = timed([agent, remote], args.size_px, args.num_rounds)
        finally:
            process.terminate()
            last_line = process.communicate()[0].strip()
    direct, served = 1000 * seconds
    line = {"bench": "serve", "device": args.device, "size_px": args.size_px}
    line |= {"image_bytes": 3 * args.size_px**2, "num_rounds": args.num_rounds}
    for name, found in (("agent", direct), ("server", served), ("overhead", served - direct)):
        line |= {f"{name}_p{p}_ms": round(float(np.percentile(found, p)), 3) for p in (50, 95)}
    print(json.dumps(line | {"server_says": last_line}))


def write_policy(run, size_px):
    """An untrained flow policy of true actions, which needs no action decoder."""
    policy_class = POLICIES.get("latent_flow")
    obs = ObsSpec(height_px=size_px, width_px=size_px, frame_stack=1, fps=10)
    raw = {"name": "latent_flow", "encoder": {"name": "impala"}}
    torch.manual_seed(0)
    cfg = config_from_dict(policy_class.Config, raw)
    policy = policy_class(cfg, obs, ACTION.dim)
    policy(torch.rand(8, 3, size_px, size_px), torch.randn(8, ACTION.dim))  # fits the standardizer
    specs = {"obs": obs, "latent_action_dim": ACTION.dim, "action": ACTION}
    save_model(
        f"{run}/policy/flow", kind="policy", config=cfg, specs=specs, module=policy, metrics={}
    )


def serving(run, device):
    command = [sys.executable, "-m", "ray_jobs.serve", run, "--policy", "flow", "--port", "0"]
    return subprocess.Popen(
        [*command, "--device", device],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "LAFP_SERVE_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"},
    )


def url_of(process):
    return next(line.split()[-1] for line in process.stdout if line.startswith("serving at "))


def timed(agents, size_px, num_rounds):
    """Seconds per action, float [agents, rounds]."""
    frames = np.random.default_rng(0).integers(0, 256, (16, size_px, size_px, 3), np.uint8)
    seconds = np.zeros((len(agents), NUM_WARMUP_ROUNDS + num_rounds))
    for number in range(seconds.shape[1]):
        for turn in range(len(agents)):
            index = (number + turn) % len(agents)
            begin_s = time.perf_counter()
            agents[index].act(frames[number % len(frames)])
            seconds[index, number] = time.perf_counter() - begin_s
    return seconds[:, NUM_WARMUP_ROUNDS:]


if __name__ == "__main__":
    main()
