"""Takes a source video out of finished shard sets and out of the latents made from them.

The steps are planned for all sets, stored in a journal in each (``takedown.json``), recorded for
the run, and then carried out (``apply``), so that a killed takedown continues when it is run again.
"""

import hashlib
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

from data_pipelines.preprocess.taken_down import (
    Takedown,
    add_takedowns,
    home_of,
    read_takedowns,
    record_uri,
)
from data_pipelines.takedown.apply import apply
from data_pipelines.takedown.config import TakedownConfig
from data_pipelines.takedown.find import (
    Findings,
    Video,
    check_names_one_video,
    find_in_sets,
    find_video,
)
from data_pipelines.takedown.folders import (
    latent_folders,
    mask_folders,
    pages_and_pictures,
    shard_sets,
)
from data_pipelines.takedown.journal import Journal, journal_uri, read_journal
from lafp import storage
from lafp.config import ConfigError
from lafp.data.shards.format import check_shard_name
from lafp.data.shards.sets import open_shard_set, read_entry, shards_sha256
from lafp.runs.lease import owned
from lafp.runs.run_dir import StageDir
from lafp.storage import strict_json
from lafp.storage.secrets import without_secrets


def take_down(cfg: TakedownConfig, is_dry_run: bool, job: str | None = None) -> list[str]:
    """Takes a video down, and finishes takedowns that were interrupted.

    Args:
        cfg: Names the video, and the folders that it is taken from.
        is_dry_run: Writes nothing, and claims no folder.
        job: Names the Ray job that this process belongs to.

    Returns:
        Lines that say what went, or would go.

    Raises:
        ConfigError: There is no finished shard set, or the video is not in it.
        InUseError: Another process works in one of the folders.
        StorageError: Reading or writing failed. Run again to resume.
    """
    found = shard_sets(cfg.output)
    if is_dry_run:
        return _take_down(cfg, found, is_dry_run)
    with _all_owned(found, job):
        return _take_down(cfg, found, is_dry_run)


def _take_down(cfg: TakedownConfig, shard_sets: Sequence[str], is_dry_run: bool) -> list[str]:
    for shards in shard_sets:
        open_shard_set(shards)  # an unfinished set has parts, which would be missed
        if not is_dry_run and storage.is_file(journal_uri(shards)):
            _finish_interrupted(shards)
    if cfg.video_uri and (uri := without_secrets(cfg.video_uri)) != cfg.video_uri:
        check_names_one_video(shard_sets, uri)
        cfg = replace(cfg, video_uri=uri)
    video = find_video(shard_sets, cfg.video_id, cfg.video_uri)
    found = find_in_sets(shard_sets, video)
    found = {shards: rest for shards, rest in found.items() if rest.clips or rest.rejects}
    if not found:
        return _nothing(cfg, shard_sets)
    journals = {shards: _plan(shards, video, findings) for shards, findings in found.items()}
    shown = pages_and_pictures(home_of(shard_sets[0]))
    if not is_dry_run:
        _carry_out(journals, shown)
    lines = sorted(video.video_uris)
    for shards, findings in found.items():
        lines += _in_words(shards, findings, journals[shards])
    lines += (f"shows frames of clips, its or others: {uri}" for uri in shown)
    masks = mask_folders(home_of(shard_sets[0]))
    return [*lines, *(f"may hold masks of its frames, which stay: {uri}" for uri in masks)]


def _carry_out(journals: Mapping[str, Journal], shown: Sequence[str]) -> None:
    """Stores the journals of all sets, records the takedown, then changes sets, pages and pictures.

    Rejects of one set lead to clips of another, and are gone once their set is changed. So all
    journals are stored before the first change. The record, which is one file of the run, is
    written after all journals, so it proves that they exist.
    """
    for shards, journal in journals.items():
        strict_json.write(journal_uri(shards), journal)
    takedowns = [journal.takedown for journal in journals.values()]
    # From here on `preprocess` obeys the takedown, even if this process is killed.
    add_takedowns(next(iter(journals)), takedowns)
    # Before the sets, whose journals say that the takedown is not complete.
    _delete(shown)
    for shards, journal in journals.items():
        apply(shards, journal)


