"""The probe of a latent action model while it trains, and the transitions of any probe."""

# Shape suffixes in this file: N transitions, D features.

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lafp.data.labels import action_spec, unseen_clips
from lafp.data.order.clips import ClipOrder, ClipRef
from lafp.data.shards.cache import ClipCache
from lafp.data.shards.format import Split
from lafp.data.shards.reader import ClipReader
from lafp.data.windows import stack_frames, windows_at
from lafp.evaluate.probes.linear import (
    ProbeData,
    ProbeScore,
    accuracy,
    action_targets,
    fit_probe,
    probe_metrics,
    score_predictions,
)
from lafp.evaluate.probes.probe_clips import probe_clips
from lafp.evaluate.probes.training_data import why_no_probe
from lafp.objectives.base import Objective
from lafp.seeding import seeded
from lafp.train.tasks.lam_sections import ProbeConfig
from lafp.types import ClipBatch, Window

MAX_CLIPS = 256
CLIPS_PER_BATCH = 8
WINDOWS_PER_BATCH = 256
"""Windows that a model sees at once, however long the clips are."""
CACHE_BYTES = 1 << 28


class LamProbe:
    """Probes LAMs of one config on one labeled set: fitted and measured on ``probe_clips``.

    It takes a share of the transitions, because it is measured often. ``thorough_probe`` takes all
    of them when the LAM is finished. Controls: the LAM's embedding of o_t alone, a randomly
    initialised LAM of the same shape, and the actions' variance.

    Args:
        labeled_shards: URI of the set.
        cfg: Says how many transitions the probe reads at most.
        seed: Seed of the random LAM's weights.
        supervised: Ids of the clips whose actions supervise the LAM.
    """

    def __init__(
        self,
        labeled_shards: str,
        cfg: ProbeConfig,
        seed: int,
        supervised: frozenset[str] = frozenset(),
    ) -> None:
        self._seed, self._labeled_shards, self._supervised = seed, labeled_shards, supervised
        self._fit, self._held_out = transitions_of_probe(
            labeled_shards, supervised, cfg.max_transitions
        )
        self._random_score: ProbeScore | None = None

    @cached_property
    def skipped(self) -> str | None:
        """Says why nothing can be measured; None if the probe can measure."""
        return why_no_probe(self._labeled_shards, self._supervised)

    @torch.no_grad()
    def measure(self, objective: Objective) -> dict[str, float]:
        """Returns a LAM's metrics ``probe/...``; none if ``skipped``. The LAM keeps its mode."""
        if self.skipped is not None:
            return {}
        device, stack = next(objective.parameters()).device, objective.obs.frame_stack
        # The random LAM never changes, so it is measured only once.
        if self._random_score is None:
            random_lam = untrained(objective, self._seed).to(device)
            self._random_score, _ = self._probe(infer_from_window(random_lam), stack, device)
        was_training = objective.training
        objective.eval()
        score, extra = self._probe(infer_from_window(objective), stack, device)
        embedding_score, _ = self._probe(lambda window: objective.embed(window.obs), stack, device)
        objective.train(was_training)
        controls = {"obs_embedding": embedding_score, "random_lam": self._random_score}
        return probe_metrics({"latent": score, **controls}) | extra

    def _probe(
        self, features_of: Callable[[Window], Tensor], frame_stack: int, device: torch.device
    ) -> tuple[ProbeScore, dict[str, float]]:
        """Fits and measures one probe; the dict holds what only discrete actions have."""
        probe = fit_probe(*self._fit.features(features_of, frame_stack, device))
        features_ND, data = self._held_out.features(features_of, frame_stack, device)
        predicted_NY, extra = probe(features_ND), {}
        if self._fit.action.is_discrete:
            extra["probe/accuracy"] = accuracy(predicted_NY, data)
        return score_predictions(predicted_NY, data), extra


def infer_from_window(objective: Objective) -> Callable[[Window], Tensor]:
    """Returns the map from windows to z."""
    return lambda window: objective.infer_latent_action(window.obs, window.next_obs)


