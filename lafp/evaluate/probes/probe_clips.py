"""Chooses the labeled clips on which a LAM's probe is fitted, and those on which it is measured."""

from collections.abc import Mapping
from dataclasses import dataclass

from lafp.data.labels import labeled_episodes, unseen_clips
from lafp.data.randomness import derive_seed
from lafp.data.shards.format import Split

MIN_FIT_EPISODES, MIN_HELD_OUT_EPISODES = 2, 1
"""Episodes that the probe needs: its penalty is chosen on fit episodes left out in turn."""


@dataclass(frozen=True, kw_only=True)
class ProbeClips:
    """Ids of clips, each with the id of its episode. No episode is in both."""

    fit: Mapping[str, str]
    fit_split: Split
    held_out: Mapping[str, str]

    @property
    def num_episodes(self) -> tuple[int, int]:
        """Returns the number of episodes to fit on, and of those held out."""
        return len(set(self.fit.values())), len(set(self.held_out.values()))


def probe_clips(labeled_shards: str, supervised: frozenset[str] = frozenset()) -> ProbeClips:
    """Chooses the clips: training episodes to fit on, held-out ones to measure on.

    Labels that supervised z are left out: z has memorized their actions, so a probe fitted on them
    would learn less than one fitted on others. If the rest has too few episodes, the probe is
    fitted on every second held-out episode, and measured on the others. Episodes that look
    different from those of training (``UNSEEN``) are always held out.

    Args:
        labeled_shards: URI of the labeled set.
        supervised: Ids of the training clips whose actions supervised the LAM.
    """
    train, held_out = (labeled_episodes(labeled_shards, split) for split in ("train", "val"))
    fit = {clip: episode for clip, episode in train.items() if clip not in supervised}
    if not supervised or len(set(fit.values())) >= MIN_FIT_EPISODES:
        return ProbeClips(fit=fit, fit_split="train", held_out=held_out)
    unseen = unseen_clips(labeled_shards)
    seen = {episode for clip, episode in held_out.items() if clip not in unseen}
    ranked = sorted(seen, key=lambda e: (derive_seed(0, "probe", e), e))
    chosen = set(ranked[::2])
    return ProbeClips(
        fit={clip: episode for clip, episode in held_out.items() if episode in chosen},
        fit_split="val",
        held_out={clip: episode for clip, episode in held_out.items() if episode not in chosen},
    )
