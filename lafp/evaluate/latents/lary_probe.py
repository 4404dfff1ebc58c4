"""LARY's classification (Nie et al., arXiv:2604.11689): which action does a clip of 9 frames show?

As ``classification/evals/video_classification_frozen`` of github.com/meituan-longcat/LARYBench
(commit 2092d20): an attentive probe like V-JEPA's reads the frozen features of the 8 pairs of
neighbouring frames. They are projected to 768 dimensions (linear, LayerNorm, GELU) and get a
learned embedding of their time; three transformer blocks follow, then one learned query pools them
by cross-attention, and a linear layer names the class. Five such probes, each with its own learning
rate and weight decay, see the same batches of 256 clips for 20 epochs, with label smoothing 0.1,
AdamW, and a cosine to 0 without warm-up. Clips are drawn with replacement, all classes equally
often. The number is the share of clips of the table ``val`` whose class the best of the five names
after the last epoch. So the probe is chosen on the clips that it is measured on, which flatters
all features alike.

Our deviations: LARY trains in bfloat16 and by default on 8 GPUs, each with batches of 256, here it
is float32 and one device. LARY numbers the classes of each table on its own; here a class that
``train`` lacks is never named, and its clips count as wrong. LARY reports no interval; ours is
Wilson's, over clips: neighbouring clips of one recording make it too narrow.
"""

# Shape suffixes in this file: N clips, P frame pairs, D features, W width, C classes.

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lafp.config import ConfigError
from lafp.evaluate.latents.lary_tables import (
    VIDEO,
    LaryTable,
    columns_of,
    has_videos,
    pair_features,
    read_cells,
    read_rows,
)
from lafp.evaluate.probes.lam_probe import Rows
from lafp.evaluate.rows.statistics import Interval
from lafp.models.vit import Block, VitConfig
from lafp.seeding import seeded
from lafp.types import ObsSpec, Window

CLASS = "action"
"""LARY's column of the class."""
WIDTH, NUM_HEADS, NUM_BLOCKS, INIT_STD = 768, 16, 3, 0.02
LR_AND_WEIGHT_DECAY = ((5e-3, 0.01), (3e-3, 0.1), (1e-3, 0.4), (3e-4, 0.8), (1e-4, 0.01))
BATCH_SIZE, NUM_EPOCHS, LABEL_SMOOTHING = 256, 20, 0.1
SEED = 0
_Z = 1.96  # of a 95 % interval


@dataclass(frozen=True, kw_only=True)
class LaryClips:
    """Features of the clips of one table, and their classes."""

    features: Tensor
    """float32 [N, P, D]."""
    classes: tuple[str, ...]
    """The class of each clip."""


def check_lary_classes(train: LaryTable, val: LaryTable) -> None:
    """Checks before the job starts that two tables name clips of several classes.

    Raises:
        ConfigError: They do not.
    """
    for table in (train, val):
        if not has_videos(table) or CLASS not in columns_of(table):
            raise ConfigError(
                f"lary_probe: {table.table} has the columns {', '.join(columns_of(table))}; "
                f"expected {', '.join(VIDEO)} and {CLASS}, the class of the clip. LARY's tables "
                "robot_1st and human_1st have them."
            )
    if len(found := {cells[CLASS] for cells in read_cells(train)}) < 2:
        raise ConfigError(
            f"lary_probe: {train.table} has {len(found)} classes in its column {CLASS}, expected "
            "at least 2."
        )


def lary_clips(
    features_of: Callable[[Window], Tensor],
    table: LaryTable,
    obs: ObsSpec,
    device: torch.device,
    file: Path | None = None,
) -> LaryClips | None:
    """Computes features of a table's clips; None if no clip can be read.

    Args:
        features_of: Maps windows to features.
        table: A table of videos with classes.
        obs: Size and stack of the frames.
        device: Computes the features.
        file: Where the features are written, from which they are then mapped.
    """
    rows, classes, size = Rows(file), list[str](), (0, 0)
    for batch in read_rows(table, obs, []):  # the same rows are told as left out by the export
        features_NPD = pair_features(features_of, batch, obs, device)
        size = (features_NPD.shape[1], features_NPD.shape[2])
        rows.add(features_NPD.flatten(1))
        classes += [row.cells[CLASS] for row in batch]
    if not classes:
        return None
    return LaryClips(features=rows.all().unflatten(1, size), classes=tuple(classes))


def lary_accuracy(
    fit: LaryClips,
    held_out: LaryClips,
    device: torch.device,
    width: int = WIDTH,
    num_epochs: int = NUM_EPOCHS,
) -> Interval:
    """Returns the share of held-out clips whose class LARY's attentive probe names."""
    names = sorted(set(fit.classes))
    class_N = torch.tensor([names.index(name) for name in fit.classes])
    # A class that the fit lacks has no number: -1 is never named.
    true_N = torch.tensor([names.index(c) if c in names else -1 for c in held_out.classes])
    num_pairs, num_features = fit.features.shape[1:]
    best = 0
    with seeded(SEED, device):
        # One after the other: side by side they would hold five times the memory.
        for lr, weight_decay in LR_AND_WEIGHT_DECAY:
            probe = AttentiveProbe(num_pairs, num_features, width, len(names)).to(device)
            optimizer = torch.optim.AdamW(probe.parameters(), lr, weight_decay=weight_decay)
            _train(probe, optimizer, fit.features, class_N, num_epochs)
            best = max(best, _num_right(probe.eval(), held_out.features, true_N))
    return share_of(best, len(true_N))


