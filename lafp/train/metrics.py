"""Measuring while training, without making the device wait, and writing it down."""

import json
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lafp import storage
from lafp.config import config_to_dict
from lafp.types import ClipBatch, LossOutput

FILE = "metrics.jsonl"
STARTS_FILE = "starts.jsonl"
NEVER = torch.iinfo(torch.int64).max


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite. The message names the step and its clips."""


class Meter:
    """Means over the steps since the last report; everything stays on the device until then.

    Args:
        device: Where the losses lie.
        windows_per_step: Over all ranks.
    """

    def __init__(self, device: torch.device, windows_per_step: int) -> None:
        self._device = device
        self._windows_per_step = windows_per_step
        self.restart()

    def restart(self) -> None:
        """Begins a new interval, e.g. after an evaluation that is no part of training."""
        self._start = time.perf_counter()
        self._waiting_s = 0.0
        self._steps: set[int] = set()
        self._sums: dict[str, Tensor] = {}
        self._num_rounds = 0
        self._first_bad = torch.tensor(NEVER, device=self._device)
        self._clip_keys: dict[int, list[Tensor]] = {}

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time in this block is waiting for data."""
        start = time.perf_counter()
        yield
        self._waiting_s += time.perf_counter() - start

    def add(self, step: int, out: LossOutput, clips: Mapping[str, ClipBatch]) -> None:
        """Notes one micro-batch of one step."""
        self._steps.add(step)
        self._num_rounds += 1
        for name, value in {"loss": out.loss, **out.metrics}.items():
            total = self._sums.setdefault(name, torch.zeros((), device=self._device))
            total += value.detach()
        is_bad = ~torch.isfinite(out.loss.detach())
        self._first_bad = torch.where(is_bad, self._first_bad.clamp(max=step), self._first_bad)
        keys = self._clip_keys.setdefault(step, [])
        keys.extend(batch.clip_key for batch in clips.values())

    def read(self) -> dict[str, float]:
        """The interval's metrics, averaged over micro-batches and ranks. All ranks call it.

        Raises:
            NonFiniteLossError: On every rank, when the loss of any was NaN or infinite.
        """
        names = sorted(self._sums)
        means = torch.stack([self._sums[name] for name in names]) / self._num_rounds
        first_bad = self._first_bad
        if _is_distributed():
            dist.all_reduce(means)
            means /= dist.get_world_size()
            first_bad = first_bad.clone()
            dist.all_reduce(first_bad, op=dist.ReduceOp.MIN)
        if (step := int(first_bad)) < NEVER:
            raise NonFiniteLossError(self._what_was_bad(step))
        values = dict(zip(names, means.tolist(), strict=True))  # the one wait for the device
        elapsed_s = time.perf_counter() - self._start
        return values | {
            "windows_per_s": len(self._steps) * self._windows_per_step / elapsed_s,
            "step_s": elapsed_s / len(self._steps),
            "data_wait_share": self._waiting_s / elapsed_s,
        }

    def _what_was_bad(self, step: int) -> str:
        mine: list[int] = []
        if int(self._first_bad) == step:
            mine = torch.cat(self._clip_keys[step]).tolist()
        everyones = [mine]
        if _is_distributed():
            everyones = [[] for _ in range(dist.get_world_size())]
            dist.all_gather_object(everyones, mine)
        # A key is the id's first 64 bits without the last: 15 hex digits are the id's own.
        prefixes = [f"{key << 1:016x}"[:15] for keys in everyones for key in keys]
        return (
            f"The loss of step {step} is not finite. Lower optim.lr, set optim.max_grad_norm, or "
            f"look at its clips; their ids begin with: {', '.join(dict.fromkeys(prefixes))}."
        )


class MetricsLog:
    """``metrics.jsonl``: one JSON record per report. Rank 0 writes it.

    Beside it ``starts.jsonl`` says at which steps the run was started and resumed.

    Args:
        uri: The stage's folder.
        start_step: Records after it, of a run that was interrupted, are dropped.
        wandb: ``off``, ``auto`` (online where the user is logged in), ``online`` or ``offline``.
        config: Goes to wandb.
    """

    def __init__(self, uri: str, start_step: int, wandb: str = "off", config: Any = None) -> None:
        self._uri = storage.join(uri, FILE)
        self._records = [r for r in read_metrics(uri) if r["step"] <= start_step]
        self._text = _to_lines(self._records)
        storage.write_text(self._uri, self._text)
        starts = [*read_starts(uri), {"step": start_step, "at": time.time()}]
        storage.write_text(storage.join(uri, STARTS_FILE), _to_lines(starts))
        self._wandb = _start_wandb(wandb, uri, start_step, config)

    @property
    def last(self) -> dict[str, float]:
        """Every metric's latest value."""
        return {name: value for record in self._records for name, value in record.items()}

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends a record."""
        record = {"step": step, **metrics}
        self._records.append(record)
        line = json.dumps(record) + "\n"
        if storage.is_s3(self._uri):  # objects cannot grow
            self._text += line
            storage.write_text(self._uri, self._text)
        else:
            with open(self._uri, "a") as file:
                file.write(line)
        if self._wandb:
            self._wandb.log(dict(metrics), step=step)

    def close(self) -> None:
        """Ends the wandb run."""
        if self._wandb:
            self._wandb.finish()


def read_metrics(uri: str) -> list[dict[str, float]]:
    """The records of a stage's ``metrics.jsonl``; empty when it has none.

    A last line that a killed process left unfinished is skipped.
    """
    return _from_lines(storage.join(uri, FILE))


def read_starts(uri: str) -> list[dict[str, float]]:
    """The starts of a stage: the step that each began at, and when."""
    return _from_lines(storage.join(uri, STARTS_FILE))


def _to_lines(records: Iterable[Mapping[str, float]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def _from_lines(uri: str) -> list[dict[str, float]]:
    if not storage.is_file(uri):
        return []
    return [json.loads(line) for line in storage.read_text(uri).split("\n")[:-1] if line]


def _is_distributed() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1


def _start_wandb(mode: str, uri: str, start_step: int, config: Any) -> Any:
    if mode == "off":
        return None
    import wandb

    if mode == "auto":
        mode = "online" if wandb.api.api_key else "offline"
    id_uri = storage.join(uri, "wandb_id")
    if start_step and storage.is_file(id_uri):
        run_id = storage.read_text(id_uri)
    else:
        run_id = uuid.uuid4().hex[:12]
        storage.write_text(id_uri, run_id)
    return wandb.init(
        project="lafp",
        name="/".join(uri.split("/")[-2:]),
        id=run_id,
        resume="allow",
        mode=mode,  # type: ignore[arg-type]
        dir=tempfile.mkdtemp(prefix="lafp-wandb-") if storage.is_s3(uri) else uri,
        config=config_to_dict(config),
    )
