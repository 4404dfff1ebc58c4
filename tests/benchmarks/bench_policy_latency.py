"""Time per action of flow policies by solver steps, against latent_bc, on one CPU thread or GPU.

python -m tests.benchmarks.bench_policy_latency [--device cuda]    # one JSON line per measurement
"""

import argparse
import json

import torch

from lafp.config import config_from_dict
from lafp.eval.latency import measure_latency
from lafp.policies import POLICIES
from lafp.types import ObsSpec

OBS = ObsSpec(height_px=64, width_px=64, frame_stack=1, fps=10)
LATENT_ACTION_DIM = 128
SOLVER_STEPS = (1, 2, 4, 8)
ENCODERS = {"impala": {"name": "impala"}, "small_cnn": {"name": "small_cnn"}}
NUM_ROUNDS = {1: 100, 64: 12}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    device = torch.device(parser.parse_args().device)
    torch.set_num_threads(1)
    for encoder in ENCODERS:
        policies = {"latent_bc": make("latent_bc", encoder, device)}
        policies["latent_flow_default"] = make("latent_flow", encoder, device)
        policies["latent_mean_flow"] = make("latent_mean_flow", encoder, device)
        for steps in SOLVER_STEPS:
            name = f"latent_flow_{steps}_steps"
            policies[name] = make("latent_flow", encoder, device, num_solver_steps=steps)
        for batch_size, num_rounds in NUM_ROUNDS.items():
            measure(encoder, policies, batch_size, num_rounds, device)


def make(name, encoder, device, **options):
    policy_class = POLICIES.get(name)
    raw = {"name": name, "encoder": ENCODERS[encoder], **options}
    policy = policy_class(config_from_dict(policy_class.Config, raw), OBS, LATENT_ACTION_DIM)
    return policy.to(device).eval().requires_grad_(False)


def measure(encoder, policies, batch_size, num_rounds, device):
    obs = torch.rand(batch_size, OBS.num_channels, OBS.height_px, OBS.width_px, device=device)

    def call(policy):
        with torch.inference_mode():
            return policy.act(obs * 2 - 1)[0].cpu()

    calls = {name: lambda policy=policy: call(policy) for name, policy in policies.items()}
    results = measure_latency(calls, num_rounds=num_rounds, baseline="latent_bc")
    for name, latency in results.items():
        line = {
            "bench": f"policy_latency/{name}",
            "encoder": encoder,
            "batch_size": batch_size,
            "device": str(device),
            "median_ms": round(latency.median_ms, 3),
            "ratio": round(latency.ratio, 3),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
