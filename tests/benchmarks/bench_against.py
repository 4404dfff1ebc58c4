"""What the signatures beside shards cost, and what comparing a source with a finished set costs.

python -m tests.benchmarks.bench_against FOLDER        # one JSON line

Videos of the folder are decoded once, as configs/preprocess/videos.yaml says. Then the steps after
that are timed, medians of ``NUM_RUNS``: the selection, the writing of the shards, and the selection
against the finished set of the same clips, which are all found. ``bench_select --against`` measures
larger sources.
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

import ray

from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.file_counts import FileCounts
from data_pipelines.preprocess.job import list_inputs, make_shard, select
from data_pipelines.preprocess.manifest import clips_table, shard_set, write_manifest
from data_pipelines.preprocess.parts import make_parts
from data_pipelines.preprocess.plan import SELECTIONS, Plan, make_plan
from data_pipelines.preprocess.select.selection import Selected
from data_pipelines.preprocess.shards import ShardLayout
from lafp import storage
from lafp.config import load_config
from lafp.data.shards.format import entry_name
from lafp.storage import strict_json

NUM_RUNS = 15
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


def selected_anew(cfg: PreprocessConfig, plan: Plan) -> Selected:
    """The selection, none of whose steps is complete."""
    storage.delete_folder(storage.join(plan.work, SELECTIONS))
    return select(cfg, plan, plan.work, FileCounts())


def measured(source: str, folder: Path) -> dict[str, float]:
    """Makes a set of the videos, and compares them with it."""
    cfg = load_config(PreprocessConfig, CONFIG, [f"source={source}", "max_reject_fraction=1.0"])
    shards = folder / "set"
    plan = make_plan(list_inputs(cfg), cfg.tasks, str(folder / "work"))
    make_parts(cfg, plan)
    (alone_s,) = medians_s([lambda: selected_anew(cfg, plan)])
    selected = selected_anew(cfg, plan)
    with clips_table(str(shards), selected, cfg.shards.max_bytes) as found:
        layouts = list(found)
    writing = [partial(write, layouts, selected, plan.work, shards, has) for has in (False, True)]
    without_s, with_s = medians_s(writing)
    write_manifest(str(shards), [layout.shard for layout in layouts])
    spec = shard_set(selected, cfg)
    strict_json.write(str(shards / "shard_set.json"), spec)
    num_clips = sum(spec.num_clips.values())
    tables = list(shards.glob("*.signatures.parquet"))
    against = replace(cfg, filters=replace(cfg.filters, against=(str(shards),)))
    (against_s,) = medians_s([lambda: selected_anew(against, plan)])
    return {
        "clips": num_clips,
        "hours": round(spec.num_hours, 3),
        "shards_mb": round(sum(p.stat().st_size for p in shards.glob("*.tar")) / 1e6, 2),
        "signature_bytes_per_clip": round(sum(p.stat().st_size for p in tables) / num_clips),
        "shards_s": round(without_s, 3),
        "shards_with_signatures_s": round(with_s, 3),
        "selection_s": round(alone_s, 3),
        "selection_against_s": round(against_s, 3),
        "kept": len(selected_anew(against, plan).kept),
    }


def write(
    layouts: list[ShardLayout], selected: Selected, work: str, shards: Path, has_signatures: bool
) -> None:
    """All shards, one after another."""
    for layout in layouts:
        (shards / entry_name(layout.shard)).unlink(missing_ok=True)
        assert not make_shard(layout, selected.tables, work, str(shards), has_signatures)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        ray.init(address="local", include_dashboard=False, log_to_driver=False)
        result = measured(sys.argv[1], Path(name))
    print(json.dumps({"bench": "against", **result}), flush=True)
