"""Finds near-duplicate clips: signatures -> keys -> candidates -> verified pairs -> originals.

Each step is a function from tables to tables. It gives the same rows whether it sees all clips at
once or, called once per partition, a share of them: ``candidates`` needs all rows of a key,
``ranked`` all rows of a clip, and ``verified`` the signatures of both clips of its pairs. Every
function sorts what it returns, so that nothing depends on the order in which rows arrive. All clips
of one look are paired with the same few of them, so signatures are never copied beside pairs.

Clips are numbered in the order of the listing. A clip is dropped if it repeats an earlier clip that
is kept. So the earliest clip of a cluster is always kept. It may itself be a copy of a later one,
but users can change the order of the listing if they want another clip to be kept.

Clips of finished sets (``select.finished_sets``) have negative numbers: they come first, are never
compared with each other, and are never dropped.
"""

from array import array
from collections import OrderedDict
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa

from data_pipelines.preprocess.clip.measure.signature import (
    MIN_COVERED,
    MIN_COVERED_IN_VIDEO,
    NUM_KEYS,
    Signature,
    is_duplicate,
)
from data_pipelines.preprocess.select.steps import column

PARTNERS = (1, 2)
"""A key joins two of a signature's MinHashes: each with the next one, and with the one after that.

Two clips agree by chance on a MinHash in one of 80,000 cases, so each clip of a source of five
million would be paired with 60 others by each of its MinHashes. They hardly ever agree on two.
Nine of ten copies of real videos agree on 14 of 48 or more, and then on two as near as this.
"""
MAX_PER_KEY = 16
"""Number of clips looked up per key. A key with more clips (a dark scene) says little."""
MAX_COMPARED = 16
"""Number of clips that one clip is compared with, those that share the most keys first."""
# A signature has about 2.7 kB, and 8 kB more once it was compared.
_CACHED_SIGNATURES = 2048
# Pairs that are counted at a time. A look that comes often has 16 for each of its clips.
_PAIRS_PER_BATCH = 2**20


NO_MATCHES = pa.schema(
    {name: pa.int64() for name in ("clip", "other", "video", "other_video")}
).empty_table()
"""Result of ``verified`` without rows."""


def keys_of(signatures: pa.Table) -> pa.Table:
    """Returns one row per key of each clip: ``key``, uint64, and ``clip``.

    Args:
        signatures: Columns ``clip`` and ``signature`` (``Signature.from_bytes``).
    """
    if not len(signatures):
        return pa.table({"key": pa.array([], pa.uint64()), "clip": pa.array([], pa.int64())})
    # The MinHashes are the first bytes of each signature, so they are cut from the column's memory
    # without making an object for each row.
    whole = _whole(signatures, "signature")
    _, bounds, data = whole.buffers()
    starts = np.frombuffer(bounds, np.int64)[whole.offset : whole.offset + len(whole)]
    head = np.frombuffer(data, np.uint8)[starts[:, None] + np.arange(4 * NUM_KEYS)]
    hashes_NK = np.ascontiguousarray(head).view("<u4").astype(np.uint64)
    first_NK = hashes_NK << np.uint64(32)
    keys = np.stack([first_NK | np.roll(hashes_NK, -step, axis=1) for step in PARTNERS], axis=1)
    num_keys = NUM_KEYS * len(PARTNERS)
    return pa.table({"key": keys.ravel(), "clip": np.repeat(column(signatures, "clip"), num_keys)})


def candidates(keys: pa.Table) -> Iterator[pa.Table]:
    """Pairs every clip with the first clips that have one of its keys.

    Args:
        keys: All rows of ``keys_of`` with certain keys.

    Yields:
        ``clip``, an earlier clip ``other``, and how many of these keys they ``share``. Two clips
        that share many keys may come several times.
    """
    key, clip = column(keys, "key"), column(keys, "clip")
    order = np.lexsort((clip, key))
    key, clip = key[order], clip[order]
    is_new = np.ones(len(key), bool)
    is_new[1:] = (key[1:] != key[:-1]) | (clip[1:] != clip[:-1])
    key, clip = key[is_new], clip[is_new]
    start = _group_starts(key)
    num_earlier = np.minimum(np.arange(len(key)) - start, MAX_PER_KEY)
    num_earlier[clip < 0] = 0
    batch = np.cumsum(num_earlier) // _PAIRS_PER_BATCH
    bounds = [*np.flatnonzero(np.diff(batch, prepend=-1)), len(clip)] if len(clip) else [0, 0]
    for begin, end in pairwise(bounds):
        num = num_earlier[begin:end]
        later = np.repeat(clip[begin:end], num)
        first = np.cumsum(num) - num
        earlier = np.repeat(start[begin:end] - first, num) + np.arange(len(later))
        counted = _counted(later, clip[earlier], np.ones(len(later), np.int64))
        # There are many such rows, and most count one key.
        yield counted.set_column(2, "share", counted["share"].cast(pa.uint8()))


