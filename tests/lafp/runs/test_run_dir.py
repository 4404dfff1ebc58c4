import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lafp.config import ConfigError, config_to_dict, may_change, may_grow
from lafp.runs.identity import extent_of, fingerprint, identity_of, recipe_of
from lafp.runs.run_dir import RunDir
from lafp.storage.json_lines import JsonLines
from lafp.storage.strict_json import DamagedError


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    lr: float = 1e-3


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    optim: OptimConfig = OptimConfig()
    sizes: tuple[int, ...] = (1, 2)
    num_steps: int = may_grow(default=10)
    num_workers: int = may_change(default=1)
    limits: OptimConfig = field(default=OptimConfig(), metadata={"may_change": True})


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    lam: TrainConfig = TrainConfig()
    policies: tuple[TrainConfig, ...] = (TrainConfig(), TrainConfig(num_steps=3))
    note: str = may_change(default="")


@pytest.fixture
def stage(tmp_path):
    return RunDir(str(tmp_path / "run")).stage("lam")


def test_a_stage_is_new_then_partial_then_complete(stage):
    cfg = TrainConfig()
    assert stage.state(cfg, {}) == "new"
    stage.begin(cfg, {})
    assert stage.state(cfg, {}) == "partial"
    stage.finish({"loss": 1.0})
    assert stage.state(cfg, {}) == "complete"
    assert stage.summary() == {"loss": 1.0}


def test_more_steps_resume_a_complete_stage(stage):
    stage.begin(TrainConfig(), {})
    stage.finish({})
    assert stage.state(TrainConfig(num_steps=20), {}) == "partial"


def test_another_config_in_the_same_folder_is_refused_with_the_difference(stage):
    stage.begin(TrainConfig(), {"shards": "abc"})
    other = TrainConfig(optim=OptimConfig(lr=1e-4))
    with pytest.raises(ConfigError, match=r"another config: optim\.lr was 0\.001, now 0\.0001"):
        stage.state(other, {"shards": "abc"})
    with pytest.raises(ConfigError, match=r"other inputs: shards was 'abc', now 'xyz'"):
        stage.state(TrainConfig(), {"shards": "xyz"})


def test_a_complete_stage_stays_complete_when_only_the_way_of_working_changed(stage):
    stage.begin(TrainConfig(), {})
    stage.finish({})
    before = stage.fingerprint()
    cfg = TrainConfig(num_workers=8, limits=OptimConfig(lr=5.0))
    assert stage.state(cfg, {}) == "complete"
    assert stage.fingerprint() == before


def complete(folder, cfg, inputs):
    stage = RunDir(str(folder)).stage("lam")
    stage.begin(cfg, inputs)
    stage.finish({})
    return stage.fingerprint()


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    shards: str | None
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class InputsConfig:
    lam: str | None = None
    data: tuple[DataConfig, ...] = ()
    lr: float = 1e-3


PATHS = st.sampled_from([None, "/a/lam", "/a/lam/", "b/lam", "s3://bucket/lam"])


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    was=st.tuples(PATHS, PATHS), now=st.tuples(PATHS, PATHS), same=st.tuples(*[st.booleans()] * 3)
)
def test_an_input_may_move_but_not_change(tmp_path_factory, was, now, same):
    """The path of an input does not matter, its content does, and so does all else beside it."""
    stage = RunDir(str(tmp_path_factory.mktemp("run"))).stage("lam")
    names = "lam", "data.0.shards"
    stage.begin(
        InputsConfig(lam=was[0], data=(DataConfig(shards=was[1]),)), dict.fromkeys(names, "1")
    )
    moved = InputsConfig(
        lam=now[0], data=(DataConfig(shards=now[1]),), lr=1e-3 if same[2] else 1e-4
    )
    content = {name: "1" if is_same else "2" for name, is_same in zip(names, same, strict=False)}
    changed = {change.field for change in stage.changes(moved, content)}
    assert changed == {*(n for n in names if content[n] == "2"), *(() if same[2] else ("lr",))}


def test_a_fingerprint_follows_config_and_inputs(tmp_path):
    first = complete(tmp_path / "a", TrainConfig(), {"shards": "abc"})
    assert first == complete(tmp_path / "b", TrainConfig(num_workers=4), {"shards": "abc"})
    assert first != complete(tmp_path / "c", TrainConfig(), {"shards": "xyz"})
    assert first != complete(tmp_path / "d", TrainConfig(num_steps=11), {"shards": "abc"})


