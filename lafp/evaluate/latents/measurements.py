"""The measurements of a model of frame pairs, each one call that needs URIs and a config only."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

from lafp import storage
from lafp.evaluate import images
from lafp.evaluate.latents.config import EvaluateLamConfig
from lafp.evaluate.latents.lary_probe import lary_accuracy, lary_clips, most_frequent
from lafp.evaluate.latents.lary_regression import lary_mse, lary_pairs
from lafp.evaluate.latents.lary_tables import LaryTable, write_lary_tokens
from lafp.evaluate.latents.latent_views import codebook_use
from lafp.evaluate.latents.pair_algebra import measure_pair_algebra
from lafp.evaluate.latents.representations import (
    LAM,
    Representation,
    encoder_representation,
    representation,
    subject_of,
)
from lafp.evaluate.latents.swapped_backgrounds import measure_background_use, swapped_pairs
from lafp.evaluate.latents.transfer import (
    MAX_PAIRS,
    can_predict,
    filmstrips,
    measure_transfer,
    transfer_rows,
)
from lafp.evaluate.probes.lam_probe import LabeledTransitions, transitions_of_probe
from lafp.evaluate.probes.probe_clips import probe_clips
from lafp.evaluate.probes.thorough_probe import (
    MeasuredRow,
    control_rows,
    defined_rows,
    measured_row,
    probe_features,
)
from lafp.evaluate.rows.statistics import Interval
from lafp.finished.devices import usable_device
from lafp.lam import Lam, load_lam
from lafp.storage.temporary import TemporaryFolder
from lafp.train.tasks.lam_shards import obs_spec
from lafp.types import ObsSpec, Window

MAX_TRIPLES = 2048
"""Triples of observations, spread evenly over the held-out clips."""
MAX_CODED = 8192
"""Held-out transitions whose codes are counted."""
TRANSFER = "transfer.png"


class MeasuredFeatures(TypedDict):
    """The measurements of one kind of features, as the stage's folder keeps them."""

    rows: list[MeasuredRow]
    sums: list[list[float]]
    """``ProbeScore.sums``."""


@torch.no_grad()
def measure_representation(
    lam_uri: str | None,
    shards: str,
    supervised: frozenset[str],
    method: str,
    cfg: EvaluateLamConfig,
) -> MeasuredFeatures:
    """Probes one kind of features, and measures whether they add up and what backgrounds change.

    Args:
        lam_uri: Folder of the LAM; None to measure ``cfg.encoder``.
        shards: URI of the labeled set.
        supervised: Ids of its clips whose actions supervised the LAM.
        method: One of ``methods``.
        cfg: The job's config.

    Returns:
        ``rows`` as ``probe_thoroughly`` returns them, and the probe's ``sums`` (``ProbeScore``).
    """
    found, obs, device = _represented(method, lam_uri, shards, cfg)
    stack = obs.frame_stack
    splits = transitions_of_probe(shards, supervised, None)
    rows, score = probe_features(
        method, found.of_window, splits, stack, device, cfg.max_memory_bytes
    )
    if found.of_pair is not None:
        held_out = transitions_of_probe(shards, supervised, MAX_TRIPLES)[1]
        triples = held_out.triples(stack, cfg.pair_steps, device)
        if (algebra := measure_pair_algebra(found.of_pair, triples)) is not None:
            rows += [_row(method, name, interval) for name, interval in vars(algebra).items()]
    if cfg.swapped_shards is not None:
        same, _ = swapped_pairs(
            shards, cfg.swapped_shards, probe_clips(shards, supervised).held_out
        )
        if (use := measure_background_use(found.of_window, same, stack, device)) is not None:
            rows += [_row(method, name, interval) for name, interval in vars(use).items()]
    if cfg.lary_stride is not None:
        pairs = [
            lary_pairs(found.of_window, split, stack, cfg.lary_stride, device) for split in splits
        ]
        if pairs[0] is not None and pairs[1] is not None:
            error = lary_mse(pairs[0], pairs[1], cfg.lary_stride, device)
            rows.append(_row(method, "lary_mse", error))
    rows += _lary_accuracy_rows(method, found.of_window, obs, device, cfg)
    return {"rows": defined_rows(rows), "sums": score.sums.tolist()}


