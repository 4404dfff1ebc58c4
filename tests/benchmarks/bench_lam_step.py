"""One training step of our `laom` against dunnolab/laom's own, in one process.

git clone https://github.com/dunnolab/laom PEER
pip install torchvision pyrallis torchinfo vector-quantize-pytorch gymnasium shimmy dm_control h5py
python -m tests.benchmarks.bench_lam_step [--peer PEER] [--batch-size 64] [--steps 10] [--compile]
    [--device cpu|cuda]

Same architecture (the published one), batch, precision (bf16 autocast), augmentation and optimizer.
The peer's ``train_laom`` runs unmodified on made-up data; each time that it logs a step, the turn
goes to ours: the loop's own step on clips read from shards. Waiting for data counts in neither, nor
do the peer's three probes and its log. Windows are cut in our step, but by the peer's data loader,
so they are not in the whole that is compared. Without ``--peer`` only our lines are printed.
``--compile`` is ``train.compile``.

One JSON line per part of the step (``cpu_share``: its share of the CPU time of our step), one for
the parts that are no networks together, one for the whole of the step (``ratio``: the peer's
seconds over ours, the median over steps; ``cpu_ratio`` in CPU seconds, which other work on the
machine hardly changes), and one that sets our step against the limit: the same matrix products and
convolutions, each timed alone, and nothing else.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from lafp.config import config_from_dict
from lafp.train.compiled import compile_networks, uncompiled
from lafp.train.context import LocalContext
from lafp.train.engines import ddp
from lafp.train.engines.ddp import DdpEngine
from lafp.train.loop import _train_step
from lafp.train.metrics.recorder import Recorder
from lafp.train.tasks import lam
from lafp.train.tasks.lam import LamTask, TrainLamConfig
from ray_jobs.core.cluster import use_huge_pages
from tests.synthetic_shards import moving_dot, write_shard_set

SIZE_PX, NUM_FRAMES, WINDOWS_PER_CLIP, MAX_OFFSET_STEPS = 64, 32, 4, 10
PARTS = ("augmentation", "forward", "backward", "optimizer", "ema")
OURS_ALONE = ("windows", "gradient_norm")
"""Parts of our step only. The second is a part of ``optimizer``."""
NO_NETWORKS = ("augmentation", "windows", "ema")
NUM_WARMUP_STEPS = 2
NUM_LIMIT_ROUNDS = 5


class Clock:
    """Seconds on the wall and of the CPU that each part of a step takes; a list per part."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.steps: list[dict[str, np.ndarray]] = []
        self._step: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))

    def now(self) -> np.ndarray:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return np.array([time.perf_counter(), time.process_time()])

    @contextlib.contextmanager
    def timing(self, part: str) -> Iterator[None]:
        start = self.now()
        yield
        self._step[part] += self.now() - start

    def timed(self, part: str, function: Callable) -> Callable:
        @wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self.timing(part):
                return function(*args, **kwargs)

        return wrapped

    def end_step(self) -> None:
        self.steps.append(dict(self._step))
        self._step.clear()

    def seconds(self, part: str) -> np.ndarray:
        """Of every step after the warm-up, [steps, 2]."""
        return np.stack([step[part] for step in self.steps[NUM_WARMUP_STEPS:]])


class Ours:
    """The loop's own step on the published configuration."""

    def __init__(
        self, folder: str, batch_size: int, device: torch.device, is_compiled: bool
    ) -> None:
        self.clock = Clock(device)
        shards = write_shard_set(
            Path(folder) / "videos", 2 * batch_size, 32, (NUM_FRAMES, NUM_FRAMES), SIZE_PX
        )
        self.cfg = _config(batch_size, is_compiled)
        self.task = LamTask(self.cfg, shards, None)
        if is_compiled:
            compile_networks(self.task.module)
        self.context = LocalContext(folder, str(device))
        self.engine = DdpEngine(self.cfg.train, self.task.module, device)
        self.batches = self.context.clips(self.task.demands(), 1, 0)
        self.recorder = Recorder(self.cfg.train, self.task, self.context, 0)
        self._time_parts()

    def _time_parts(self) -> None:
        clock, module, engine = self.clock, self.task.module, self.engine
        lam.cut_windows = clock.timed("windows", lam.cut_windows)
        ddp.clip_gradients = clock.timed("gradient_norm", ddp.clip_gradients)
        module.objective.augment = clock.timed("augmentation", module.objective.augment)
        module.forward = clock.timed("forward", module.forward)
        module.after_step = clock.timed("ema", module.after_step)
        engine.step = clock.timed("optimizer", engine.step)
        engine.forward_backward = clock.timed("forward and backward", engine.forward_backward)

    def step(self) -> None:
        batch = next(self.batches)
        number = len(self.clock.steps)
        args = self.task, self.context, self.engine, iter([batch]), self.recorder
        with self.clock.timing("step"):
            _train_step(self.cfg.train, *args, number)
        step = self.clock._step
        step["backward"] = step["forward and backward"] - step["forward"]
        self.clock.end_step()