def ranked(counts: pa.Table) -> pa.Table:
    """Returns the pairs of each clip that share the most keys, ``MAX_COMPARED`` at most.

    Args:
        counts: All rows of ``candidates`` with certain clips.

    Returns:
        ``clip`` and ``other``, sorted. Ties go to the earlier ``other``.
    """
    counted = _counted(*(column(counts, name) for name in ("clip", "other", "share")))
    clip, other, share = (column(counted, name) for name in ("clip", "other", "share"))
    order = np.lexsort((other, -share, clip))
    clip, other = clip[order], other[order]
    is_compared = np.arange(len(clip)) - _group_starts(clip) < MAX_COMPARED
    return _sorted_pairs(clip[is_compared], other[is_compared])


def others_of(pairs: pa.Table) -> np.ndarray:
    """Returns the numbers of the clips whose signatures are needed beside those of ``clip``."""
    return np.unique(column(pairs, "other"))


def taken(signatures: pa.Table, clips: np.ndarray) -> pa.Table:
    """Returns the rows of certain clips.

    Args:
        signatures: ``clip``, sorted, ``video`` and ``signature``.
        clips: Numbers of clips in it.
    """
    return signatures.take(_places(signatures, clips))


def verified(pairs: pa.Table, signatures: pa.Table, others: pa.Table) -> pa.Table:
    """Returns the pairs whose ``clip`` is a copy of ``other``, with the ``video`` of both.

    Args:
        pairs: Rows of ``ranked`` or ``unlike_the_first``.
        signatures: ``clip``, sorted, ``video`` and ``signature`` of every ``clip``.
        others: The same columns, sorted too, of every ``other``.
    """
    pairs = pairs.sort_by([("clip", "ascending"), ("other", "ascending")])
    clips, earlier = column(pairs, "clip"), column(pairs, "other")
    rows, other_rows = _places(signatures, clips), _places(others, earlier)
    videos = column(signatures, "video")[rows]
    other_videos = column(others, "video")[other_rows]
    looks, other_looks = _whole(signatures, "signature"), _whole(others, "signature")
    cache = _Signatures()
    is_copy = np.zeros(len(pairs), bool)
    for pair in range(len(pairs)):
        one_video = videos[pair] == other_videos[pair]
        is_copy[pair] = is_duplicate(
            cache.of(clips[pair], looks, rows[pair]),
            cache.of(earlier[pair], other_looks, other_rows[pair]),
            MIN_COVERED_IN_VIDEO if one_video else MIN_COVERED,
        )
    return pa.table(
        {
            "clip": clips[is_copy],
            "other": earlier[is_copy],
            "video": videos[is_copy],
            "other_video": other_videos[is_copy],
        }
    )


def unlike_the_first(matches: pa.Table) -> pa.Table:
    """Returns pairs that must be compared too: a clip and the earliest of its cluster.

    A clip with many copies is not among the ``MAX_COMPARED`` clips of each copy. Without these
    pairs, a copy that matched other copies only would be kept.
    """
    clips, others = column(matches, "clip"), column(matches, "other")
    members, first = earliest_of_components(clips, others)
    is_known = others == first[np.searchsorted(members, clips)]
    is_open = (members >= 0) & (members != first) & ~np.isin(members, clips[is_known])
    return _sorted_pairs(members[is_open], first[is_open])