def _lary_accuracy_rows(
    method: str,
    features_of: Callable[[Window], Tensor],
    obs: ObsSpec,
    device: torch.device,
    cfg: EvaluateLamConfig,
) -> list[MeasuredRow]:
    if cfg.lary_probe_tables is None:
        return []
    with TemporaryFolder() as folder:
        fit, held_out = (
            lary_clips(features_of, table, obs, device, Path(folder, name))
            for table, name in zip(cfg.lary_probe_tables, ("fit", "held_out"), strict=True)
        )
        if fit is None or held_out is None:
            return []
        rows = [_row(method, "lary_accuracy", lary_accuracy(fit, held_out, device))]
        if method == LAM:  # what knows nothing is the same beside all features
            rows.append(_row("nothing", "lary_accuracy", most_frequent(fit, held_out)))
        return rows


@torch.no_grad()
def measure_latent_use(
    lam_uri: str, shards: str, supervised: frozenset[str], out_uri: str, cfg: EvaluateLamConfig
) -> list[MeasuredRow]:
    """Counts codes, and applies latent actions to other clips; writes ``transfer.png``."""
    lam = _load(lam_uri, cfg)
    rows = _codebook_rows(lam, transitions_of_probe(shards, supervised, MAX_CODED)[1])
    if can_predict(lam):
        pairs = transitions_of_probe(shards, supervised, MAX_PAIRS)[1]
        rows += [_row(LAM, *row) for row in transfer_rows(measure_transfer(lam, pairs))]
        if (picture := filmstrips(lam, shards)) is not None:
            storage.write_bytes(storage.join(out_uri, TRANSFER), images.png(picture))
    return defined_rows(rows)


@torch.no_grad()
def write_lary_table(
    lam_uri: str, table: LaryTable, out_uri: str, cfg: EvaluateLamConfig
) -> dict[str, object]:
    """Writes z of one table of LARY. See ``write_lary_tokens``."""
    return write_lary_tokens(_load(lam_uri, cfg), table, out_uri)


def joined_rows(measured: Mapping[str, MeasuredFeatures]) -> list[MeasuredRow]:
    """Joins what ``measure_representation`` found of each method, with the subject's gains."""
    rows = [row for found in measured.values() for row in found["rows"]]
    sums = {
        method: torch.tensor(found["sums"], dtype=torch.float64)
        for method, found in measured.items()
    }
    subject = subject_of(sums)
    assert subject is not None
    return defined_rows([*rows, *control_rows(subject, sums, rows)])


def _represented(
    method: str, lam_uri: str | None, shards: str, cfg: EvaluateLamConfig
) -> tuple[Representation, ObsSpec, torch.device]:
    if lam_uri is not None:
        lam = _load(lam_uri, cfg)
        return representation(method, lam, cfg.dinov2, cfg.seed), lam.obs, lam.device
    assert cfg.encoder is not None
    torch.set_num_threads(1)
    obs, device = obs_spec(shards, frame_stack=1), usable_device("cuda" if cfg.use_gpu else "cpu")
    return encoder_representation(method, cfg.encoder, obs, device), obs, device


def _load(lam_uri: str, cfg: EvaluateLamConfig) -> Lam:
    # A task has one core. More threads would take those of other tasks.
    torch.set_num_threads(1)
    return load_lam(lam_uri, "cuda" if cfg.use_gpu else "cpu")


def _codebook_rows(lam: Lam, transitions: LabeledTransitions) -> list[MeasuredRow]:
    latents = [
        lam.infer_latent_action(window.obs, window.next_obs)
        for window, _ in transitions.windows(lam.obs.frame_stack, lam.device)
    ]
    latent_NZ = torch.cat(latents)
    use = codebook_use(lam, latent_NZ) or {}
    return [
        measured_row(LAM, f"codebook_{name}", value, len(latent_NZ)) for name, value in use.items()
    ]


def _row(method: str, metric: str, interval: Interval) -> MeasuredRow:
    return measured_row(
        method, metric, interval.mean, interval.num_values, interval.low, interval.high
    )