def test_a_model_is_known_by_its_weights_however_it_was_made(tmp_path):
    def trained(name, cfg, weights):
        stage = RunDir(str(tmp_path / name)).stage("lam")
        (tmp_path / name / "lam").mkdir(parents=True)
        card = json.dumps({"kind": "lam", "weights_sha256": weights})
        (tmp_path / name / "lam" / "model.json").write_text(card)
        stage.begin(cfg, {})
        stage.finish({})
        return stage.fingerprint()

    first = trained("a", TrainConfig(), "123")
    assert trained("b", TrainConfig(num_steps=50), "123") == first
    assert trained("c", TrainConfig(), "456") != first


TRAIN_FIELDS = ("sizes", "num_steps", "num_workers")
PLACES = [
    ((), "note"),
    *((place, name) for place in (("lam",), ("policies", 1)) for name in TRAIN_FIELDS),
    (("lam", "optim"), "lr"),
    (("policies", 0, "limits"), "lr"),
]
VALUES = {
    "note": st.text(max_size=5),
    "sizes": st.lists(st.integers(0, 9), max_size=3).map(tuple),
    "num_steps": st.integers(1, 99),
    "num_workers": st.integers(1, 99),
    "lr": st.floats(1e-9, 1e9),
}


def changed(config: Any, place: tuple, name: str, value: Any) -> Any:
    if not place:
        return replace(config, **{name: value})
    key, *rest = place
    if isinstance(config, tuple):
        inner = changed(config[key], tuple(rest), name, value)
        return (*config[:key], inner, *config[key + 1 :])
    inner = changed(getattr(config, key), tuple(rest), name, value)
    return replace(config, **{key: inner})


@settings(deadline=None)
@given(st.data())
def test_only_what_may_change_leaves_a_stage_what_it_is(data):
    place, name = data.draw(st.sampled_from(PLACES))
    before = PipelineConfig()
    after = changed(before, place, name, data.draw(VALUES[name]))
    is_free = name in ("note", "num_workers") or "limits" in place
    is_same = config_to_dict(after) == config_to_dict(before)

    def alike(view):
        return fingerprint(view(after)) == fingerprint(view(before))

    assert alike(recipe_of) == (is_free or is_same)
    assert alike(identity_of) == (is_free or is_same or name == "num_steps")
    assert alike(extent_of) == (is_same or name != "num_steps")


def test_accepted_changes_are_recorded_with_old_and_new_value(stage):
    stage.begin(TrainConfig(), {"lam": "a"})
    cfg, inputs = TrainConfig(optim=OptimConfig(lr=1e-4)), {"lam": "b"}
    changes = stage.changes(cfg, inputs)
    assert stage.state(cfg, inputs, accept_changes=True) == "partial"
    stage.begin(cfg, inputs, changes, {"step": 500})
    third = TrainConfig(optim=OptimConfig(lr=1e-5))
    stage.begin(third, inputs, stage.changes(third, inputs), {"step": 700})
    recorded = stage.provenance()["accepted_changes"]
    assert [(c["field"], c["was"], c["now"], c["step"]) for c in recorded] == [
        ("optim.lr", 1e-3, 1e-4, 500),
        ("lam", "a", "b", 500),
        ("optim.lr", 1e-4, 1e-5, 700),
    ]
    assert stage.state(third, inputs) == "partial"


def test_an_incomplete_stage_says_how_to_complete_it(stage):
    with pytest.raises(ConfigError, match="'lam' is not complete"):
        stage.summary()


@pytest.mark.parametrize("text", ["{}", '{"identity": {}, "inputs": []}', "[" * 5_000, "\x00"])
def test_damaged_provenance_is_an_error_that_names_the_file(tmp_path, text):
    stage = RunDir(str(tmp_path)).stage("lam")
    stage.begin({}, {})
    (tmp_path / "lam/provenance.json").write_text(text)
    with pytest.raises(DamagedError, match=r"provenance\.json is damaged"):
        stage.state({}, {})


@pytest.mark.parametrize("line", [b"{}", b'{"step": "x"}', b'{"step": 1, "a": "\xff"}', b"[]"])
def test_a_damaged_line_of_metrics_is_an_error_that_names_the_file(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line + b"\n")
    with pytest.raises(DamagedError, match=r"metrics\.jsonl is damaged"):
        JsonLines(str(path), 1)
