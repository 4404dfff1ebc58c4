"""Policy training through the loop, from shards, against a bare torch loop on clips in memory.

python -m tests.benchmarks.bench_policy_train [--encoders small_cnn impala] [--device cuda]

Both do the same step: windows of clips, latent actions by the same frozen LAM, the policy's loss,
its gradients, AdamW. The loop also reads shards in the same thread, reports and measures. The two
take turns in one run, some steps each. One JSON line per policy, encoder and cache: ``ratio`` is
the loop's windows/s over the bare loop's, the median over turns, and ``cpu_ratio`` the same in CPU
seconds of the process, which other work on the machine hardly changes. Without a cache the loop
decodes each clip at every visit.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from lafp.config import config_from_dict
from lafp.finished.saved_model import save_model
from lafp.lam import load_lam
from lafp.objectives.lapo import Lapo
from lafp.train.context import LocalContext
from lafp.train.loop import train
from lafp.train.tasks.policy import PolicyTask, TrainPolicyConfig
from lafp.types import ObsSpec
from tests.synthetic_shards import write_shard_set

SIZE_PX, NUM_CLIPS, NUM_FRAMES = 64, 64, 16
BATCH_SIZE, WINDOWS_PER_CLIP = 64, 4
NUM_WARMUP_TURNS = 1
POLICIES = ("latent_flow", "latent_bc")
LAM = {
    "latent_action_dim": 8,
    "encoder": {"name": "small_cnn", "channels": [16, 32, 32], "embed_dim": 128},
    "idm_input": "difference",
    "fdm": {"channels": [16, 32, 32], "num_res_blocks": 1},
    "target": "residual",
    "bottleneck": {"name": "layernorm_noise", "noise_std": 0.3},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoders", nargs="+", default=["small_cnn"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--steps", type=int, default=5, help="of each loop per turn")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        shards = write_shard_set(
            Path(folder) / "videos", NUM_CLIPS, 16, (NUM_FRAMES, NUM_FRAMES), SIZE_PX
        )
        lam = write_lam(f"{folder}/lam")
        for encoder in args.encoders:
            for cache_bytes in (1 << 30, 0):
                for name in POLICIES:
                    # A turn ends when the next one's first batch is asked for.
                    num_steps = args.steps * (NUM_WARMUP_TURNS + args.turns) + 1
                    cfg = config(name, encoder, num_steps)
                    uri = f"{folder}/{name}-{encoder}-{cache_bytes}"
                    measure(cfg, shards, lam, uri, cache_bytes, args)


def config(name, encoder, num_steps):
    raw = {
        "policy": {"name": name, "encoder": {"name": encoder}},
        "window": {"windows_per_clip": WINDOWS_PER_CLIP},
        "train": {
            "num_steps": num_steps,
            "global_batch_size": BATCH_SIZE,
            "optim": {"lr": 1e-3},
            "checkpoint_every_steps": num_steps + 1,  # the bare loop writes none
        },
    }
    return config_from_dict(TrainPolicyConfig, raw)


def write_lam(uri):
    cfg = config_from_dict(Lapo.Config, LAM)
    obs = ObsSpec(height_px=SIZE_PX, width_px=SIZE_PX, frame_stack=1, fps=10)
    torch.manual_seed(0)
    save_model(uri, kind="lam", config=cfg, specs={"obs": obs}, module=Lapo(cfg, obs), metrics={})
    return uri


class TakingTurns(LocalContext):
    """Hands out micro-batches, and lets the bare loop run after every ``num_steps`` of them."""

    def __init__(self, uri, device, cache_bytes, bare, num_steps):
        super().__init__(uri, device, cache_bytes)
        self.bare, self.num_steps = bare, num_steps
        self.ours, self.bares = [], []

    def clips(self, demands, num_rounds, start_step):
        batches = super().clips(demands, num_rounds, start_step)
        while True:
            start = self._now()
            for _ in range(self.num_steps):
                yield next(batches)
            ours = self._now() - start  # asked for more: the last step is done
            self.ours.append(ours)
            start = self._now()
            for _ in range(self.num_steps):
                self.bare.step()
            self.bares.append(self._now() - start)

    def _now(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return np.array([time.perf_counter(), time.process_time()])


class Bare:
    """What one would write for one experiment: all clips in memory, no more than the step."""

    def __init__(self, cfg, shards, lam, device):
        task = PolicyTask(cfg, shards, lam)
        reader = LocalContext("", cache_bytes=0).clips(task.demands(), 1, 0)
        num_batches = NUM_CLIPS * WINDOWS_PER_CLIP // BATCH_SIZE
        frames = [next(reader)["videos"].frames for _ in range(num_batches)]
        self.frames = torch.cat(frames).to(device)
        self.lam = load_lam(lam, device)
        self.policy = task.module.policy.to(device)
        lr = cfg.train.optim.lr
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), lr, fused=True)

    def step(self):
        clip = np.random.randint(len(self.frames), size=BATCH_SIZE)
        t = np.random.randint(NUM_FRAMES - 1, size=BATCH_SIZE)
        obs, next_obs = self.floats(clip, t), self.floats(clip, t + 1)
        loss = self.policy(obs, self.lam.infer_latent_action(obs, next_obs)).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def floats(self, clip, t):
        return self.frames[clip, t].permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def measure(cfg, shards, lam, uri, cache_bytes, args):
    ctx = TakingTurns(
        uri, args.device, cache_bytes, Bare(cfg, shards, lam, args.device), args.steps
    )
    train(cfg.train, PolicyTask(cfg, shards, lam), ctx)
    ours, bare = np.stack(ctx.ours[NUM_WARMUP_TURNS:]), np.stack(ctx.bares[NUM_WARMUP_TURNS:])
    median_s, _ = np.median(ours, axis=0)
    ratio, cpu_ratio = np.median(bare / ours, axis=0)
    line = {
        "bench": f"policy_train/{cfg.policy.name}_vs_bare_torch",
        "encoder": cfg.policy.encoder.name,
        "device": args.device,
        "is_cached": cache_bytes > 0,
        "num_turns": len(ours),
        "windows_per_s": round(args.steps * BATCH_SIZE / float(median_s), 1),
        "cpu_ratio": round(float(cpu_ratio), 3),
        "ratio": round(float(ratio), 3),
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
