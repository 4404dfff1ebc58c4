"""Frozen segmentation models from local folders, beside what transformers itself says."""

import json

import numpy as np
import pytest

from lafp.config import ConfigError
from lafp.models.segmenter import (
    SEMANTIC,
    UNIVERSAL,
    Segmenter,
    SegmenterConfig,
    segmenter_sha256,
)
from tests.synthetic_segmenter import KINDS, classes_of, write_segmenter
from tests.synthetic_video import moving_square


@pytest.fixture(scope="module")
def segformer(tmp_path_factory):
    return write_segmenter(tmp_path_factory.mktemp("segmenter") / "segformer")


def config(folder, *classes: str) -> SegmenterConfig:
    return SegmenterConfig(path=str(folder), classes=classes or ("person",))


def change_card(folder, **changes) -> None:
    card = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(card | changes))


@pytest.mark.parametrize("kind", KINDS)
def test_the_agent_is_where_transformers_finds_one_of_its_classes(tmp_path, kind):
    folder = write_segmenter(tmp_path / kind, kind)
    frames = moving_square(3, height=48, width=90)
    said = classes_of(folder, kind, frames)
    assert said.shape == frames.shape[:3]
    most_common = np.bincount(said.ravel(), minlength=3).argmax()
    for wanted in ([most_common], [(most_common + 1) % 3, (most_common + 2) % 3]):
        masks = Segmenter(config(folder, *map(str, wanted))).draw(frames)
        np.testing.assert_array_equal(masks, np.isin(said, wanted))
    assert kind in (*SEMANTIC, *UNIVERSAL)


def test_every_known_type_is_tested():
    assert set(KINDS) == {*SEMANTIC, *UNIVERSAL}


def test_classes_are_named_or_numbered(segformer):
    frames = moving_square(2, height=48, width=64)
    by_name, by_number, both = (
        Segmenter(config(segformer, *classes)).draw(frames)
        for classes in (("robot",), ("2",), ("wall", "2"))
    )
    np.testing.assert_array_equal(by_name, by_number)
    assert 0 < by_name.mean() < both.mean()


@pytest.mark.parametrize("classes", [("human",), ("3",), ("person", "human"), ()], ids=str)
def test_a_class_that_the_model_lacks_is_an_error_that_lists_its_classes(segformer, classes):
    with pytest.raises(ConfigError, match=r"segmenter\.classes: .*0 wall, 1 person, 2 robot"):
        segmenter_sha256(SegmenterConfig(path=str(segformer), classes=classes))


def test_another_model_or_processor_has_another_hash(tmp_path, segformer):
    other = write_segmenter(tmp_path / "other", seed=1)
    same = write_segmenter(tmp_path / "same")
    assert segmenter_sha256(config(same)) == segmenter_sha256(config(segformer))
    assert segmenter_sha256(config(other)) != segmenter_sha256(config(segformer))
    with (same / "preprocessor_config.json").open("a") as file:
        file.write(" ")
    assert segmenter_sha256(config(same)) != segmenter_sha256(config(segformer))


def test_what_is_no_segmenter_is_refused_before_it_is_loaded(tmp_path):
    with pytest.raises(ConfigError, match=r"Set segmenter\.path=FOLDER"):
        segmenter_sha256(SegmenterConfig(classes=("person",)))
    folder = write_segmenter(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")  # as pickles are called
    with pytest.raises(ConfigError, match=r"No segmenter at .*\*\.safetensors"):
        segmenter_sha256(config(folder))
    (folder / "pytorch_model.bin").rename(folder / "model.safetensors")
    change_card(folder, model_type="oneformer")
    with pytest.raises(ConfigError, match=r"type 'oneformer'.*Known types: beit, .*segformer"):
        segmenter_sha256(config(folder))
    change_card(folder, model_type="upernet", parts=[{"backbone": "someone/else"}])
    with pytest.raises(ConfigError, match="'someone/else', which transformers would look up"):
        segmenter_sha256(config(folder))
    change_card(folder, parts=[], id2label=None)
    with pytest.raises(ConfigError, match="has no `id2label`"):
        segmenter_sha256(config(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="is no JSON"):
        segmenter_sha256(config(folder))
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match=r"lacks preprocessor_config\.json"):
        segmenter_sha256(config(folder))


def test_weights_that_do_not_fit_and_processors_that_do_not_load_are_named(tmp_path):
    folder = write_segmenter(tmp_path / "model")
    change_card(folder, decoder_hidden_size=24)
    with pytest.raises(ConfigError, match=r"do(es)? not (fit|load)"):
        Segmenter(config(folder))
    folder = write_segmenter(tmp_path / "other")
    (folder / "preprocessor_config.json").write_text('{"image_processor_type": "Nothing"}')
    with pytest.raises(ConfigError, match=r"The segmenter in .* does not load"):
        Segmenter(config(folder))


def test_code_of_the_folder_does_not_run(tmp_path):
    folder = write_segmenter(tmp_path / "model")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Model: pass\n")
    auto_map = {
        name: "evil.Model"
        for name in ("AutoConfig", "AutoImageProcessor", "AutoModelForSemanticSegmentation")
    }
    change_card(folder, auto_map=auto_map)
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    text = json.dumps(processor | {"auto_map": auto_map})
    (folder / "preprocessor_config.json").write_text(text)
    try:
        Segmenter(config(folder))
    except ConfigError as error:
        assert "does not load" in str(error)
    assert not (tmp_path / "ran").exists()
