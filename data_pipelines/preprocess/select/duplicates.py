"""Finds near-duplicate clips of a whole source in bounded memory."""

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

from data_pipelines.preprocess.clip.measure.signature import (
    MIN_COVERED,
    MIN_COVERED_IN_VIDEO,
    Signature,
    is_duplicate,
)
from data_pipelines.preprocess.select.catalog import Catalog

MAX_PER_KEY = 32
"""Number of clips looked up per key. A key with more clips (black borders) says little."""
MAX_COMPARED = 16
"""Number of clips that one clip is compared with, those that share the most keys first."""
# A signature has about 4.5 kB, so that the cache takes 20 MB.
_CACHED_SIGNATURES = 4096


def find_duplicates(catalog: Catalog) -> Iterator[tuple[int, int]]:
    """Sets ``original`` of every clip that repeats an earlier, kept clip.

    Clips are visited in the order of the listing. Each is compared with the clips kept so far that
    share a key with it, so the result depends on that order only. Memory does not grow with the
    number of clips, because keys lie in the catalog.

    Yields:
        Numbers of two videos that share a clip, for each pair of clips found.
    """
    db = catalog.db
    db.execute(
        "CREATE TABLE keys (key INTEGER, clip INTEGER, PRIMARY KEY (key, clip)) WITHOUT ROWID"
    )

    @lru_cache(_CACHED_SIGNATURES)
    def load(clip: int) -> tuple[int, Signature]:
        query = "SELECT video, signature FROM signatures WHERE clip = ?"
        video, data = db.execute(query, (clip,)).fetchone()
        return video, Signature.from_bytes(data)

    db.execute("BEGIN")
    numbers = db.execute("SELECT clip FROM signatures ORDER BY clip")
    for (clip,) in numbers:
        video, signature = load(clip)
        matches = []
        for other in _candidates(catalog, signature):
            other_video, other_signature = load(other)
            min_covered = MIN_COVERED_IN_VIDEO if other_video == video else MIN_COVERED
            if is_duplicate(signature, other_signature, min_covered):
                matches.append(other)
        if matches:
            db.execute("UPDATE clips SET original = ? WHERE clip = ?", (min(matches), clip))
            yield from ((video, load(match)[0]) for match in matches)
        else:
            # Only kept clips get keys, so that copies of a copy point to the first one.
            keys = {(int(key), clip) for key in signature.keys}
            db.executemany("INSERT INTO keys VALUES (?, ?)", keys)
    db.execute("COMMIT")
    db.execute("DROP TABLE keys")


def _candidates(catalog: Catalog, signature: Signature) -> list[int]:
    shared: Counter[int] = Counter()
    # The order makes the result the same in every run.
    query = "SELECT clip FROM keys WHERE key = ? ORDER BY clip LIMIT ?"
    for key in signature.keys:
        shared.update(clip for (clip,) in catalog.db.execute(query, (int(key), MAX_PER_KEY)))
    # Ties go to the earlier clip, so that the result does not depend on the order of keys.
    ranked = sorted(shared.items(), key=lambda found: (-found[1], found[0]))
    return [clip for clip, _ in ranked[:MAX_COMPARED]]
