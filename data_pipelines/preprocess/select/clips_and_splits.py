"""Decides about duplicates and splits once all videos of the source are processed."""

from array import array
from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa

from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.label_kinds import reject_odd_kinds
from data_pipelines.preprocess.select.catalog import Catalog
from data_pipelines.preprocess.select.duplicates import Duplicates
from data_pipelines.preprocess.select.finished_sets import KNOWN, FinishedSets
from lafp.data.shards.format import Split

# Training wins where finished sets have one cluster in both splits.
_VAL, _TRAIN = 1, 2


def select_clips(
    catalog: Catalog,
    cfg: PreprocessConfig,
    find: Callable[[Catalog], Duplicates],
    sets: FinishedSets | None = None,
) -> None:
    """Drops repeated files and near-duplicate clips, and assigns splits.

    Earlier videos of the listing are kept, later ones dropped. Each dropped clip becomes a reject,
    so that clips and rejects still cover every video.

    Args:
        catalog: All rows of the source.
        cfg: The job's config.
        find: Finds the near-duplicates among the clips that are left in the catalog.
        sets: Finished sets, whose files are dropped; None without any.
    """
    # Copies of whole files go first, so that their clips are neither compared nor counted below.
    catalog.db.execute("CREATE INDEX contents ON videos (video_id, video)")
    if sets is not None and sets.uris:
        _drop_known_files(catalog, sets)
    _drop_repeated_files(catalog)
    reject_odd_kinds(catalog)
    clusters = _Clusters(catalog.num_videos)
    _join_repeats(catalog, clusters)
    if cfg.filters.drop_duplicates:
        found = find(catalog)
        _note_known_clips(catalog, found.known)
        _reject_duplicates(catalog, found.originals)
        _join_similar(catalog, clusters, found.links)
    _join_episodes(catalog, clusters)
    assign_splits(catalog, clusters, cfg.val_fraction)
    catalog.db.execute(
        "UPDATE clips SET split = (SELECT split FROM videos WHERE videos.video = clips.video) "
        "WHERE original IS NULL"
    )
    catalog.db.execute(
        "CREATE INDEX kept ON clips (split, video_id, start_s) WHERE original IS NULL"
    )


def _drop_known_files(catalog: Catalog, sets: FinishedSets) -> None:
    """Drops all files whose content gave clips to a finished set. Each becomes one reject."""
    catalog.db.execute("BEGIN")
    catalog.db.executemany(
        "INSERT INTO known_videos SELECT :video_id, :video_uri, :episode_id, :split, :shard_set "
        "WHERE EXISTS (SELECT 1 FROM videos WHERE video_id = :video_id) "
        # The first set counts, but one that trains on the video wins.
        "ON CONFLICT DO UPDATE SET uri = excluded.uri, episode = excluded.episode, "
        "split = excluded.split, shard_set = excluded.shard_set "
        "WHERE split = 'val' AND excluded.split = 'train'",
        map(vars, sets.videos()),
    )
    catalog.db.execute("COMMIT")
    catalog.db.executescript(
        """
        CREATE TABLE gone AS SELECT v.video, v.duration_s, k.uri, k.episode, k.split, k.shard_set
            FROM videos v JOIN known_videos k ON k.video_id = v.video_id;
        CREATE INDEX gone_videos ON gone (video);
        DELETE FROM clips WHERE video IN (SELECT video FROM gone);
        DELETE FROM rejects WHERE video IN (SELECT video FROM gone);
        INSERT INTO known_episodes SELECT video, episode, split FROM gone;
        -- Without an id, no file is rejected again as a copy of one of these.
        UPDATE videos SET video_id = '' WHERE video IN (SELECT video FROM gone);
        """
    )
    catalog.db.execute(
        "INSERT INTO rejects SELECT video, 0.0, duration_s, 'same_file', "
        "'in ' || shard_set || ': ' || uri, NULL, uri FROM gone"
    )


def _drop_repeated_files(catalog: Catalog) -> None:
    """Keeps the first of equal files. Each later copy becomes one reject as long as the file."""
    catalog.db.executescript(
        """
        UPDATE videos SET first = (SELECT min(v.video) FROM videos v
            WHERE v.video_id = videos.video_id) WHERE video_id != '';
        UPDATE videos SET first = NULL WHERE first = video;
        CREATE INDEX repeats ON videos (video) WHERE first IS NOT NULL;
        DELETE FROM clips WHERE video IN (SELECT video FROM videos WHERE first IS NOT NULL);
        DELETE FROM rejects WHERE video IN (SELECT video FROM videos WHERE first IS NOT NULL);
        INSERT INTO rejects SELECT v.video, 0.0, v.duration_s, 'same_file', f.uri, NULL, f.uri
            FROM videos v JOIN videos f ON f.video = v.first;
        """
    )


def _join_repeats(catalog: Catalog, clusters: "_Clusters") -> None:
    """Joins each dropped copy to the file that it repeats, and so the episodes of both."""
    for pair in catalog.db.execute("SELECT video, first FROM videos WHERE first IS NOT NULL"):
        clusters.join(*pair)


def _note_known_clips(catalog: Catalog, known: Iterable[pa.RecordBatch]) -> None:
    catalog.db.execute("BEGIN")
    for batch in known:
        columns = (batch[name].to_pylist() for name in KNOWN.names)
        catalog.db.executemany(
            "INSERT INTO known_clips VALUES (?, ?, ?, ?, ?, ?)", zip(*columns, strict=True)
        )
    catalog.db.execute("COMMIT")


