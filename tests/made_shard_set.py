"""A shard set as `preprocess` makes it, without Ray."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_pipelines.preprocess.clip.video_to_clips import video_to_clips
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.file_counts import FileCounts
from data_pipelines.preprocess.job import list_inputs, make_shard
from data_pipelines.preprocess.manifest import (
    check_totals,
    clips_table,
    shard_set,
    summarize,
    write_manifest,
    write_rejects,
)
from data_pipelines.preprocess.select.finished_sets import FinishedSets
from data_pipelines.preprocess.shards import write_part
from data_pipelines.preprocess.taken_down import read_takedowns
from lafp.storage import strict_json
from lafp.video import VIDEO_DECODERS
from tests.selecting import select_items


def make_shard_set(cfg: PreprocessConfig, source: Path, shards: Path) -> dict[str, object]:
    """Makes the set of one source. Returns its summary, which ``totals.json`` holds too."""
    cfg, cls = replace(cfg, source=str(source)), VIDEO_DECODERS.get("pyav")
    work = shards / "work"
    work.mkdir(parents=True)
    sets = FinishedSets(cfg.filters.against)
    inputs = (video_to_clips(item, cfg, cls(cls.Config())) for item in list_inputs(cfg))
    items = write_part(inputs, str(work), "000000/part-000000.tar")
    selected = select_items(cfg, items, work, sets, read_takedowns(str(shards)))
    spec, names = shard_set(selected, cfg), []
    with clips_table(str(shards), selected, cfg.shards.max_bytes) as layouts:
        for layout in layouts:
            has_signatures = cfg.filters.drop_duplicates
            assert not make_shard(layout, selected.tables, str(work), str(shards), has_signatures)
            names.append(layout.shard)
    write_rejects(str(shards), selected.rejects())
    summary = summarize(selected, spec, FileCounts().table(), *write_manifest(str(shards), names))
    check_totals(summary)
    strict_json.write(str(shards / "totals.json"), summary)
    strict_json.write(str(shards / "shard_set.json"), spec)
    shutil.rmtree(work)
    return strict_json.read(dict[str, Any], str(shards / "totals.json"))
