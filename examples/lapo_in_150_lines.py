"""LAPO (Schmidt & Jiang, arXiv:2312.10812) in 150 lines: learn what an action is from videos alone.

An inverse dynamics model (IDM) looks at two neighbouring frames and writes down a few numbers, the
latent action z. A forward dynamics model (FDM) must draw the change from the first frame and z. A
bottleneck keeps z small, so what is left for it is what the first frame cannot tell: the action.

    python examples/lapo_in_150_lines.py [--bottleneck vq] [--shards FOLDER_OR_S3_URI]

Without ``--shards`` it renders slalom, the environment of ``make demo``. It takes about a minute on
two cores. True actions serve the linear probe at the end alone, which asks whether z holds them.
"""

import argparse
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lafp.data.labels import action_spec
from lafp.data.order.clips import ClipOrder
from lafp.data.shards.reader import ClipReader
from lafp.data.windows import windows_at
from lafp.envs.slalom import Slalom, SlalomConfig
from lafp.evaluate.acting.rollouts import Expert, rollout
from lafp.evaluate.probes import linear
from lafp.models.bottlenecks.layernorm_noise import LayerNormNoise, LayerNormNoiseConfig
from lafp.models.bottlenecks.vq import Vq, VqConfig
from lafp.models.encoders import SmallCnn, SmallCnnConfig
from lafp.models.fdm import UNetConfig, UNetFdm
from lafp.types import ActionSpec, ClipBatch, ObsSpec, Window


class Lapo(nn.Module):
    """L = || FDM(o_t, bottleneck(z_t)) - (o_{t+1} - o_t) ||^2,    z_t = IDM(o_t, o_{t+1})."""

    def __init__(self, height_px: int, width_px: int, bottleneck: str, scale: Tensor) -> None:
        super().__init__()
        obs = ObsSpec(height_px=height_px, width_px=width_px, frame_stack=1, fps=10.0)
        dim, channels = 8, (16, 32, 32)  # size of z, and widths of the networks
        cnn = SmallCnn(SmallCnnConfig(channels=channels), replace(obs, frame_stack=2))
        self.idm = nn.Sequential(cnn, nn.Linear(cnn.embed_dim, dim))
        if bottleneck == "vq":  # z becomes two of 32 codes
            codes = VqConfig(num_codebooks=2, num_discrete_latents=1, num_codes=32, decay=0.9)
            self.bottleneck = Vq(codes, dim)
        else:  # z stays continuous; noise limits how much it can say
            self.bottleneck = LayerNormNoise(LayerNormNoiseConfig(), dim)
        self.fdm = UNetFdm(UNetConfig(channels=channels, num_res_blocks=0), obs, dim, True)
        self.scale = scale  # of a typical change: networks learn best from numbers around 1

    def latent_action(self, window: Window) -> Tensor:
        """Infers z_t from o_t and what changes until o_{t+1}."""
        change = (window.next_obs - window.obs) / self.scale
        return self.bottleneck.normalize(self.idm(torch.cat([window.obs, change], dim=1)))

    def forward(self, window: Window) -> tuple[Tensor, Tensor]:
        """Returns the loss, and the share of the change that the FDM's drawing explains."""
        seen = self.bottleneck(self.latent_action(window))
        change = F.avg_pool2d((window.next_obs - window.obs) / self.scale, 2)  # half size is enough
        fdm_loss = F.mse_loss(self.fdm(window.obs, seen.latent), change)
        return fdm_loss + seen.loss, 1 - fdm_loss.detach() / change.square().mean()