def _config(batch_size: int, is_compiled: bool) -> TrainLamConfig:
    raw = {
        "objective": {"name": "laom"},
        "window": {
            "frame_stack": 3,
            "max_offset_steps": MAX_OFFSET_STEPS,
            "windows_per_clip": WINDOWS_PER_CLIP,
        },
        "train": {
            "num_steps": 1000,
            "global_batch_size": batch_size,
            "precision": "bf16",
            "compile": is_compiled,
            "optim": {"lr": 1e-4, "warmup_steps": 300, "decay": "linear"},
        },
    }
    return config_from_dict(TrainLamConfig, raw)


class EnoughError(Exception):
    """The peer has done enough steps."""


class Peer:
    """``train_laom`` of the peer's checkout, which gives ``turn`` the word after every step."""

    def __init__(self, checkout: str, folder: str, batch_size: int, device: torch.device) -> None:
        sys.path.insert(0, checkout)
        os.environ["TQDM_DISABLE"] = "1"
        import train_laom

        self.clock, self.laom = Clock(device), train_laom
        data = _write_hdf5(f"{folder}/peer.hdf5")
        self.config = train_laom.LAOMConfig(
            num_epochs=1000, batch_size=batch_size, future_obs_offset=MAX_OFFSET_STEPS,
            learning_rate=1e-4, warmup_epochs=300, latent_action_dim=8192, act_head_dim=1024,
            obs_head_dim=1024, encoder_scale=6, encoder_num_res_blocks=2, encoder_deep=False,
            target_tau=0.001, frame_stack=3, data_path=data,
        )  # fmt: skip
        assert str(device) == train_laom.DEVICE, f"The peer takes {train_laom.DEVICE}."

    def run(self, turn: Callable[[], None], num_steps: int) -> None:
        """Trains, and calls ``turn`` after each of ``num_steps`` steps."""
        clock, laom = self.clock, self.laom

        def log(*_: Any) -> None:
            clock.end_step()
            turn()
            if len(clock.steps) == num_steps:
                raise EnoughError

        with contextlib.ExitStack() as stack, contextlib.redirect_stdout(sys.stderr):
            stack.enter_context(contextlib.suppress(EnoughError))
            for owner, name, new in (
                (laom.wandb, "log", log),
                (laom, "soft_update", clock.timed("ema", laom.soft_update)),
                (laom.Augmenter, "__call__", clock.timed("augmentation", laom.Augmenter.__call__)),
                *self._of_the_model(),
            ):
                stack.enter_context(_replaced(owner, name, new))
            laom.train_laom(self.config)

    def _of_the_model(self) -> Iterator[tuple[Any, str, Any]]:
        """Hooks that time the first backward pass and optimizer of a step: those of the model."""
        clock, laom = self.clock, self.laom
        forward, backward, step = laom.LAOM.forward, torch.Tensor.backward, torch.optim.Adam.step

        def started(*args: Any) -> Any:
            self._start = clock.now()
            return forward(*args)

        def once(part: str, function: Callable) -> Callable:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                if part in clock._step:  # a probe's
                    return function(*args, **kwargs)
                if part == "backward":  # the target and the loss have been computed by now
                    clock._step["forward"] += clock.now() - self._start
                with clock.timing(part):
                    return function(*args, **kwargs)

            return wrapped

        yield laom.LAOM, "forward", started
        yield torch.Tensor, "backward", once("backward", backward)
        yield torch.optim.Adam, "step", once("optimizer", step)


@contextlib.contextmanager
def _replaced(owner: Any, name: str, new: Any) -> Iterator[None]:
    old = getattr(owner, name)
    setattr(owner, name, new)
    try:
        yield
    finally:
        setattr(owner, name, old)