def untrained(objective: Objective, seed: int) -> Objective:
    """Returns a randomly initialised LAM of the same shape, with the same scales of the data."""
    with seeded(seed):
        random_lam = type(objective)(objective.cfg, objective.obs).eval()
    # The control must differ by its weights alone, not by the units that it reads in.
    random_lam.take_scales(objective)
    return random_lam


def transitions_of_probe(
    labeled_shards: str, supervised: frozenset[str], max_transitions: int | None
) -> tuple["LabeledTransitions", "LabeledTransitions"]:
    """Returns the transitions to fit a probe on, and those to measure it on."""
    clips = probe_clips(labeled_shards, supervised)
    return (
        LabeledTransitions(labeled_shards, clips.fit_split, clips.fit, max_transitions),
        LabeledTransitions(labeled_shards, "val", clips.held_out, max_transitions),
    )


class LabeledTransitions:
    """Reads labeled transitions of some clips, always the same ones. Keeps decoded clips.

    Args:
        labeled_shards: URI of the set.
        split: The split of the clips.
        episode_of: Ids of the clips, each with that of its episode.
        max_transitions: Largest number of transitions, spread evenly over at most ``MAX_CLIPS``
            clips; None takes all of them.
    """

    def __init__(
        self,
        labeled_shards: str,
        split: Split,
        episode_of: Mapping[str, str],
        max_transitions: int | None,
    ) -> None:
        self.split, self.action = split, action_spec(labeled_shards)
        refs: list[ClipRef] = []
        if episode_of:
            order = ClipOrder(
                shard_set=labeled_shards, split=split, seed=0, only_clips=frozenset(episode_of)
            )
            num_clips = len(episode_of)
            refs = list(
                islice(
                    order.visits(),
                    num_clips if max_transitions is None else min(num_clips, MAX_CLIPS),
                )
            )
        names = sorted({episode_of[ref.location.clip_id] for ref in refs})
        unseen = unseen_clips(labeled_shards)
        self.num_episodes = len(names)
        self._refs = refs
        self._episode_of_ref = torch.tensor(
            [names.index(episode_of[ref.location.clip_id]) for ref in refs], dtype=torch.int64
        )
        self._is_ref_unseen = torch.tensor(
            [ref.location.clip_id in unseen for ref in refs], dtype=torch.bool
        )
        self._max_per_clip: int | None = None
        if max_transitions is not None:
            self._max_per_clip = -(-max_transitions // max(1, len(refs)))
        self._reader = ClipReader(labeled_shards, ClipCache(CACHE_BYTES))

    def features(
        self,
        features_of: Callable[[Window], Tensor],
        frame_stack: int,
        device: torch.device,
        file: Path | None = None,
    ) -> tuple[Tensor, ProbeData]:
        """Returns the features of all transitions, float32 [N, D], and their targets.

        Args:
            features_of: Maps windows to their features.
            frame_stack: Frames of an observation.
            device: The device of the windows and of the targets.
            file: Where the features are written. They are then mapped from it, on the CPU, so that
                they take no memory that cannot be freed.
        """
        features, targets, refs, noises = Rows(file), [], [], []
        for window, ref_N in self._windows(frame_stack, device):
            assert window.true_action is not None
            features.add(features_of(window).float())
            targets.append(action_targets(window.true_action, self.action))
            refs.append(ref_N)
            if (noise := window.action_noise) is not None:
                without = action_targets(window.true_action - noise, self.action)
                noises.append(targets[-1] - without)
        ref_N = torch.cat(refs)
        data = ProbeData(
            targets=torch.cat(targets),
            episode=self._episode_of_ref[ref_N].to(device),
            is_unseen=self._is_ref_unseen[ref_N].to(device),
            noise=torch.cat(noises) if len(noises) == len(targets) else None,
        )
        return features.all(), data

    def triples(
        self, frame_stack: int, num_steps: int, device: torch.device
    ) -> Iterator[tuple[tuple[Tensor, Tensor, Tensor], Tensor]]:
        """Yields o_t, o_{t+n} and o_{t+2n} of n = ``num_steps``, and the episodes, int64 [N]."""
        for batch, clip_N, t_N, ref_N in self._moments(frame_stack, 2 * num_steps, device):
            first, second, third = (
                stack_frames(batch.frames, clip_N, t_N + n * num_steps, frame_stack)
                for n in range(3)
            )
            yield (first, second, third), self._episode_of_ref[ref_N]

    def pairs(
        self, frame_stack: int, stride: int, device: torch.device
    ) -> Iterator[tuple[Window, Tensor, Tensor]]:
        """Yields windows of ``stride`` steps, one after the other without overlap.

        Their ``next_obs`` is o_{t+stride}. Also yields the true actions between, [N, stride, A],
        and the episodes, int64 [N].
        """
        for batch, clip_N, t_N, ref_N in self._moments(frame_stack, stride, device):
            is_one_N = (t_N - (frame_stack - 1)) % stride == 0
            clip_N, t_N, ref_N = clip_N[is_one_N], t_N[is_one_N], ref_N[is_one_N]
            if not len(t_N):
                continue
            window = windows_at(batch, clip_N, t_N, torch.full_like(t_N, stride), frame_stack)
            assert batch.true_action is not None
            actions = batch.true_action[clip_N[:, None], t_N[:, None] + torch.arange(stride)]
            yield (
                replace(window, next_obs=window.future_obs),
                actions,
                self._episode_of_ref[ref_N],
            )

    def windows(self, frame_stack: int, device: torch.device) -> Iterator[tuple[Window, Tensor]]:
        """Yields windows of one step, and the episodes, int64 [N]."""
        for window, ref_N in self._windows(frame_stack, device):
            yield window, self._episode_of_ref[ref_N]

    def _windows(self, frame_stack: int, device: torch.device) -> Iterator[tuple[Window, Tensor]]:
        for batch, clip_N, t_N, ref_N in self._moments(frame_stack, 1, device):
            yield windows_at(batch, clip_N, t_N, torch.ones_like(t_N), frame_stack), ref_N

    def _moments(
        self, frame_stack: int, span: int, device: torch.device
    ) -> Iterator[tuple[ClipBatch, Tensor, Tensor, Tensor]]:
        """Yields clips, and clip, time and index of the clip in ``_refs`` of some moments."""
        for start, arrays in self._reader.sound_batches(self._refs, CLIPS_PER_BATCH):
            batch = ClipBatch(**{name: torch.from_numpy(a) for name, a in arrays.items()})
            times = [self._times(int(num), frame_stack, span) for num in batch.num_frames]
            for row in np.flatnonzero(arrays["damaged"][:, 0]):
                times[row] = times[row][:0]  # the clip that stands in is of another episode
            if not sum(map(len, times)):
                continue
            sizes = torch.tensor([len(t) for t in times])
            clips = torch.arange(len(times)).repeat_interleave(sizes).split(WINDOWS_PER_BATCH)
            batch = batch.to(device)
            for clip_N, t_N in zip(clips, torch.cat(times).split(WINDOWS_PER_BATCH), strict=True):
                yield batch, clip_N, t_N, start + clip_N

    def _times(self, num_frames: int, frame_stack: int, span: int) -> Tensor:
        """Returns some times t with a whole frame stack before them and ``span`` frames after."""
        t_N = torch.arange(frame_stack - 1, max(frame_stack - 1, num_frames - span))
        if self._max_per_clip is None or len(t_N) <= self._max_per_clip:
            return t_N
        return t_N[torch.linspace(0, len(t_N) - 1, self._max_per_clip).round().long()]


class Rows:
    """Collects rows of features, in memory or in a file."""

    def __init__(self, file: Path | None) -> None:
        self._file, self._parts, self._shape = file, list[Tensor](), [0, 0]
        if file is not None:
            file.write_bytes(b"")

    def add(self, rows_ND: Tensor) -> None:
        """Appends rows."""
        if self._file is None:
            self._parts.append(rows_ND)
            return
        with self._file.open("ab") as file:
            file.write(rows_ND.cpu().numpy().tobytes())
        self._shape = [self._shape[0] + len(rows_ND), rows_ND.shape[1]]

    def all(self) -> Tensor:
        """Returns the rows, float32 [N, D]."""
        if self._file is None:
            return torch.cat(self._parts)
        size = self._shape[0] * self._shape[1]
        return torch.from_file(str(self._file), shared=True, size=size).view(self._shape)