def most_frequent(fit: LaryClips, held_out: LaryClips) -> Interval:
    """Returns the accuracy of always naming the most frequent class of the fit."""
    name = Counter(fit.classes).most_common(1)[0][0]
    return share_of(held_out.classes.count(name), len(held_out.classes))


def share_of(num_right: int, num: int) -> Interval:
    """Returns a share of clips with Wilson's 95 % interval.

    It has a width where all clips are right, or none. A bootstrap would have none there.
    """
    share, unsure = num_right / num, _Z**2 / num
    centre = (share + unsure / 2) / (1 + unsure)
    width = math.sqrt(unsure * share * (1 - share) + unsure**2 / 4) / (1 + unsure)
    low, high = max(0.0, centre - width), min(1.0, centre + width)
    return Interval(mean=share, low=low, high=high, num_values=num, num_seeds=1)


class AttentiveProbe(nn.Module):
    """LARY's ``FeatureEvaluator``, for one token per frame pair.

    Args:
        num_pairs: P.
        num_features: D.
        width: W.
        num_classes: C.
    """

    def __init__(self, num_pairs: int, num_features: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(num_features, width), nn.LayerNorm(width), nn.GELU())
        self.time = nn.Parameter(torch.empty(num_pairs, width))
        cfg = VitConfig(width=width, num_heads=NUM_HEADS)
        blocks = [Block(cfg) for _ in range(NUM_BLOCKS)]
        self.blocks = nn.Sequential(*blocks)
        self.query = nn.Parameter(torch.empty(1, width))
        self.norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_query, self.to_key_and_value = (
            nn.Linear(width, width),
            nn.Linear(width, 2 * width),
        )
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self._initialize(blocks)
        self.to_classes = nn.Linear(width, num_classes)  # with torch's own initial weights

    @torch.no_grad()
    def _initialize(self, blocks: list[Block]) -> None:
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=INIT_STD)
            elif name.endswith("bias"):
                parameter.zero_()
        residual = [
            (layer, depth)
            for depth, block in enumerate(blocks, 1)
            for layer in (block.from_heads, block.mlp[2])
        ]
        for layer, depth in [*residual, (self.mlp[2], NUM_BLOCKS)]:
            for parameter in layer.parameters():
                parameter.div_(math.sqrt(2 * depth))

    def forward(self, features_NPD: Tensor) -> Tensor:
        """Maps features to logits of the classes, float [N, C]."""
        tokens_NPW = self.blocks(self.project(features_NPD) + self.time)
        query_N1W = self.query.expand(len(tokens_NPW), 1, -1)
        # No layer mixes the heads after the cross-attention, as in LARY.
        query, key, value = (
            x.unflatten(2, (NUM_HEADS, -1)).transpose(1, 2)
            for x in (
                self.to_query(query_N1W),
                *self.to_key_and_value(self.norm(tokens_NPW)).chunk(2, dim=2),
            )
        )
        seen_N1W = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        pooled_N1W = query_N1W + seen_N1W
        pooled_N1W = pooled_N1W + self.mlp(self.mlp_norm(pooled_N1W))
        return self.to_classes(pooled_N1W[:, 0])


@torch.enable_grad()
def _train(
    probe: AttentiveProbe,
    optimizer: torch.optim.Optimizer,
    features_NPD: Tensor,
    class_N: Tensor,
    num_epochs: int,
) -> None:
    num_steps = num_epochs * -(-len(class_N) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * (step + 1) / num_steps))
    )
    weight_N = (1 / class_N.bincount())[class_N]
    device = next(probe.parameters()).device
    draws = torch.Generator().manual_seed(SEED)  # the same batches for all probes
    for _ in range(num_epochs):
        drawn_N = torch.multinomial(weight_N, len(class_N), replacement=True, generator=draws)
        for rows in drawn_N.split(BATCH_SIZE):
            optimizer.zero_grad()
            logits_NC = probe(features_NPD[rows].to(device))
            loss = F.cross_entropy(
                logits_NC, class_N[rows].to(device), label_smoothing=LABEL_SMOOTHING
            )
            if loss.isfinite():  # LARY leaves out such steps, too
                loss.backward()
                optimizer.step()
            schedule.step()


@torch.no_grad()
def _num_right(probe: AttentiveProbe, features_NPD: Tensor, class_N: Tensor) -> int:
    device = next(probe.parameters()).device
    parts = zip(features_NPD.split(BATCH_SIZE), class_N.split(BATCH_SIZE), strict=True)
    return sum(int((probe(x.to(device)).argmax(1).cpu() == y).sum()) for x, y in parts)