def _write_hdf5(path: str) -> str:
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs["img_hw"] = SIZE_PX
        for index in range(16):
            frames, steps = moving_dot(100, index, SIZE_PX)
            trajectory = file.create_group(str(index))
            trajectory["obs"], trajectory["actions"] = frames, steps
            trajectory["states"] = np.cumsum(steps, 0)
    return path


class Limit(TorchDispatchMode):
    """Notes the matrix products and convolutions of a step: operation, shapes, how often."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, list[Any]] = {}
        self.num_flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.num_flops += formula(*args, **(kwargs or {}), out_val=out)
            key = str((func, [_form(a) for a in args]))
            self.calls.setdefault(key, [func, [_like(a) for a in args], kwargs or {}, 0])[3] += 1
        return out

    def seconds(self, clock: Clock) -> float:
        """Of all calls, each as fast as it has been alone, its operands at rest in memory."""
        total = 0.0
        for func, args, kwargs, count in self.calls.values():
            best = np.inf
            for _ in range(NUM_LIMIT_ROUNDS):
                start = clock.now()
                func(*args, **kwargs)
                best = min(best, float((clock.now() - start)[0]))
            total += count * best
        return total


def _form(value: Any) -> Any:
    return (value.shape, value.stride(), value.dtype) if torch.is_tensor(value) else value


def _like(value: Any) -> Any:
    return torch.randn_like(value) if torch.is_tensor(value) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", help="a checkout of dunnolab/laom")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="a GPU if there is one")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    use_huge_pages()  # as in a training
    torch.set_num_threads(args.threads)
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    num_steps = NUM_WARMUP_STEPS + args.steps
    with tempfile.TemporaryDirectory() as folder:
        ours, peer = Ours(folder, args.batch_size, device, args.compile), None
        if args.peer:
            peer = Peer(args.peer, folder, args.batch_size, device)
            peer.run(ours.step, num_steps)
        else:
            for _ in range(num_steps):
                ours.step()
        report(ours, peer, args)


def report(ours: Ours, peer: Peer | None, args: argparse.Namespace) -> None:
    facts = {
        "device": str(ours.context.device),
        "batch_size": args.batch_size,
        "threads": args.threads,
        "steps": args.steps,
        "compile": args.compile,
        "load": round(os.getloadavg()[0], 1),
    }
    mine = {part: ours.clock.seconds(part) for part in PARTS}
    mine["whole"] = sum(mine.values())
    mine |= {part: ours.clock.seconds(part) for part in OURS_ALONE}
    mine["no_networks"] = sum(mine[part] for part in NO_NETWORKS)
    steps = ours.clock.seconds("step")
    theirs: dict[str, Any] = {}
    if peer:
        theirs = {part: peer.clock.seconds(part) for part in PARTS}
        theirs["whole"] = sum(theirs.values())
    for part, seconds in mine.items():
        name = "lam_step/vs_laom" + ("" if part == "whole" else f"/{part}")
        line: dict[str, Any] = {"bench": name, "ms": _ms(seconds), "cpu_ms": _ms(seconds, 1)}
        line["cpu_share"] = round(float(np.median(seconds[:, 1] / steps[:, 1])), 4)
        if part in theirs:
            ratio, cpu_ratio = np.median(theirs[part] / np.maximum(seconds, 1e-9), axis=0)
            line |= {"peer_ms": _ms(theirs[part]), "peer_cpu_ms": _ms(theirs[part], 1)}
            line |= {"cpu_ratio": round(float(cpu_ratio), 3), "ratio": round(float(ratio), 3)}
        print(json.dumps(line | facts), flush=True)
    limit = Limit()
    with uncompiled(args.compile), limit:
        ours.step()
    limit_s = limit.seconds(ours.clock)
    step_s = float(np.median(ours.clock.seconds("step")[:-1], axis=0)[0])
    line = {
        "bench": "lam_step/vs_limit",
        "step_ms": round(1000 * step_s, 1),
        "limit_ms": round(1000 * limit_s, 1),
        "gflops_per_step": round(limit.num_flops / 1e9, 1),
        "limit_gflops_per_s": round(limit.num_flops / 1e9 / limit_s, 1),
        "ratio": round(limit_s / step_s, 3),
    }
    print(json.dumps(line | facts), flush=True)


def _ms(seconds: np.ndarray, column: int = 0) -> float:
    return round(1000 * float(np.median(seconds[:, column])), 1)


if __name__ == "__main__":
    main()
