"""Decides for which split a video is, so that nothing leaks from one split to the other.

A video whose source was given for a split goes there. Other videos that share an episode or a
near-duplicate clip, directly or through others, form a cluster and go to one split. A cluster that
shares something with finished sets goes to the split that it has there, to training if they have
it in both. For others the hash of the episode of the cluster's earliest video decides, so that a
video keeps its split when other videos come or go. If no hash falls below ``val_fraction``, the
cluster with the lowest one is held out.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from data_pipelines.preprocess.select.duplicates import earliest_of_components
from data_pipelines.preprocess.select.steps import column
from lafp.data.shards.format import Split

MEMBERS = pa.schema({"episode": pa.string(), "video": pa.int64()})
"""Videos of the source by episode."""
EDGES = pa.schema({"video": pa.int64(), "other": pa.int64()})
"""Pairs of videos that must go to one split."""
KNOWN_EPISODES = pa.schema({"video": pa.int64(), "episode": pa.string(), "split": pa.string()})
"""Videos of the source that share something with an episode of a finished set."""
CLUSTERS = pa.schema({"video": pa.int64(), "root": pa.int64(), "known_split": pa.string()})
"""Videos of clusters of several, or that finished sets know, with the cluster's earliest video."""
RANKED = CLUSTERS.append(pa.field("rank", pa.float64()))
"""``rank``: what the hash of the root's episode says, in [0, 1)."""


@dataclass(frozen=True, kw_only=True)
class FreeClusters:
    """Says what decides which cluster is held out if no hash says so."""

    is_any_val: bool = False
    """Whether a cluster goes to validation anyway."""
    lowest: tuple[tuple[float, int], ...] = ()
    """Rank and root of the two clusters with the lowest ranks, of those that the hash decides."""

    def held_out(self, val_fraction: float) -> int | None:
        """Returns the root of the cluster that is held out; None if the hashes decide.

        A single cluster is not held out, because nothing would be left to train on.
        """
        if self.is_any_val or not val_fraction or len(self.lowest) < 2:
            return None
        return self.lowest[0][1]


def merged(found: Iterable[FreeClusters]) -> FreeClusters:
    """Adds up what blocks have found. A cluster may lie in several blocks."""
    is_any_val, lowest = False, set[tuple[float, int]]()
    for block in found:
        is_any_val |= block.is_any_val
        lowest = set(sorted(lowest | set(block.lowest))[:2])
    return FreeClusters(is_any_val=is_any_val, lowest=tuple(sorted(lowest)))


def episode_edges(members: pa.Table) -> pa.Table:
    """Joins the videos of each episode: all its cameras show one scene.

    Args:
        members: All rows of ``MEMBERS`` with certain episodes.
    """
    order = members.sort_by([("episode", "ascending"), ("video", "ascending")])
    video = column(order, "video")
    episode = order["episode"].combine_chunks().dictionary_encode().indices.to_numpy()
    starts = np.flatnonzero(np.diff(episode, prepend=-1))
    first = np.repeat(video[starts], np.diff([*starts, len(video)]))
    is_edge = video != first
    return pa.table({"video": video[is_edge], "other": first[is_edge]}, EDGES)


def clusters(edges: pa.Table, known: pa.Table) -> pa.Table:
    """Finds the clusters: the columns of ``CLUSTERS``, sorted by video.

    Args:
        edges: All rows of ``EDGES``.
        known: All rows of ``KNOWN_EPISODES``.
    """
    known_videos = column(known, "video")
    nodes, roots = earliest_of_components(
        np.concatenate([column(edges, "video"), known_videos]),
        np.concatenate([column(edges, "other"), known_videos]),
    )
    known_roots = roots[np.searchsorted(nodes, known_videos)]
    is_train = np.array([split == "train" for split in known["split"].to_pylist()], bool)
    splits = np.full(len(nodes), "", object)
    splits[np.isin(roots, known_roots)] = "val"
    # Training wins where finished sets have one cluster in both splits.
    splits[np.isin(roots, known_roots[is_train])] = "train"
    return pa.table({"video": nodes, "root": roots, "known_split": splits.tolist()}, CLUSTERS)


def with_rank(found: pa.Table, videos: pa.Table) -> pa.Table:
    """Adds the ``rank`` of each row of ``CLUSTERS`` whose root is in a table of videos."""
    places = np.searchsorted(column(videos, "video"), column(found, "root"))
    episodes = videos["episode"].take(places).to_pylist()
    ranks = pa.array([uniform(episode) for episode in episodes], pa.float64())
    return found.select(CLUSTERS.names).append_column("rank", ranks).cast(RANKED)


def free_clusters(ranked: Iterable[tuple[int, float, str]], val_fraction: float) -> FreeClusters:
    """Says what the clusters of a block that have clips, and no given split, mean for the others.

    Args:
        ranked: Root, rank and known split of each.
        val_fraction: See ``PreprocessConfig``.
    """
    is_any_val, free = False, set[tuple[float, int]]()
    for root, rank, known_split in ranked:
        is_any_val |= known_split == "val" if known_split else rank < val_fraction
        if not known_split:
            free.add((rank, root))
    return FreeClusters(is_any_val=is_any_val, lowest=tuple(sorted(free)[:2]))


def split_of(
    given: Split | None, known: str, rank: float, is_held_out: bool, val_fraction: float
) -> Split:
    """Decides about one video."""
    if given is not None:
        return given
    if known:
        return "val" if known == "val" else "train"
    return "val" if is_held_out or rank < val_fraction else "train"


def uniform(episode: str) -> float:
    """Converts the hash that names an episode to a number in [0, 1)."""
    # 13 hex digits are 52 bits, all of which fit into a float.
    return int(episode[:13], 16) / 16**13
