"""The linear probe of a latent action model, with its controls, on a labeled shard set."""

# Shape suffixes in this file: N transitions, D features.

from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from lafp.data.labels import action_spec, labeled_episodes
from lafp.data.order.clips import ClipOrder, ClipRef
from lafp.data.shards.cache import ClipCache
from lafp.data.shards.format import Split
from lafp.data.shards.reader import ClipReader
from lafp.data.windows import windows_at
from lafp.evaluate.probes import (
    ProbeData,
    ProbeScore,
    accuracy,
    action_targets,
    fit_probe,
    probe_metrics,
    score_probe,
)
from lafp.evaluate.training_data import why_no_probe
from lafp.objectives.base import Objective
from lafp.train.tasks.lam_sections import ProbeConfig
from lafp.types import ClipBatch, Window

MAX_CLIPS = 256
CLIPS_PER_BATCH = 8
CACHE_BYTES = 1 << 28


class LamProbe:
    """Probes LAMs of one config on one labeled set: fitted on its train, measured on its val split.

    Controls: the LAM's embedding of o_t alone, a randomly initialised LAM of the same shape, and
    the actions' variance.

    Args:
        labeled_shards: URI of the set.
        cfg: Says how many transitions the probe reads at most.
        seed: Seed of the random LAM's weights.
    """

    def __init__(self, labeled_shards: str, cfg: ProbeConfig, seed: int) -> None:
        self._seed, self._labeled_shards = seed, labeled_shards
        self._fit = LabeledTransitions(labeled_shards, "train", cfg.max_transitions)
        self._held_out = LabeledTransitions(labeled_shards, "val", cfg.max_transitions)
        self._random_score: ProbeScore | None = None

    @cached_property
    def skipped(self) -> str | None:
        """Says why nothing can be measured; None if the probe can measure."""
        return why_no_probe(self._labeled_shards)

    @torch.no_grad()
    def measure(self, objective: Objective) -> dict[str, float]:
        """Returns a LAM's metrics ``probe/...``; none if ``skipped``. The LAM keeps its mode."""
        if self.skipped is not None:
            return {}
        device, stack = next(objective.parameters()).device, objective.obs.frame_stack
        # The random LAM never changes, so it is measured only once.
        if self._random_score is None:
            random_lam = self._random_lam(objective).to(device)
            self._random_score, _ = self._probe(_label(random_lam), stack, device)
        was_training = objective.training
        objective.eval()
        score, extra = self._probe(_label(objective), stack, device)
        embedding_score, _ = self._probe(lambda window: objective.embed(window.obs), stack, device)
        objective.train(was_training)
        controls = {"obs_embedding": embedding_score, "random_lam": self._random_score}
        return probe_metrics({"latent": score, **controls}) | extra

    def _random_lam(self, objective: Objective) -> Objective:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            random_lam = type(objective)(objective.cfg, objective.obs).eval()
        # The control must differ by its weights alone, not by the units that it reads in.
        random_lam.take_scales(objective)
        return random_lam

    def _probe(
        self, features_of: Callable[[Window], Tensor], frame_stack: int, device: torch.device
    ) -> tuple[ProbeScore, dict[str, float]]:
        """Fits and measures one probe; the dict holds what only discrete actions have."""
        probe = fit_probe(*self._fit.features(features_of, frame_stack, device))
        features_ND, data = self._held_out.features(features_of, frame_stack, device)
        extra = {}
        if self._fit.action.is_discrete:
            extra["probe/accuracy"] = accuracy(probe, features_ND, data)
        return score_probe(probe, features_ND, data), extra


def _label(objective: Objective) -> Callable[[Window], Tensor]:
    return lambda window: objective.label(window.obs, window.next_obs)


class LabeledTransitions:
    """Reads labeled transitions of one split, always the same ones. Keeps decoded clips."""

    def __init__(self, labeled_shards: str, split: Split, max_transitions: int) -> None:
        self.split, self.action = split, action_spec(labeled_shards)
        episode_of = labeled_episodes(labeled_shards, split)
        refs: list[ClipRef] = []
        if episode_of:
            order = ClipOrder(
                shard_set=labeled_shards, split=split, seed=0, only_clips=frozenset(episode_of)
            )
            refs = list(islice(order.visits(), min(len(episode_of), MAX_CLIPS)))
        names = sorted({episode_of[ref.location.clip_id] for ref in refs})
        self.num_episodes = len(names)
        self._refs = refs
        self._episode_of_ref = torch.tensor(
            [names.index(episode_of[ref.location.clip_id]) for ref in refs], dtype=torch.int64
        )
        self._max_per_clip = -(-max_transitions // max(1, len(refs)))
        self._reader = ClipReader(labeled_shards, ClipCache(CACHE_BYTES))

    def features(
        self, features_of: Callable[[Window], Tensor], frame_stack: int, device: torch.device
    ) -> tuple[Tensor, ProbeData]:
        """Returns the features of all transitions, [N, D], and their targets."""
        features, targets, episodes = [], [], []
        for window, episode_N in self._windows(frame_stack, device):
            assert window.true_action is not None
            features.append(features_of(window).float())
            targets.append(action_targets(window.true_action, self.action))
            episodes.append(episode_N)
        data = ProbeData(targets=torch.cat(targets), episode=torch.cat(episodes).to(device))
        return torch.cat(features), data

    def _windows(self, frame_stack: int, device: torch.device) -> Iterator[tuple[Window, Tensor]]:
        for start in range(0, len(self._refs), CLIPS_PER_BATCH):
            arrays = self._reader.read_sound_batch(self._refs[start : start + CLIPS_PER_BATCH])
            batch = ClipBatch(**{name: torch.from_numpy(a) for name, a in arrays.items()})
            times = [self._times(int(num), frame_stack) for num in batch.num_frames]
            for row in np.flatnonzero(arrays["damaged"][:, 0]):
                times[row] = times[row][:0]  # the clip that stands in is of another episode
            if not sum(map(len, times)):
                continue
            t_N = torch.cat(times)
            sizes = torch.tensor([len(t) for t in times])
            clip_N = torch.arange(len(times)).repeat_interleave(sizes)
            window = windows_at(batch.to(device), clip_N, t_N, torch.ones_like(t_N), frame_stack)
            yield window, self._episode_of_ref[start:][clip_N]

    def _times(self, num_frames: int, frame_stack: int) -> Tensor:
        """Returns some of the times t with a whole frame stack before and a frame after them."""
        t_N = torch.arange(frame_stack - 1, num_frames - 1)
        if len(t_N) <= self._max_per_clip:
            return t_N
        return t_N[torch.linspace(0, len(t_N) - 1, self._max_per_clip).round().long()]
