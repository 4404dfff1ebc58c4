"""Runs that are interrupted and go on otherwise: what each step read, and whether that is right."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from lafp.data.windows import window_indices
from lafp.ranks import world_size
from lafp.train.metrics.log import read_metrics, read_starts
from tests.toy_task import WINDOW, ToyModule, ToyTask, rank_of_this_process

CLIPS_PER_STEP = 16
"""Four workers with four micro-batches each get one clip per micro-batch."""
WINDOWS_PER_STEP = CLIPS_PER_STEP * WINDOW.windows_per_clip
NUM_CLIPS = 20
"""Epochs end within steps."""
ENDS_AT = [3, 6, 9]
"""Steps at which the legs of a chain end."""


@dataclass(frozen=True, kw_only=True)
class Leg:
    """A part of a run, between two of its starts."""

    num_workers: int
    gradient_accumulation: int = 1
    num_readers: int = 1
    mode: Literal["direct", "ray"] = "direct"
    ends: Literal["stop", "crash", "done"] = "done"
    """``stop``: with a checkpoint, as after SIGTERM. ``crash``: a step after a checkpoint, so that
    the next leg repeats a step. ``done``: by itself."""


class StepwiseModule(ToyModule):
    """Moves its running mean once per step, however many micro-batches that has."""

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self._means: list[torch.Tensor] = []

    def count(self, mean: torch.Tensor) -> None:
        self._means.append(mean)

    def after_step(self) -> None:
        mean = torch.stack(self._means).mean(0)
        self._means.clear()
        super().count(mean)
        super().after_step()

    def discard_step(self) -> None:
        self._means.clear()


class RecordingTask(ToyTask):
    """Writes the ids of the windows of every micro-batch, a line each, to a file per leg and rank.

    Without noise, so that runs with other numbers of workers do the same sums, up to their order.
    """

    module_class = StepwiseModule

    def __init__(self, shards: str, folder: str, leg: int, width: int = 16) -> None:
        super().__init__(shards, CLIPS_PER_STEP, width=width, noise=0.0)
        self._path = Path(folder, f"windows-{leg}-{rank_of_this_process()}-{world_size()}.jsonl")

    def inputs(self, clips):
        batch = clips["videos"]
        clip_N, t_N, k_N = window_indices(batch, WINDOW, seed=0)
        ids = torch.stack([batch.clip_key[clip_N], batch.epoch[clip_N], t_N, k_N], 1)
        with self._path.open("a") as file:
            file.write(json.dumps(ids.tolist()) + "\n")
        return super().inputs(clips)


def windows_of(folder: Path, number: int, leg: Leg) -> list[Counter[tuple[int, ...]]]:
    """The windows that each step of a leg read, over all ranks and micro-batches."""
    steps: list[Counter[tuple[int, ...]]] = []
    per_micro_batch = WINDOWS_PER_STEP // (leg.num_workers * leg.gradient_accumulation)
    for rank in range(leg.num_workers):
        path = folder / f"windows-{number}-{rank}-{leg.num_workers}.jsonl"
        micro_batches = [json.loads(line) for line in path.read_text().splitlines()]
        assert {len(windows) for windows in micro_batches} == {per_micro_batch}
        for index, windows in enumerate(micro_batches):
            if (step := index // leg.gradient_accumulation) == len(steps):
                steps.append(Counter())
            steps[step].update(map(tuple, windows))
    return steps


def assert_visits_are_whole(steps: list[Counter[tuple[int, ...]]]) -> None:
    """Every clip is visited once in each whole epoch, and with as many windows as it should be."""
    visits = Counter((epoch, clip) for step in steps for clip, epoch, *_ in step.elements())
    num_epochs = len(steps) * CLIPS_PER_STEP // NUM_CLIPS
    assert num_epochs > 1 and set(visits.values()) == {WINDOW.windows_per_clip}
    for epoch in range(num_epochs):
        assert sum(found == epoch for found, _ in visits) == NUM_CLIPS


def assert_same_windows(
    folder: Path, legs: list[Leg], ends_at: list[int], whole: list[Counter[tuple[int, ...]]]
) -> None:
    """Each leg begins where the one before it ended, and reads the windows of an undisturbed run.

    Args:
        folder: The stage's.
        legs: What has been done there.
        ends_at: The step of the last checkpoint of each leg.
        whole: The windows of every step of an undisturbed run.
    """
    starts = [0, *ends_at[:-1]]
    assert [start["step"] for start in read_starts(str(folder))] == starts
    for number, (leg, start, end) in enumerate(zip(legs, starts, ends_at, strict=True)):
        end += leg.ends == "crash"
        assert windows_of(folder, number, leg) == whole[start:end], (folder, number, leg)
    assert ends_at[-1] == len(whole)


def assert_same_result(folder: Path, reference: Path, tolerance: dict[str, float]) -> None:
    """Losses and norms of all steps, and weights, buffers and averages of the finished model."""
    ours, theirs = read_metrics(str(folder)), read_metrics(str(reference))
    assert [record["step"] for record in ours] == [record["step"] for record in theirs]
    for name in ("loss", "grad_norm"):
        values = [torch.tensor([record[name] for record in records]) for records in (ours, theirs)]
        torch.testing.assert_close(*values, **tolerance, msg=lambda m, n=name: f"{folder} {n}: {m}")
    expected = torch.load(reference / "toy.pt")
    for name, value in torch.load(folder / "toy.pt").items():
        where = f"{folder}, {name}"
        torch.testing.assert_close(
            value, expected[name], **tolerance, msg=lambda m, w=where: f"{w}: {m}"
        )