def _finish_interrupted(shards: str) -> None:
    journal = read_journal(shards)
    recorded = {takedown.takedown_id for takedown in read_takedowns(shards)}
    if journal.takedown.takedown_id in recorded:
        _delete(pages_and_pictures(home_of(shards)))
        apply(shards, journal)
    else:
        # Killed before the record: nothing was changed, and journals of other sets may be missing.
        storage.delete(journal_uri(shards))


def _delete(uris: Sequence[str]) -> None:
    for uri in uris:
        # In an object store, a folder is a prefix of names.
        if storage.is_file(uri):
            storage.delete(uri)
        else:
            storage.delete_folder(uri)


@contextmanager
def _all_owned(shard_sets: Sequence[str], job: str | None) -> Iterator[None]:
    """Keeps other jobs from writing to the sets, their run's latents and its record in the block.

    Raises:
        InUseError: Another job does.
        StorageError: The folders cannot be written to.
    """
    records = {record_uri(shards).rpartition("/")[0] for shards in shard_sets}
    latents = {uri for shards in shard_sets for uri in latent_folders(shards)}
    with ExitStack() as stack:
        # All takedowns claim the folders in one order, so that one of two gets all of its folders.
        for folder in sorted(map(storage.join, {*records, *shard_sets, *latents})):
            stack.enter_context(owned(folder, job, print))
        yield
    for uri in latents:
        # A deleted latent set may be there again as an empty folder, in which the claim lay.
        if not storage.is_remote(uri):
            with suppress(OSError):
                storage.path_of(uri).rmdir()


def _nothing(cfg: TakedownConfig, shard_sets: Sequence[str]) -> list[str]:
    for takedown in read_takedowns(shard_sets[0]):
        if cfg.video_uri in takedown.video_uris or cfg.video_id in takedown.video_ids:
            return [f"taken down already, on {takedown.taken_down_at}"]
    named = cfg.video_uri or cfg.video_id
    raise ConfigError(
        f"Nothing of {named} is in {', '.join(shard_sets)}. Take video_uri from the tables "
        "in clips/ or rejects.parquet there, or video_id from those in clips/."
    )


def _in_words(shards: str, findings: Findings, journal: Journal) -> list[str]:
    seconds = sum(clip["end_s"] - clip["start_s"] for clip in findings.clips)
    others = sorted({uri for uri, _, _ in findings.spans})
    return [
        f"{shards}: {len(findings.clips)} clips of {seconds:.1f} s in "
        f"{len(journal.shards)} shards, {len(findings.rejects)} rejects",
        *(f"  near-duplicate spans in {uri}" for uri in others),
        *(f"  latents in {uri}" for uri in journal.latents),
    ]


# ---------------------------------------------------------------------------------------------
# Planning


def _plan(shards: str, video: Video, findings: Findings) -> Journal:
    clip_ids = tuple(sorted(findings.clip_ids))
    uris, spans = sorted(video.video_uris), tuple(findings.spans)
    digest = hashlib.sha256(strict_json.dumps([clip_ids, uris, spans]).encode()).hexdigest()
    takedown = Takedown(
        takedown_id=digest[:16],
        taken_down_at=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        video_ids=tuple(sorted(video.video_ids)),
        video_uris=tuple(uris),
        spans=spans,
    )
    per_shard = Counter(check_shard_name(clip["shard"]) for clip in findings.clips)
    sha256 = shards_sha256(shards)
    return Journal(
        takedown=takedown,
        clip_ids=clip_ids,
        shards={
            shard: None if read_entry(shards, shard).num_clips == num else _renamed(shard, digest)
            for shard, num in sorted(per_shard.items())
        },
        shards_sha256=sha256,
        latents=_latent_sets(shards, sha256),
    )


def _renamed(shard: str, digest: str) -> str:
    """Puts the digest into a name: ``train-000003.tar`` becomes ``train-000003-1a2b3c4d.tar``."""
    return re.sub(r"(-[0-9a-f]{8})?\.tar$", f"-{digest[:8]}.tar", shard)


def _latent_sets(shards: str, sha256: str) -> tuple[str, ...]:
    """Returns the latent sets of the same run that were made from shards of this content."""
    stages = (StageDir(uri, "latents") for uri in latent_folders(shards))
    return tuple(stage.uri for stage in stages if stage.is_begun() and stage.has_read(sha256))
