"""The four things that a config loader of this kind gets wrong, and its messages."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import yaml

from data_pipelines.preprocess.config import PreprocessConfig
from lafp.config import Choice, ConfigError, choice, config_from_dict, config_to_dict, load_config
from lafp.config.registry import Registry


@dataclass(frozen=True, kw_only=True)
class CircleConfig:
    name: str = "circle"
    radius: float = 1.0

    def __post_init__(self) -> None:
        if self.radius <= 0:
            raise ValueError(f"radius must be positive, got {self.radius}.")


@dataclass(frozen=True, kw_only=True)
class BoxConfig:
    name: str = "box"
    size: tuple[float, float] = (1.0, 1.0)
    style: Literal["plain", "round"] = "plain"
    holes: int | None = None
    tilt: float | int | tuple[float, float] = 0.0


class Circle:
    Config = CircleConfig

    def __init__(self, cfg: CircleConfig, num: int) -> None:
        self.cfg, self.num = cfg, num


class Box:
    Config = BoxConfig


SHAPES: Registry[object] = Registry(
    "shape", {"circle": f"{__name__}:Circle", "box": f"{__name__}:Box"}
)


@dataclass(frozen=True, kw_only=True)
class LayerConfig:
    shape: Choice = choice(SHAPES)
    uri: str = "s3://bucket/key"


@dataclass(frozen=True, kw_only=True)
class DrawingConfig:
    title: str
    layer: LayerConfig
    shapes: tuple[Choice, ...] = choice(SHAPES, default=())
    layers: tuple[LayerConfig, ...] = ()
    hole: Choice | None = choice(SHAPES, default=None)
    frame: LayerConfig | None = None
    words: tuple[str, ...] = ()


@pytest.fixture
def path(tmp_path):
    (tmp_path / "base.yaml").write_text(
        "title: t\nlayer: {shape: {name: circle, radius: 3}}\n"
        "shapes: [{name: circle}, {name: box, size: [1, 2]}]\n"
    )
    child = tmp_path / "child.yaml"
    child.write_text("extends: base.yaml\nframe: {shape: {name: box}}\n")
    return child


def load(path, *overrides):
    return load_config(DrawingConfig, path, overrides)


def test_a_choice_works_nested_inside_a_section(path):
    assert load(path).layer.shape == CircleConfig(radius=3.0)
    assert load(path).frame.shape == BoxConfig()


def test_a_section_builds_the_class_that_its_name_picks(path):
    circle = SHAPES.build(load(path).layer.shape, 3)
    assert isinstance(circle, Circle) and circle.cfg.radius == 3.0 and circle.num == 3


def test_keys_and_ranges_of_the_chosen_class_are_checked(path):
    with pytest.raises(ConfigError, match=r"layer\.shape: radius must be positive, got -1"):
        load(path, "layer.shape.radius=-1")
    with pytest.raises(ConfigError, match=r"'layer\.shape\.radios' .*Did you mean: 'radius'"):
        load(path, "layer.shape.radios=1")
    with pytest.raises(ConfigError, match=r"layer\.shape\.radius: expected float, got 'big'"):
        load(path, "layer.shape.radius=big")


def test_an_override_may_switch_the_name_and_drops_the_old_keys(path):
    assert load(path, "layer.shape.name=box").layer.shape == BoxConfig()
    switched = load(path, "layer.shape.name=box", "layer.shape.holes=2")
    assert switched.layer.shape == BoxConfig(holes=2)


def test_lists_of_sections_are_checked_hashable_tuples(path):
    cfg = load(path)
    assert cfg.shapes == (CircleConfig(), BoxConfig(size=(1.0, 2.0)))
    assert hash(cfg) == hash(load(path))
    with pytest.raises(ConfigError, match=r"shapes\.1\.style: .*expected one of"):
        load(path, "shapes.1.style=soft")
    assert load(path, "shapes.0.radius=7").shapes[0].radius == 7.0


def test_a_list_may_be_set_whole_and_its_elements_changed_after_that(path):
    whole = "shapes=[{name: box}, {name: box, holes: 3}]"
    changed = load(path, whole, "title=u", "shapes.*.style=round", "shapes.0.holes=2")
    assert changed.shapes == (
        BoxConfig(holes=2, style="round"),
        BoxConfig(holes=3, style="round"),
    )
    assert changed.title == "u"
    assert load(path, "shapes=[]", "shapes.*.style=round").shapes == ()
    # The last one wins.
    assert load(path, whole, "shapes.0.holes=2", "shapes=[]").shapes == ()
    assert load(path, "shapes.0.radius=2", "shapes=[]").shapes == ()
    with pytest.raises(ConfigError, match=r"shapes\.0: this list is empty"):
        load(path, "shapes=[]", "shapes.0.style=round")


def test_a_section_may_extend_a_file_of_its_own(tmp_path, path):
    (tmp_path / "layer.yaml").write_text("shape: {name: box, holes: 4}\nuri: u\n")
    composed = tmp_path / "composed.yaml"
    composed.write_text("title: t\nlayer: {extends: layer.yaml, shape: {holes: 5}}\n")
    assert load(composed).layer == LayerConfig(shape=BoxConfig(holes=5), uri="u")


def test_a_uri_keeps_its_slashes(path):
    assert load(path, "layer.uri=s3://a//b").layer.uri == "s3://a//b"


def test_a_value_that_may_be_a_number_or_a_range_can_be_either(path):
    tilts = {text: load(path, f"shapes.1.tilt={text}").shapes[1].tilt for text in ("2", "[0,1]")}
    assert tilts == {"2": 2, "[0,1]": (0.0, 1.0)}
    with pytest.raises(ConfigError, match=r"shapes\.1\.tilt: expected .*got \[0, 1, 2\]"):
        load(path, "shapes.1.tilt=[0,1,2]")


def test_a_resolved_config_reads_back_equal(path):
    cfg = load(path, "shapes.1.tilt=[0,1]")
    assert config_from_dict(DrawingConfig, config_to_dict(cfg)) == cfg


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("title", r"'title' has no '='"),
        ("=x", r"'=x' has no key"),
        ("title=[a", r"^Override 'title=\[a' cannot be read: did not find .* into quotes\.$"),
        ("title='a", r"^Override \"title='a\" cannot be read: found unexpected end of stream"),
        ("title=" + "[" * 3000 + "]" * 3000, r"nested too deeply"),
        ("layer.shape.radius=1" + "0" * 400, r"radius: expected float"),
        ("layer=3", r"layer: expected keys of LayerConfig, got 3"),
        ("layer.shape.name=cube", r"layer\.shape\.name: Unknown shape 'cube'. .*box, circle"),
        ("layer.shape=box", r"needs a `name`, .*\. Got 'box'\. Write layer\.shape\.name=box\.$"),
        ("hole=off", r"hole: needs .*\. Got False\. Write hole\.name=NAME or hole=null\.$"),
        ("shapes.7.radius=1", r"shapes\.7: expected \* or an index from 0 to 1"),
        ("words=[[a]]", r"words: expected tuple\[str, \.\.\.\], got \[\['a'\]\]"),
        ("words=[{a: 1}]", r"words: expected tuple\[str, \.\.\.\], got"),
        ("words.0=a", r"words: expected tuple\[str, \.\.\.\], got"),
        ("shapes.1.size=[1]", r"shapes\.1\.size: expected"),
        ("layer=null", r"layer: expected a section, got null"),
        ("titel=x", r"Did you mean: 'title'"),
    ],
)
def test_wrong_overrides_are_named(path, override, message):
    with pytest.raises(ConfigError, match=message):
        load(path, override)
    with pytest.raises(ConfigError, match=message):
        load(path, "title=x", override)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a:\n\tb: 1\n", "not readable as YAML: while scanning for the next token found"),
        (b"a: 1\na: 2\n", "found duplicate key"),
        (b"a: 1\n---\na: 2\n", "expected a single document"),
        (b"a: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        (b"[" * 3000 + b"]" * 3000, "nested too deeply"),
        ("a: ä".encode("latin-1"), "can't decode byte 0xe4"),
        (b"a: &a\n  b: *a\n", "recursive aliases"),
        (b"- a\n", "expected keys and values, got list"),
    ],
)
def test_a_file_that_is_no_config_is_said_in_one_line(tmp_path, data, message):
    (tmp_path / "x.yaml").write_bytes(data)
    with pytest.raises(ConfigError, match=message) as found:
        load(tmp_path / "x.yaml")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("kind", ["name too long", "link to itself", "folder", "device"])
def test_a_path_that_is_no_file_is_said(tmp_path, kind):
    path = {"name too long": tmp_path / ("x" * 300), "device": Path("/dev/null")}.get(
        kind, tmp_path / "x.yaml"
    )
    if kind == "link to itself":
        path.symlink_to(path)
    elif kind == "folder":
        path.mkdir()
    said = "is a folder, where a config file" if kind == "folder" else "No config file at"
    with pytest.raises(ConfigError, match=said):
        load(path)


def test_missing_keys_and_files_are_named(tmp_path, path):
    (tmp_path / "empty.yaml").write_text("layer: {shape: {name: box}}\n")
    with pytest.raises(ConfigError, match="Key 'title' is missing"):
        load(tmp_path / "empty.yaml")
    with pytest.raises(ConfigError, match=r"No config file at .*basse\.yaml.*base\.yaml"):
        load(tmp_path / "basse.yaml")
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden/.tool.yaml").touch()
    with pytest.raises(ConfigError, match=r"No config file at .*base\.yaml\.$"):
        load(tmp_path / "hidden/base.yaml")
    (tmp_path / "loop.yaml").write_text("extends: loop.yaml\n")
    with pytest.raises(ConfigError, match="in a circle"):
        load(tmp_path / "loop.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(ConfigError, match="not readable as YAML"):
        load(tmp_path / "broken.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:LAFP_SECRET}",
        "a ${ oc.env:LAFP_SECRET } b",
        "${${style}:LAFP_SECRET}",
        "${oc.decode:'1'}",
        "${style}${oc.env:LAFP_SECRET,x}",
    ],
)
def test_no_config_reads_the_environment_however_it_comes_in(tmp_path, monkeypatch, text):
    monkeypatch.setenv("LAFP_SECRET", "SECRET")
    path = tmp_path / "x.yaml"
    for config, overrides in (({"title": text}, ()), ({}, (f'title="{text}"',))):
        path.write_text(yaml.safe_dump({"style": "oc.env", **config}))
        with pytest.raises(ConfigError, match="calls a resolver of OmegaConf") as error:
            load_config(TextConfig, path, overrides)
        assert "SECRET'" not in str(error.value)
    for stored in ({"title": text}, {"titles": ["x", text]}):  # as with a stranger's model
        with pytest.raises(ConfigError, match="calls a resolver of OmegaConf"):
            config_from_dict(TextConfig, stored)


def test_another_key_and_a_colon_may_stand_in_a_text(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("style: plain\ntitle: 'a: ${style}: {b: 1}'\n")
    assert load_config(TextConfig, path).title == "a: plain: {b: 1}"


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    style: str = ""
    title: str = ""
    titles: tuple[str, ...] = ()


@pytest.mark.parametrize(
    "value",
    [
        "!!int abc",
        "!!timestamp x",
        "9" * 5000,
        "[" * 2000,
        "{extends: '" + "x" * 300 + "'}",
        '{extends: "\\0"}',
        "&a [*a]",
        "!!binary x",
    ],
)
def test_text_that_stands_for_no_value_is_a_config_error(tmp_path, value):
    path = tmp_path / "odd.yaml"
    path.write_text(f"source: {value}\n")
    with pytest.raises(ConfigError):
        load_config(PreprocessConfig, path)
