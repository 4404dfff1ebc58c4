"""What PCA of a wide latent action costs, by the number of components that are kept.

python -m tests.benchmarks.bench_latent_projection LAM VIDEOS LABELED [--dims 8 16 ...]

LAM is the folder of a finished one, VIDEOS and LABELED are shard sets. The components are those
that a policy would be given, from the first batches of VIDEOS. One JSON line per number of them,
the whole latent action last, measured on LABELED's held-out episodes: the share of z's variance
that is kept, and the R^2 of a linear probe from what is left of z to the true action, fitted on
LABELED's training episodes. ``ratio`` is that R^2 over the whole z's.
"""

import argparse
import json

import torch

from lafp.config import config_from_dict
from lafp.evaluate.probes.lam_probe import LabeledTransitions
from lafp.evaluate.probes.linear import fit_probe, score_probe
from lafp.lam import load_lam
from lafp.models.latent_projection import Pca, PcaConfig
from lafp.train.tasks.lam_sections import ProbeConfig
from lafp.train.tasks.policy import PolicyTask, TrainPolicyConfig

CPU = torch.device("cpu")

DIMS = (2, 4, 8, 16, 32, 64, 128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lam")
    parser.add_argument("videos")
    parser.add_argument("labeled")
    parser.add_argument("--dims", type=int, nargs="+", default=DIMS)
    args = parser.parse_args()
    lam = load_lam(args.lam)
    (fit_z, fit_data), (z, data) = (
        LabeledTransitions(args.labeled, split, ProbeConfig().max_transitions).features(
            lambda window: lam.infer_latent_action(window.obs, window.next_obs),
            lam.obs.frame_stack,
            CPU,
        )
        for split in ("train", "val")
    )
    widest = fitted_pca(args.lam, args.videos, lam.obs.frame_stack, max(args.dims))
    whole = score_probe(fit_probe(fit_z, fit_data), z, data)
    total = (z - z.mean(0)).square().sum()
    for dim in args.dims:
        pca = leading(widest, dim)
        score = score_probe(fit_probe(pca.project(fit_z), fit_data), pca.project(z), data)
        kept = 1 - (pca.unproject(pca.project(z)) - z).square().sum() / total
        report(lam.latent_action_dim, dim, float(kept), score, whole)
    report(lam.latent_action_dim, lam.latent_action_dim, 1.0, whole, whole)


def fitted_pca(lam, videos, frame_stack, dim):
    raw = {
        "policy": {
            "name": "latent_bc",
            "encoder": {"name": "small_cnn"},
            "latent_projection": {"name": "pca", "dim": dim},
        },
        "window": {"frame_stack": frame_stack},
        "train": {"num_steps": 1, "global_batch_size": 64},
    }
    task = PolicyTask(config_from_dict(TrainPolicyConfig, raw), videos, lam)
    task.prepare(CPU)
    return task.module.policy.projection


def leading(widest, dim):
    """Components are nested: those of a smaller PCA are the first of a larger one."""
    pca = Pca(PcaConfig(dim=dim), len(widest.mean))
    pca.mean.copy_(widest.mean)
    pca.components.copy_(widest.components[:dim])
    return pca


def report(latent_action_dim, dim, kept, score, whole):
    line = {
        "bench": f"latent_projection/pca_{dim}",
        "latent_action_dim": latent_action_dim,
        "variance_kept": round(kept, 4),
        "probe_r2": round(score.r2, 4),
        "probe_r2_interval": [round(score.r2_low, 4), round(score.r2_high, 4)],
        "num_transitions": score.num_transitions,
        "ratio": round(score.r2 / whole.r2, 4),
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