def slalom_clips(num_clips: int, first_seed: int) -> tuple[ClipBatch, ActionSpec]:
    """Renders demonstrations of slalom. Returns the clips, and what an action is."""
    env, seeds = Slalom(SlalomConfig()), np.arange(first_seed, first_seed + num_clips)
    episodes = rollout(env, Expert(env), seeds, num_recorded=num_clips).recordings
    lengths = [len(episode.frames) for episode in episodes]
    frames = np.zeros((num_clips, max(lengths), env.height_px, env.width_px, 3), np.uint8)
    actions = np.zeros((*frames.shape[:2], env.action_spec.dim), np.float32)
    for n, episode in enumerate(episodes):  # shorter episodes end with zeros
        frames[n, : lengths[n]], actions[n, : lengths[n] - 1] = episode.frames, episode.actions
    clips = ClipBatch(
        frames=torch.from_numpy(frames),
        num_frames=torch.tensor(lengths),
        clip_key=torch.from_numpy(seeds),
        epoch=torch.zeros(num_clips, dtype=torch.int64),
        true_action=torch.from_numpy(actions),
    )
    return clips, env.action_spec


def shard_clips(uri: str, split: str, num_clips: int) -> tuple[ClipBatch, ActionSpec]:
    """Reads clips of a labeled shard set. Returns the same as ``slalom_clips``."""
    order = ClipOrder(shard_set=uri, split=split, seed=0)
    visits = zip(range(min(num_clips, order.num_clips)), order.visits(), strict=False)
    arrays = ClipReader(uri).read_batch([ref for _, ref in visits])
    return ClipBatch(**{k: torch.from_numpy(v) for k, v in arrays.items()}), action_spec(uri)


def random_pairs(clips: ClipBatch, num_pairs: int) -> Window:
    """Pairs of neighbouring frames (o_t, o_{t+1}), from random clips at random times."""
    clip = torch.randint(len(clips.frames), (num_pairs,))
    time = (torch.rand(num_pairs) * (clips.num_frames[clip] - 1)).long()
    return windows_at(clips, clip, time, torch.ones_like(clip), frame_stack=1)


def train(model: Lapo, clips: ClipBatch, num_steps: int) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(1, num_steps + 1):
        loss, explained = model(random_pairs(clips, 64))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.bottleneck.after_step()  # a VQ moves its codes
        if step % 50 == 0 or step == num_steps:
            print(f"step {step}/{num_steps}  loss {loss:.3f}  change explained {explained:.2f}")


@torch.no_grad()
def probe(model: Lapo, splits: list[ClipBatch], spec: ActionSpec) -> linear.ProbeScore:
    """Fits a linear map from z to true actions on one split, and scores it on the other."""
    found = []
    for clips in splits:
        time = torch.cat([torch.arange(num - 1) for num in clips.num_frames])  # all pairs
        clip = torch.arange(len(clips.num_frames)).repeat_interleave(clips.num_frames - 1)
        window = windows_at(clips, clip, time, torch.ones_like(clip), frame_stack=1)
        targets = linear.action_targets(window.true_action, spec)
        found.append((model.latent_action(window), linear.ProbeData(targets=targets, episode=clip)))
    return linear.score_probe(linear.fit_probe(*found[0]), *found[1])


def main(argv: list[str] | None = None) -> None:
    """Trains a LAPO and prints its probe, beside the same model's before training."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shards", help="labeled shard set to read, instead of rendering slalom")
    parser.add_argument("--bottleneck", choices=["noise", "vq"], default="noise")
    parser.add_argument("--num-clips", type=int, default=200)
    parser.add_argument("--num-steps", type=int, default=300)
    args = parser.parse_args(argv)
    if args.shards:
        found = [shard_clips(args.shards, split, args.num_clips) for split in ("train", "val")]
    else:
        found = [slalom_clips(args.num_clips, first_seed) for first_seed in (0, 1_000_000)]
    splits, spec = [clips for clips, _ in found], found[0][1]
    torch.manual_seed(0)
    first = random_pairs(splits[0], 1024)
    scale = (first.next_obs - first.obs).square().mean().sqrt()
    model = Lapo(*splits[0].frames.shape[2:4], args.bottleneck, scale)
    before = probe(model.eval(), splits, spec)
    train(model.train(), splits[0], args.num_steps)
    after = probe(model.eval(), splits, spec)
    print("R2 of true actions that were read from z by a linear map, on clips never trained on:")
    for name, score in (("trained model", after), ("before training", before)):
        print(f"{name:>16} {score.r2:.2f} [{score.r2_low:.2f}, {score.r2_high:.2f}]")


if __name__ == "__main__":
    main()