def originals(matches: pa.Table) -> pa.Table:
    """Decides which clips are dropped: ``clip``, and the ``original`` that is kept.

    Args:
        matches: All rows of ``verified``, or all of some clusters.
    """
    matches = matches.sort_by([("clip", "ascending"), ("other", "ascending")])
    edges = np.concatenate([column(matches, "clip"), column(matches, "other")])
    numbers, places = np.unique(edges, return_inverse=True)
    # An array of machine words: a dict of all copies of a large source would have gigabytes.
    kept = array("q", [-1]) * len(numbers)
    for start in range(0, len(matches), _PAIRS_PER_BATCH):
        end = min(start + _PAIRS_PER_BATCH, len(matches))
        clips, others = places[start:end], places[len(matches) + start : len(matches) + end]
        for clip, other in zip(clips.tolist(), others.tolist(), strict=True):
            # A clip that repeats only dropped clips is kept: it may show what their originals do
            # not.
            if kept[clip] < 0 and kept[other] < 0:
                kept[clip] = other
    original = np.asarray(kept)
    is_dropped = original >= 0
    return pa.table({"clip": numbers[is_dropped], "original": numbers[original[is_dropped]]})


def links(matches: pa.Table) -> pa.Table:
    """Returns the pairs of different videos in rows of ``verified``, each once."""
    pairs = np.stack([column(matches, "video"), column(matches, "other_video")], axis=1)
    pairs = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
    return pa.table({"video": pairs[:, 0], "other_video": pairs[:, 1]})


def known_in(matches: pa.Table) -> np.ndarray:
    """Returns the numbers of the clips of finished sets in rows of ``verified``, sorted."""
    others = np.unique(column(matches, "other"))
    return others[others < 0]


def find_in_memory(signatures: pa.Table) -> pa.Table:
    """Finds all pairs (rows of ``verified``).

    Args:
        signatures: ``clip``, sorted, ``video`` and ``signature``.
    """
    pairs = ranked(pa.concat_tables(candidates(keys_of(signatures))))
    matches = verified(pairs, signatures, signatures)
    more = verified(unlike_the_first(matches), signatures, signatures)
    return pa.concat_tables([matches, more])


def earliest_of_components(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the connected components of a graph with edges between ``a`` and ``b``, int64 [N].

    Returns:
        All nodes, sorted, and the smallest node of the component of each.
    """
    nodes, places = np.unique(np.concatenate([a, b]), return_inverse=True)
    left, right = places[: len(a)], places[len(a) :]
    labels = np.arange(len(nodes))
    while True:
        smaller = np.minimum(labels[left], labels[right])
        joined = labels.copy()
        np.minimum.at(joined, labels[left], smaller)
        np.minimum.at(joined, labels[right], smaller)
        # Each node jumps to the label of its label, so long chains take few rounds.
        while not np.array_equal(jumped := joined[joined], joined):
            joined = jumped
        if np.array_equal(joined, labels):
            return nodes, nodes[labels]
        labels = joined


class _Signatures:
    """Keeps the signatures that were used last, with what comparisons computed from them."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, Signature] = OrderedDict()

    def of(self, clip: int, looks: pa.Array, row: int) -> Signature:
        """Returns the signature of a clip, which is in this row of a column."""
        found = self._kept.pop(clip, None) or Signature.from_bytes(looks[int(row)].as_buffer())
        self._kept[clip] = found
        if len(self._kept) > _CACHED_SIGNATURES:
            self._kept.popitem(last=False)
        return found


def _whole(table: pa.Table, name: str) -> pa.Array:
    """Returns a column of bytes as one array, whose positions have 64 bits."""
    whole = table[name].cast(pa.large_binary()).combine_chunks()
    return whole if isinstance(whole, pa.Array) else pa.array([], pa.large_binary())


def _places(signatures: pa.Table, clips: np.ndarray) -> np.ndarray:
    """Returns the rows of clips in a table that is sorted by clip."""
    known = column(signatures, "clip")
    places = np.searchsorted(known, clips)
    assert np.array_equal(known[places], clips), "a clip has no signature"
    return places


def _group_starts(values: np.ndarray) -> np.ndarray:
    """Returns, for each of sorted values, the position of the first one that is equal."""
    is_first = np.ones(len(values), bool)
    is_first[1:] = values[1:] != values[:-1]
    return np.maximum.accumulate(np.where(is_first, np.arange(len(values)), 0))


def _counted(clip: np.ndarray, other: np.ndarray, share: np.ndarray) -> pa.Table:
    table = pa.table({"clip": clip, "other": other, "share": share.astype(np.int64)})
    summed = table.group_by(["clip", "other"]).aggregate([("share", "sum")])
    return summed.rename_columns(["clip", "other", "share"]).sort_by(
        [("clip", "ascending"), ("other", "ascending")]
    )


def _sorted_pairs(clip: np.ndarray, other: np.ndarray) -> pa.Table:
    order = np.lexsort((other, clip))
    return pa.table({"clip": clip[order], "other": other[order]})
