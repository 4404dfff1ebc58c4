"""YAML configs, and the records of a run."""

from collections.abc import Callable
from pathlib import Path
from random import Random

from data_pipelines.preprocess.config import PreprocessConfig
from lafp.config import ConfigError, load_config
from lafp.runs.run_dir import RunDir
from lafp.storage.json_lines import JsonLines
from lafp.storage.strict_json import DamagedError
from tests.chaos.fuzz import Target
from tests.chaos.mutations import mutated_bytes
from tests.chaos.targets.stored import Files, changer, files_in, write

_SEED = b"""source: /data
labels: {fps: 5.0, action_parts: [a, b]}
limits:
  max_bytes: 1000
  timeout_s: ${piece_s}
piece_s: 1200.0
filters: &f {min_motion: 0.5}
video_decoder: {name: pyav}
"""
_ODD = (
    "!!timestamp x",
    "!!int abc",
    "!!binary x",
    "!!python/object:os.system {}",
    "&a [*a]",
    "? [a]",
)
_ODD += (
    "9" * 5000,
    "${a}",
    "${piece_s}",
    "${oc.env:HOME}",
    "${..}",
    "${",
    "[" * 2000,
    "{a: " * 500,
)
_ODD += (
    "1e999",
    ".nan",
    "0x" + "f" * 99,
    "2020-99-99",
    "null",
    "yes",
    "190:20:30",
    "<<: 1",
    "'\\0'",
)
_ODD += ("extends: x", '{extends: "\\0"}', "{extends: " + "x" * 300 + "}", "{1: 2}", "{null: 1}")


def yaml_configs(folder: Path) -> Target:
    path = folder / "config.yaml"

    def make(rng: Random) -> bytes:
        data = _SEED
        if rng.random() < 0.7:
            lines = data.splitlines()
            place = rng.randrange(len(lines))
            name = lines[place].split(b":")[0]
            lines[place] = name + b": " + rng.choice(_ODD).encode()
            data = b"\n".join(lines)
        return mutated_bytes(rng, data, most=2) if rng.random() < 0.6 else data

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        load_config(PreprocessConfig, path)

    return Target(make, parse, (ConfigError,))


def records(folder: Path) -> Target:
    run = RunDir(str(folder / "seed" / "runs" / "r"))
    stage = run.stage("lam")
    config = {"train": {"num_steps": 3}}
    stage.begin(config, {"shards": "0"})
    JsonLines(stage.path("metrics.jsonl"), 0).append([{"step": 1, "loss": 0.5}])
    stage.finish({"loss": 0.5})
    files = files_in(folder / "seed") | {"runs/r/stages.json": b'{"policy": "shared/policy"}'}
    made_at = folder / "copy"

    def parse(made: Files) -> None:
        write(made_at, made)
        copy = RunDir(str(made_at / "runs" / "r"))
        found = copy.stage("lam")
        checks: tuple[Callable[[], object], ...] = (
            lambda: copy.shared_stages,
            lambda: found.state(config, {"shards": "0"}),
            found.summary,
            found.fingerprint,
            lambda: JsonLines(found.path("metrics.jsonl"), 1),
        )
        for check in checks:
            check()

    names = [name for name in files if not name.endswith(".yaml")]
    return Target(changer(files, names), parse, (ConfigError, DamagedError))


TARGETS = {"yaml configs": yaml_configs, "run records": records}
