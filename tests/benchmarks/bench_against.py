"""What the signatures beside shards cost, and what comparing a source with a finished set costs.

python -m tests.benchmarks.bench_against FOLDER        # one JSON line, of real videos
python -m tests.benchmarks.bench_against NUM_CLIPS     # one JSON line, of made-up clips of 10 s

Videos of the folder are decoded once, as configs/preprocess/videos.yaml says. Then the steps after
that are timed, medians of ``NUM_RUNS``: the search, the writing of the shards, and the search
against the finished set of the same clips, which are all found. Made-up clips are compared with a
set of as many others, of which one in fifty is a noisy copy of one of 1,000 of them.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import ray

from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.file_counts import FileCounts
from data_pipelines.preprocess.job import list_inputs, open_catalog
from data_pipelines.preprocess.manifest import clips_table, shard_set, write_manifest
from data_pipelines.preprocess.parts import PartCounts, make_parts
from data_pipelines.preprocess.plan import Plan, make_plan
from data_pipelines.preprocess.rows import ClipRow
from data_pipelines.preprocess.search import find_duplicates
from data_pipelines.preprocess.select.clips_and_splits import select_clips
from data_pipelines.preprocess.select.finished_sets import FinishedSets
from data_pipelines.preprocess.select.signatures import write_shard_signatures
from data_pipelines.preprocess.shards import ShardLayout, lay_out_shards, write_shard
from lafp.config import load_config
from lafp.data.shards.format import ShardEntry, ShardSet, signatures_name
from lafp.storage import strict_json
from lafp.storage.tables import num_rows, open_table
from tests.benchmarks.bench_duplicates import CLIPS_PER_PART, Watch, fill
from tests.data_pipelines.preprocess.test_scale import rows_of

NUM_RUNS = 15
CLIPS_PER_SHARD = 2_270
CONFIG = Path(__file__).parents[2] / "configs/preprocess/videos.yaml"


def medians_s(functions: Sequence[Callable[[], object]]) -> list[float]:
    """Seconds of calls, which take turns. The first turn, which warms up, does not count."""
    times: list[list[float]] = [[] for _ in functions]
    for number in range(NUM_RUNS + 1):
        for of_function, function in zip(times, functions, strict=True):
            start = time.monotonic()
            function()
            if number:
                of_function.append(time.monotonic() - start)
    return [statistics.median(of_function) for of_function in times]


def measured(source: str, folder: Path) -> dict[str, float]:
    """Makes a set of the videos, and compares them with it."""
    cfg = load_config(PreprocessConfig, CONFIG, [f"source={source}", "max_reject_fraction=1.0"])
    work, shards = str(folder / "work"), folder / "set"
    plan = make_plan(list_inputs(cfg), cfg.tasks, work)
    make_parts(cfg, plan)
    with open_catalog(plan, FileCounts(), PartCounts()) as catalog:
        find = partial(find_duplicates, work=work)
        (alone_s,) = medians_s([lambda: find(catalog)])
        num_compared = catalog.num_clips
        select_clips(catalog, cfg, find)
        layouts = list(lay_out_shards(catalog.kept_clips(), cfg.shards.max_bytes))
        spec = shard_set(catalog, cfg)
    writing = [partial(write, layouts, work, shards, is_with) for is_with in (False, True)]
    without_s, with_s = medians_s(writing)
    with clips_table(str(shards), layouts) as recorded:
        num_clips = sum(len(layout.clips) for layout in recorded)
    write_manifest(str(shards), [layout.shard for layout in layouts])
    strict_json.write(str(shards / "shard_set.json"), spec)
    tables = list(shards.glob("*.signatures.parquet"))
    return {
        "clips": num_clips,
        "hours": round(spec.num_hours, 3),
        "shards_mb": round(sum(p.stat().st_size for p in shards.glob("*.tar")) / 1e6, 2),
        "signature_bytes_per_clip": round(sum(p.stat().st_size for p in tables) / num_clips),
        "shards_s": round(without_s, 3),
        "shards_with_signatures_s": round(with_s, 3),
        "clips_compared": num_compared,
        "search_s": round(alone_s, 3),
        **against(plan, work, str(shards)),
    }


def write(layouts: list[ShardLayout], work: str, shards: Path, has_signatures: bool) -> None:
    """All shards, one after another."""
    for layout in layouts:
        write_shard(layout, work, str(shards), has_signatures)


def against(plan: Plan, work: str, shards: str) -> dict[str, float]:
    """The search for the clips of a set."""
    with open_catalog(plan, FileCounts(), PartCounts()) as catalog:

        def find() -> int:
            found = find_duplicates(catalog, work, sets=FinishedSets([shards]))
            return sum(len(batch) for batch in found.originals)

        return {"search_against_s": round(medians_s([find])[0], 3), "found": find()}


def made_up(num_clips: int, folder: Path) -> dict[str, float]:
    """A set of made-up clips, whose shards hold clips of all parts, and a source of as many."""
    known, work = folder / "set", folder / "work"
    known.mkdir()
    work.mkdir()
    catalog, _ = fill(2 * num_clips, work)
    catalog.db.execute("DELETE FROM clips WHERE clip >= ?", (num_clips,))
    catalog.num_clips = num_clips
    clips = num_clips + np.random.default_rng(0).permutation(num_clips)
    rows = [row_of(int(clip)) for clip in clips]
    with Watch() as written:
        for number, first in enumerate(range(0, num_clips, CLIPS_PER_SHARD)):
            uri = str(known / signatures_name(f"train-{number:06d}.tar"))
            write_shard_signatures(uri, rows[first : first + CLIPS_PER_SHARD], str(work))
    write_set(known, num_clips)
    sets = FinishedSets([str(known)])
    with Watch() as alone:
        find_duplicates(catalog, str(work))
    with Watch() as compared:
        found = find_duplicates(catalog, str(work), sets=sets)
    num_bytes = sum(path.stat().st_size for path in known.glob("*.signatures.parquet"))
    return {
        "clips": num_clips,
        "signature_bytes_per_clip": round(num_bytes / num_clips),
        "signatures_ms_per_clip": round(1000 * written.cpu_s / num_clips, 3),
        "found": sum(pc.sum(pc.less(batch["original"], 0)).as_py() for batch in found.originals),
        "search_ms_per_clip": round(1000 * alone.cpu_s / num_clips, 3),
        "search_against_ms_per_clip": round(1000 * compared.cpu_s / num_clips, 3),
    }


def row_of(number: int) -> ClipRow:
    """One of the clips of ``bench_duplicates.fill``."""
    row, part = rows_of(number).clips[0], number // CLIPS_PER_PART
    name = f"{part // 1000:06d}/part-{part:06d}.tar"
    return replace(row, part=name, video_offset=number % CLIPS_PER_PART)


def write_set(folder: Path, num_clips: int) -> None:
    """The tables of a set whose signatures are there."""
    with open_table(str(folder / "manifest.parquet"), ShardEntry) as manifest:
        for path in sorted(folder.glob("*.signatures.parquet")):
            shard = path.name.replace(".signatures.parquet", ".tar")
            sizes = {"num_clips": num_rows(str(path)), "num_frames": 1, "num_bytes": 1}
            manifest.add({"shard": shard, "split": "train", "sha256": "0" * 64, **sizes})
    spec = ShardSet(
        source="made-up", width_px=64, height_px=64, fps=10.0, num_clips={"train": num_clips},
        num_frames={"train": 100 * num_clips}, num_hours=num_clips / 360, min_clip_frames=100,
        max_clip_frames=100, has_signatures=True,
    )  # fmt: skip
    strict_json.write(str(folder / "shard_set.json"), spec)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        given, folder = sys.argv[1], Path(name)
        if given.isdigit():
            result = made_up(int(given), folder)
        else:
            ray.init(address="local", include_dashboard=False, log_to_driver=False)
            result = measured(given, folder)
    print(json.dumps({"bench": "against", **result}), flush=True)
