"""Time per action of flow policies by solver steps, against latent_bc, on one CPU thread or GPU.

python -m tests.benchmarks.bench_policy_latency [--device cuda] [--encoders impala]

One JSON line per measurement, eager and compiled, and two about the solver's loop: what it takes
beside the head's matrix products and activations alone.
"""

import argparse
import json

import torch
import torch.nn.functional as F

from lafp.config import config_from_dict
from lafp.evaluate.acting.latency import measure_latency
from lafp.flow_matching.solver import integrate
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
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS), choices=list(ENCODERS))
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.set_num_threads(1)
    for encoder in args.encoders:
        policies = {"latent_bc": make("latent_bc", encoder, device)}
        policies["latent_flow_default"] = make("latent_flow", encoder, device)
        policies["latent_mean_flow"] = make("latent_mean_flow", encoder, device)
        for steps in SOLVER_STEPS:
            name = f"latent_flow_{steps}_steps"
            policies[name] = make("latent_flow", encoder, device, num_solver_steps=steps)
        for batch_size, num_rounds in NUM_ROUNDS.items():
            for is_compiled in (False, True):
                measure(encoder, policies, batch_size, num_rounds, device, is_compiled)
    for batch_size in NUM_ROUNDS:
        measure_loop(policies["latent_flow_default"], batch_size, device)


def make(name, encoder, device, **options):
    policy_class = POLICIES.get(name)
    raw = {"name": name, "encoder": ENCODERS[encoder], **options}
    policy = policy_class(config_from_dict(policy_class.Config, raw), OBS, LATENT_ACTION_DIM)
    return policy.to(device).eval().requires_grad_(False)


def measure(encoder, policies, batch_size, num_rounds, device, is_compiled):
    obs = 2 * torch.rand(batch_size, 3, OBS.height_px, OBS.width_px, device=device) - 1

    def calling(policy):
        def act(obs, noise):
            return policy.act(obs, None, noise)[0]

        run = torch.compile(act, fullgraph=True) if is_compiled else act

        @torch.inference_mode()
        def call():
            return run(obs, policy.draw_noise(batch_size, device, None)).cpu()

        return call

    torch._dynamo.reset()
    calls = {name: calling(policy) for name, policy in policies.items()}
    results = measure_latency(calls, num_rounds=num_rounds, baseline="latent_bc")
    for name, latency in results.items():
        print_line(name, latency, encoder, batch_size, device, is_compiled)


@torch.inference_mode()
def measure_loop(policy, batch_size, device):
    """The solver's loop against the same kernels in a row, without module, times or closures."""
    steps = policy.cfg.num_solver_steps
    x = torch.randn(batch_size, LATENT_ACTION_DIM, device=device)
    embedding = torch.randn(batch_size, policy.embed_dim, device=device)
    condition = policy.head.condition(embedding)
    first = policy.head.from_point.weight[:, :LATENT_ACTION_DIM].T.contiguous()
    layers = [layer for layer in policy.head.head if isinstance(layer, torch.nn.Linear)]

    def kernels():
        point = x
        for _ in range(steps):
            hidden = torch.addmm(condition, point, first)
            for layer in layers:
                hidden = F.linear(F.silu(hidden), layer.weight, layer.bias)
            point = torch.add(point, hidden, alpha=1 / steps)
        return point.cpu()

    def loop():
        return integrate(policy._velocity_field(embedding), x, num_steps=steps).cpu()

    calls = {"solver_kernels": kernels, "solver_loop": loop}
    for name, latency in measure_latency(calls, num_rounds=500, baseline="solver_kernels").items():
        print_line(name, latency, "none", batch_size, device, False)


def print_line(name, latency, encoder, batch_size, device, is_compiled):
    line = {
        "bench": f"policy_latency/{name}",
        "encoder": encoder,
        "batch_size": batch_size,
        "device": str(device),
        "compiled": is_compiled,
        "median_ms": round(latency.median_ms, 4),
        "ratio": round(latency.ratio, 3),
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
