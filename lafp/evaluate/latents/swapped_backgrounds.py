"""How much of z changes with the background: the same episodes before two backgrounds.

``collect`` renders an episode from its seed alone, and distractors never change the simulation. So
a second run of ``collect`` with the same ``seed`` and other distractors renders the same episodes,
frame by frame and action by action, before other backgrounds.
"""

# Shape suffixes in this file: N transitions, D features, A action, E episodes.

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lafp import storage
from lafp.config import ConfigError
from lafp.data.labels import action_spec
from lafp.data.order.clips import ClipRef
from lafp.data.shards.clip_tables import clip_batches
from lafp.data.shards.damage import DamagedClipError
from lafp.data.shards.format import Labels
from lafp.data.shards.reader import ClipReader
from lafp.data.shards.sets import open_shard_set, read_shard_entry
from lafp.data.windows import windows_at
from lafp.evaluate.probes.linear import (
    action_targets,
    episode_folds,
    r2_of_sums,
    sums_over_episodes,
)
from lafp.evaluate.rows.statistics import Interval
from lafp.types import ClipBatch, Window

MIN_EPISODES = 2
MAX_TRANSITIONS = 2048
"""Transitions that are measured, spread evenly over the paired clips."""


@dataclass(frozen=True, kw_only=True)
class SwappedPair:
    """One clip before two backgrounds."""

    clip: ClipRef
    swapped: ClipRef
    episode: int


@dataclass(frozen=True, kw_only=True)
class BackgroundUse:
    """Shares of the variance of some features, with intervals that resample episodes."""

    background_share: Interval
    """Variance of one transition's features over backgrounds, divided by their variance over
    transitions and backgrounds. 0: the background changes nothing. 1: nothing else changes
    them."""
    action_share: Interval
    """Share of the latter variance that a linear map of the true action predicts, fitted on other
    episodes."""


def swapped_pairs(
    shards: str, swapped: str, episode_of: Mapping[str, str]
) -> tuple[list[SwappedPair], int]:
    """Finds the same clips in two sets, and checks that their actions are equal.

    Videos are the same episode if their files have the same name in folders of the same name, such
    as ``labeled_val/episode_000012.mp4``. The id of an episode cannot tell, because it is a hash of
    the pixels.

    Args:
        shards: URI of the labeled set.
        swapped: URI of the set with other backgrounds.
        episode_of: Ids of the clips of ``shards`` that are looked for, each with its episode's.

    Returns:
        The pairs, and the number of clips without one.

    Raises:
        ConfigError: The sets do not hold the same episodes.
    """
    ours = {key: row for key, row in _clips(shards).items() if row["clip_id"] in episode_of}
    theirs = _clips(swapped)
    names = sorted({episode_of[row["clip_id"]] for row in ours.values()})
    pairs = []
    for key in sorted(ours.keys() & theirs.keys()):
        clip, other = _ref(shards, ours[key]), _ref(swapped, theirs[key])
        _check_same(key[0], clip, other)
        episode = names.index(episode_of[ours[key]["clip_id"]])
        pairs.append(SwappedPair(clip=clip, swapped=other, episode=episode))
    if len({pair.episode for pair in pairs}) < MIN_EPISODES:
        raise ConfigError(
            f"swapped_shards: only {len({pair.episode for pair in pairs})} of the {len(names)} "
            f"held-out episodes of {shards} are found in {swapped}, by folder and name of their "
            f"videos; at least {MIN_EPISODES} are needed. Render them with the same seed of "
            "`collect` and preprocess them alike."
        )
    return pairs, len(ours) - len(pairs)


def measure_background_use(
    features_of: Callable[[Window], Tensor],
    pairs: list[SwappedPair],
    frame_stack: int,
    device: torch.device,
) -> BackgroundUse | None:
    """Measures one kind of features on paired clips; None if no clip is long enough."""
    spec = action_spec(pairs[0].clip.shard_set)
    parts: list[tuple[Tensor, ...]] = []
    for window, swapped, episode in _windows(pairs, frame_stack, device):
        assert window.true_action is not None
        parts.append(
            (
                features_of(window).float().cpu(),
                features_of(swapped).float().cpu(),
                action_targets(window.true_action, spec).cpu(),
                torch.full((len(window),), episode),
            )
        )
    if len({int(part[3][0]) for part in parts}) < MIN_EPISODES:
        return None
    return background_use(*(torch.cat(list(column)) for column in zip(*parts, strict=True)))


def background_use(
    own_ND: Tensor, swapped_ND: Tensor, action_NA: Tensor, episode_N: Tensor
) -> BackgroundUse:
    """Splits the variance of features that were computed before two backgrounds.

    With z = f(transition) + g(background), half of the mean squared difference of a pair is the
    variance of g, and the covariance of a pair is that of f. A shift that all pairs share counts
    for the background.

    Args:
        own_ND: Features before the own backgrounds.
        swapped_ND: Features of the same transitions before the others.
        action_NA: Their true actions.
        episode_N: Their episodes, int64 [N], at least two.
    """
    half_N = (own_ND - swapped_ND).square().mean(1).double() / 2
    shift = float((own_ND.mean(0) - swapped_ND.mean(0)).square().mean()) / 2
    own_ND, swapped_ND = own_ND - own_ND.mean(0), swapped_ND - swapped_ND.mean(0)
    total_N = shift + (own_ND.square() + swapped_ND.square()).mean(1).double() / 2
    told_ND = _told_by_action(own_ND, swapped_ND, action_NA, episode_N)
    errors = ((of_set - told_ND).square().mean(1) for of_set in (own_ND, swapped_ND))
    untold_N = shift + torch.stack(list(errors)).mean(0).double()
    not_background, action = (
        r2_of_sums(sums_over_episodes(error_N, total_N, episode_N))
        for error_N in (half_N, untold_N)
    )
    num = len(total_N)
    return BackgroundUse(
        background_share=_interval([1 - value for value in not_background], num),
        action_share=_interval(action, num),
    )


