"""Keys of clips, by which near-duplicates are looked up."""

import numpy as np
import pyarrow as pa

from data_pipelines.preprocess.clip.measure.signature import GRID, NUM_KEYS, Signature
from data_pipelines.preprocess.select.duplicates import candidates, keys_of


def signatures(hashes: np.ndarray) -> pa.Table:
    """Of clips 0, 1, ..., with these MinHashes."""
    pictures = np.zeros((3, GRID * GRID), np.uint8)
    signed = [Signature(row.astype(np.uint32), pictures).to_hex() for row in hashes]
    values = pa.array(list(map(bytes.fromhex, signed)), pa.large_binary())
    return pa.table({"clip": range(len(hashes)), "signature": values})


def pairs(hashes: np.ndarray) -> list[tuple[int, int, int]]:
    found = pa.concat_tables(candidates(keys_of(signatures(hashes)))).to_pylist()
    return [(row["clip"], row["other"], row["share"]) for row in found]


def test_clips_are_paired_if_they_agree_on_two_minhashes_that_are_near():
    rng = np.random.default_rng(0)
    original = rng.integers(0, 2**32, NUM_KEYS)
    for equal, num_shared in (((), 0), ((5,), 0), ((5, 8), 0), ((5, 7), 1), ((5, 6, 7), 3)):
        other = rng.integers(0, 2**32, NUM_KEYS)
        other[list(equal)] = original[list(equal)]
        expected = [(1, 0, num_shared)] if num_shared else []
        assert pairs(np.stack([original, other])) == expected
    assert pairs(np.stack([original, original])) == [(1, 0, 2 * NUM_KEYS)]


def test_chance_pairs_stay_few_however_many_clips_there_are():
    """Each MinHash has one of 80,000 values in practice, here of 100 with 3,000 clips."""
    hashes = np.random.default_rng(0).integers(0, 100, (3_000, NUM_KEYS))
    hashes += 1_000 * np.arange(NUM_KEYS)  # MinHashes of different places never agree
    found = pairs(hashes)
    num_equal = NUM_KEYS * 3_000**2 / 2 / 100  # pairs that agree on a single one
    assert 0 < len(found) < num_equal / 40
