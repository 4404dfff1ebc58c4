"""What a trial of a sweep costs if trials differ in the action decoder alone.

python -m tests.benchmarks.bench_decoder_sweep [--trials 5]

The trials follow each other in one process, as in a study: clips of 64 px with actions, a frozen
LAM and flow policy with the `impala` encoder, 2000 updates of the decoder with another anchor time
each. One JSON line: CPU seconds of the first trial and of a later one (the median), ``ratio``: the
same trials if each runs the frozen models itself, over trials that share their outputs, and
``decoding_cpu_s``: CPU seconds to decode all clips, which each trial does once.
"""

import argparse
import json
import statistics
import tempfile
import time
from itertools import islice
from pathlib import Path

import torch

from lafp.config import config_from_dict
from lafp.data.order.clips import ClipOrder
from lafp.data.shards.reader import ClipReader
from lafp.finished.saved_model import read_card, save_model
from lafp.lam import load_lam
from lafp.policies import POLICIES
from lafp.train.context import LocalContext
from lafp.train.loop import train
from lafp.train.tasks import decoder
from lafp.train.tasks.decoder import DecoderTask, TrainDecoderConfig
from tests.benchmarks.bench_policy_train import write_lam
from tests.synthetic_shards import write_shard_set

SIZE_PX, NUM_CLIPS, NUM_FRAMES = 64, 128, 48


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=5)
    num_trials = parser.parse_args().trials
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        lengths = (NUM_FRAMES, NUM_FRAMES)
        shards = write_shard_set(
            Path(folder) / "labeled", NUM_CLIPS, 16, lengths, SIZE_PX, has_labels=True
        )
        lam = write_lam(f"{folder}/lam")
        policy = write_policy(f"{folder}/policy", lam)
        alone, shared = [], []
        for number in range(num_trials):
            for times, is_shared in ((alone, False), (shared, True)):
                if number == 0 or not is_shared:
                    decoder._remembered.cache_clear()
                cfg = config(number / num_trials)
                task = DecoderTask(cfg, shards, policy, lam)
                start = time.process_time()
                train(cfg.train, task, LocalContext(f"{folder}/{number}-{is_shared}"))
                times.append(time.process_time() - start)
        decoding_s = time_to_decode(shards)
    later_s = statistics.median(shared[1:])
    line = {
        "bench": "decoder_sweep",
        "trials": num_trials,
        "labeled_frames": NUM_CLIPS * NUM_FRAMES,
        "first_cpu_s": round(shared[0], 2),
        "later_cpu_s": round(later_s, 2),
        "decoding_cpu_s": round(decoding_s, 2),
        "ratio": round(statistics.median(alone[1:]) / later_s, 3),
    }
    print(json.dumps(line))


def time_to_decode(shards: str) -> float:
    reader, order = ClipReader(shards), ClipOrder(shard_set=shards, split="train", seed=0)
    clips = list(islice(order.visits(), order.num_clips))
    start = time.process_time()
    for clip in clips:
        reader.read(clip)
    return time.process_time() - start


def write_policy(uri: str, lam_uri: str) -> str:
    lam = load_lam(lam_uri, "cpu")
    cfg = config_from_dict(
        POLICIES.get("latent_flow").Config,
        {"name": "latent_flow", "encoder": {"name": "impala", "scale": 1}},
    )
    module = POLICIES.build(cfg, lam.obs, lam.latent_action_dim)
    specs = {
        "obs": lam.obs,
        "latent_action_dim": lam.latent_action_dim,
        "lam_sha256": read_card(lam_uri, "lam")["weights_sha256"],
    }
    save_model(uri, kind="policy", config=cfg, specs=specs, module=module, metrics={})
    return uri


def config(anchor_time: float) -> TrainDecoderConfig:
    raw = {
        "name": "swept",
        "policy": "latent_flow",
        "anchor_time": anchor_time,
        "train": {"num_steps": 2000, "global_batch_size": 128, "optim": {"lr": 1e-3}},
    }
    return config_from_dict(TrainDecoderConfig, raw)


if __name__ == "__main__":
    main()