def _interval(ends: list[float] | tuple[float, ...], num: int) -> Interval:
    """Makes an interval. ``ends`` are the value and both ends, in any order."""
    return Interval(
        mean=ends[0], low=min(ends[1:]), high=max(ends[1:]), num_values=num, num_seeds=1
    )


def _told_by_action(
    own_ND: Tensor, swapped_ND: Tensor, action_NA: Tensor, episode_N: Tensor
) -> Tensor:
    """Predicts features from the action by least squares, each fold from the other episodes."""
    inputs_NA = torch.cat([action_NA.double(), torch.ones(len(action_NA), 1).double()], dim=1)
    target_ND, fold_N = (own_ND + swapped_ND) / 2, episode_folds(episode_N)
    told_ND = torch.zeros_like(target_ND)
    for fold in fold_N.unique():
        rest_N = fold_N != fold
        weights_AD = torch.linalg.pinv(inputs_NA[rest_N]).float() @ target_ND[rest_N]
        told_ND[~rest_N] = inputs_NA[~rest_N].float() @ weights_AD
    return told_ND


def _clips(uri: str) -> dict[tuple[str, float], dict[str, Any]]:
    """Maps a video (folder, name) and a span's start in seconds to the row of a labeled clip."""
    columns = ["clip_id", "shard", "video_uri", "start_s"]
    found: dict[tuple[str, float], dict[str, Any]] = {}
    batches = clip_batches(uri, columns, {"has_labels": True})
    for row in (row for batch in batches for row in batch.to_pylist()):
        key = "/".join(row["video_uri"].split("/")[-2:]), round(row["start_s"], 3)
        if key in found:
            raise ConfigError(
                f"swapped_shards: {uri} holds two clips of videos {key[0]} that begin at "
                f"{key[1]:g} s, so it is not known which is paired. Preprocess one folder of "
                "episodes only."
            )
        found[key] = row
    return found


def _ref(uri: str, row: Mapping[str, Any]) -> ClipRef:
    entry = read_shard_entry(uri, row["shard"])
    location = next(clip for clip in entry.clips if clip.clip_id == row["clip_id"])
    return ClipRef(entry.shard, location, 0, uri)


def _check_same(video: str, clip: ClipRef, other: ClipRef) -> None:
    ours, theirs = (_actions(ref) for ref in (clip, other))
    if not np.array_equal(ours, theirs):
        raise ConfigError(
            f"swapped_shards: {video} has other actions in {other.shard_set} than in "
            f"{clip.shard_set}, so it is another episode. Render both with the same seed of "
            "`collect`, and preprocess them alike."
        )
    if clip.location.clip_id == other.location.clip_id:
        raise ConfigError(
            f"swapped_shards: {video} is the same video in {other.shard_set} as in "
            f"{clip.shard_set}. Render it before another background."
        )


def _actions(ref: ClipRef) -> np.ndarray:
    place, shard = ref.location, storage.join(ref.shard_set, ref.shard)
    data = storage.read_bytes(shard, place.labels_offset, place.labels_bytes)
    actions = Labels.from_bytes(data).true_action
    assert actions is not None
    return actions


def _windows(
    pairs: list[SwappedPair], frame_stack: int, device: torch.device
) -> Iterator[tuple[Window, Window, int]]:
    """Yields the same windows of both clips of a pair, and the episode. Leaves damaged ones out."""
    max_per_clip = -(-MAX_TRANSITIONS // len(pairs))
    first = pairs[0]
    readers = [ClipReader(ref.shard_set) for ref in (first.clip, first.swapped)]
    for pair in pairs:
        last = pair.clip.location.num_frames - 2
        num = min(max_per_clip, last - frame_stack + 2)
        if num < 1:
            continue
        t_N = torch.linspace(frame_stack - 1, last, num).round().long()
        try:
            clips = [
                reader.read_batch([ref])
                for reader, ref in zip(readers, (pair.clip, pair.swapped), strict=True)
            ]
        except DamagedClipError:
            continue
        zeros_N = torch.zeros_like(t_N)
        window, swapped = (
            windows_at(
                ClipBatch(**{k: torch.from_numpy(v) for k, v in arrays.items()}).to(device),
                zeros_N,
                t_N,
                zeros_N + 1,
                frame_stack,
            )
            for arrays in clips
        )
        yield window, swapped, pair.episode


def check_swapped(shards: str, swapped: str, episode_of: Mapping[str, str]) -> str:
    """Checks that two sets pair, before anything is measured. Says in words how many do.

    Raises:
        ConfigError: They differ in frame size, rate or actions, or do not hold the same episodes.
    """
    ours, theirs = open_shard_set(shards), open_shard_set(swapped)
    for name in ("height_px", "width_px", "fps"):
        if getattr(ours, name) != getattr(theirs, name):
            raise ConfigError(
                f"swapped_shards: {swapped} has {name} {getattr(theirs, name)}, {shards} has "
                f"{getattr(ours, name)}. Preprocess both alike."
            )
    action_spec(swapped)
    pairs, num_alone = swapped_pairs(shards, swapped, episode_of)
    return f"{len(pairs)} held-out clips paired, {num_alone} without a pair"
