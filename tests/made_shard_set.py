"""A shard set as `preprocess` makes it, without Ray."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from data_pipelines.preprocess.clip.video_to_clips import video_to_clips
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.file_counts import FileCounts
from data_pipelines.preprocess.job import list_inputs
from data_pipelines.preprocess.manifest import (
    check_totals,
    clips_table,
    shard_set,
    summarize,
    write_manifest,
    write_rejects,
)
from data_pipelines.preprocess.search import find_duplicates
from data_pipelines.preprocess.select.catalog import Catalog
from data_pipelines.preprocess.select.clips_and_splits import select_clips
from data_pipelines.preprocess.select.finished_sets import FinishedSets
from data_pipelines.preprocess.shards import lay_out_shards, write_part, write_shard
from data_pipelines.preprocess.taken_down import read_takedowns, reject_taken_down
from lafp.storage import strict_json
from lafp.video import VIDEO_DECODERS


def make_shard_set(cfg: PreprocessConfig, source: Path, shards: Path) -> dict[str, object]:
    """Makes the set of one source. Returns its summary, which ``totals.json`` holds too."""
    cfg, cls = replace(cfg, source=str(source)), VIDEO_DECODERS.get("pyav")
    work = shards / "work"
    work.mkdir(parents=True)
    catalog, sets = Catalog(work), FinishedSets(cfg.filters.against)
    inputs = (video_to_clips(item, cfg, cls(cls.Config())) for item in list_inputs(cfg))
    catalog.add(write_part(inputs, str(work), "000000/part-000000.tar"))
    reject_taken_down(catalog, read_takedowns(str(shards)))
    select_clips(catalog, cfg, partial(find_duplicates, work=str(work), sets=sets), sets)
    spec, names = shard_set(catalog, cfg), []
    layouts = lay_out_shards(catalog.kept_clips(), cfg.shards.max_bytes)
    with clips_table(str(shards), layouts) as recorded:
        for layout in recorded:
            write_shard(layout, str(work), str(shards), cfg.filters.drop_duplicates)
            names.append(layout.shard)
    write_rejects(str(shards), catalog.rejects())
    summary = summarize(catalog, spec, FileCounts().table(), *write_manifest(str(shards), names))
    check_totals(summary)
    strict_json.write(str(shards / "totals.json"), summary)
    strict_json.write(str(shards / "shard_set.json"), spec)
    catalog.close()
    shutil.rmtree(work)
    return strict_json.read(dict[str, Any], str(shards / "totals.json"))