def _join_similar(catalog: Catalog, clusters: "_Clusters", links: Iterable[pa.RecordBatch]) -> None:
    """Joins videos that share a clip, and notes those that share one with a finished set."""
    note = "INSERT INTO known_episodes SELECT ?, episode, split FROM known_clips WHERE clip = ?"
    catalog.db.execute("BEGIN")
    for videos in links:
        for video, other in zip(*(column.to_pylist() for column in videos), strict=True):
            if other < 0:
                catalog.db.execute(note, (video, other))
            else:
                clusters.join(video, other)
    catalog.db.execute("COMMIT")


def _reject_duplicates(catalog: Catalog, originals: Iterable[pa.RecordBatch]) -> None:
    """Notes the original of each near-duplicate, and adds a reject for the duplicate."""
    catalog.db.execute("BEGIN")
    for batch in originals:
        catalog.db.executemany(
            "UPDATE clips SET original = ? WHERE clip = ?",
            zip(batch["original"].to_pylist(), batch["clip"].to_pylist(), strict=True),
        )
    catalog.db.execute("COMMIT")
    catalog.db.execute(
        """
        INSERT INTO rejects SELECT c.video, c.start_s, c.end_s, 'near_duplicate',
            'clip ' || o.clip_id || ' of ' || v.uri, o.clip_id, v.uri
        FROM clips c JOIN clips o ON o.clip = c.original JOIN videos v ON v.video = o.video
        UNION ALL SELECT c.video, c.start_s, c.end_s, 'near_duplicate',
            'clip ' || k.clip_id || ' of ' || k.uri || ' in ' || k.shard_set, k.clip_id, k.uri
        FROM clips c JOIN known_clips k ON k.clip = c.original
        """
    )


def _join_episodes(catalog: Catalog, clusters: "_Clusters") -> None:
    """Puts all cameras of an episode into one cluster: no scene may be seen by both splits."""
    rows = catalog.db.execute(
        "SELECT episode, video FROM videos WHERE episode != '' "
        "UNION ALL SELECT episode, video FROM known_episodes ORDER BY episode, video"
    )
    last_episode, last_video = "", 0
    for episode, video in rows:
        if episode == last_episode:
            clusters.join(video, last_video)
        last_episode, last_video = episode, video


def assign_splits(catalog: Catalog, clusters: "_Clusters", val_fraction: float) -> None:
    """Assigns a split to every video that gave clips.

    A video whose source was given for a split goes there. Other videos that share an episode or a
    near-duplicate clip, directly or through others, form a cluster and go to one split, so that
    nothing leaks between the splits. A cluster that shares something with finished sets goes to the
    split that it has there. For others the hash of the content of the cluster's earliest video
    decides, so that a video keeps its split when other videos come or go. If no hash falls below
    ``val_fraction``, the cluster with the lowest one is held out.
    """
    lowest: tuple[float, int] | None = None
    num_val = num_free = 0
    known = _known_splits(catalog, clusters)
    for root, episode in _free_clusters(catalog, clusters):
        if known[root]:
            num_val += known[root] == _VAL
            continue
        hashed = _uniform(episode)
        num_free += 1
        num_val += hashed < val_fraction
        lowest = (hashed, root) if lowest is None else min(lowest, (hashed, root))
    held_out = lowest[1] if lowest and val_fraction and not num_val and num_free > 1 else None

    def split_of(video: int, given: Split | None) -> Split:
        if given is not None:
            return given
        root = clusters.root(video)
        if known[root]:
            return "val" if known[root] == _VAL else "train"
        is_val = root == held_out or _uniform(_episode(catalog, root)) < val_fraction
        return "val" if is_val else "train"

    catalog.db.create_function("split_of", 2, split_of)
    catalog.db.execute(
        "UPDATE videos SET split = split_of(video, given_split) "
        "WHERE video IN (SELECT video FROM clips WHERE original IS NULL)"
    )


def _known_splits(catalog: Catalog, clusters: "_Clusters") -> bytearray:
    """Returns, at the root of each cluster, the split that finished sets have it in; 0 for none."""
    known = bytearray(catalog.num_videos)
    for video, split in catalog.db.execute("SELECT video, split FROM known_episodes"):
        root = clusters.root(video)
        known[root] = max(known[root], _VAL if split == "val" else _TRAIN)
    return known


def _free_clusters(catalog: Catalog, clusters: "_Clusters") -> Iterator[tuple[int, str]]:
    """Yields root and episode of each cluster that has clips and no given split."""
    rows = catalog.db.execute(
        "SELECT DISTINCT v.video FROM videos v JOIN clips c USING (video) "
        "WHERE c.original IS NULL AND v.given_split IS NULL"
    )
    seen = bytearray(catalog.num_videos)
    for (video,) in rows:
        root = clusters.root(video)
        if not seen[root]:
            seen[root] = 1
            yield root, _episode(catalog, root)


def _episode(catalog: Catalog, video: int) -> str:
    (episode,) = catalog.db.execute(
        "SELECT episode FROM videos WHERE video = ?", (video,)
    ).fetchone()
    return episode


def _uniform(episode_id: str) -> float:
    """Converts the hash to a number in [0, 1)."""
    # 13 hex digits are 52 bits, all of which fit into a float.
    return int(episode_id[:13], 16) / 16**13


class _Clusters:
    """Joins videos by union-find. The root of a cluster is its smallest video number."""

    def __init__(self, size: int) -> None:
        # Eight bytes per video, because all videos of a source are in here at once.
        self._parent = array("q", range(size))

    def root(self, video: int) -> int:
        parent = self._parent
        while parent[video] != video:
            parent[video] = parent[parent[video]]  # halves the way for the next look-up
            video = parent[video]
        return video

    def join(self, a: int, b: int) -> None:
        # The smallest number stays the root, because the hash of the earliest video decides the
        # split.
        low, high = sorted((self.root(a), self.root(b)))
        self._parent[high] = low
