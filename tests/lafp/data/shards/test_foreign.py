"""Shard sets that somebody else made, and that lie about names and sizes."""

import io
import json
import zipfile
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.label_latents import shard_names
from data_pipelines.preprocess.rejects import RejectRow
from data_pipelines.takedown.config import TakedownConfig
from data_pipelines.takedown.job import take_down
from lafp.config import ConfigError
from lafp.data.order.clips import ClipOrder
from lafp.data.shards.damage import DamagedClipError
from lafp.data.shards.format import Labels
from lafp.data.shards.reader import ClipReader
from lafp.data.shards.sets import open_shard_set, read_shard_entry, shards_sha256
from lafp.data.stored_latents import LatentShard
from lafp.storage import strict_json
from lafp.storage.tables import write_rows
from tests.synthetic_shards import write_shard_set

OUTSIDE = ["../other.tar", "/etc/x.tar", "a/b.tar", ".hidden.tar", "x.json", "", "s3://b/x.tar"]


@pytest.fixture
def shards(tmp_path) -> Path:
    return Path(write_shard_set(tmp_path / "set", num_clips=4, has_labels=True))


def change_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_table(path: Path, column: str, value: str) -> None:
    rows = [row | {column: value} for row in pq.read_table(path).to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_shard_whose_name_leads_elsewhere_is_refused_before_it_is_used(shards, name):
    with pytest.raises(ValueError, match="no name of a shard"):
        read_shard_entry(str(shards), name)
    change_json(shards / "train-000000.json", shard=name)
    with pytest.raises(ValueError, match="no name of a shard"):
        read_shard_entry(str(shards), "train-000000.tar")
    change_table(shards / "manifest.parquet", "shard", name)
    for read in (shard_names, shards_sha256):
        with pytest.raises(ConfigError, match="no name of a shard"):
            read(str(shards))
    with pytest.raises(ConfigError, match="no name of a shard"):
        ClipOrder(shard_set=str(shards), split="train", seed=0)


def test_takedown_of_a_foreign_set_deletes_nothing_outside(tmp_path, shards):
    victim = tmp_path / "other.tar"
    victim.write_bytes(b"precious")
    victim.with_suffix(".json").write_bytes((shards / "train-000000.json").read_bytes())
    write_rows(str(shards / "rejects.parquet"), RejectRow, [])
    change_table(shards / "clips/part-00000.parquet", "shard", "../other.tar")
    cfg = TakedownConfig(output=str(shards), video_uri="synthetic/1.mp4")
    with pytest.raises(ValueError, match="no name of a shard"):
        take_down(cfg, is_dry_run=False)
    takedown = {"takedown_id": "0", "taken_down_at": ""}
    takedown |= {key: [] for key in ("video_ids", "video_uris", "spans")}
    journal = {"takedown": takedown, "clip_ids": [], "shards_sha256": "", "latents": []}
    for shards_of in ({"../other.tar": None}, {"train-000000.tar": "../new.tar"}, ["a.tar"]):
        hostile = journal | {"shards": shards_of}
        (shards / "takedown.json").write_text(json.dumps(hostile))
        with pytest.raises(ConfigError, match=r"no journal of a takedown of this set.*Delete it"):
            take_down(cfg, is_dry_run=False)
    assert victim.read_bytes() == b"precious"


def test_latents_lie_in_the_file_of_their_shard_only(tmp_path):
    numbers = dict.fromkeys(("latent_action_dim", "frame_stack", "data_offset", "num_bytes"), 1)
    entry = {"shard": "a.tar", "dtype": "float16", "sha256": "", "rounding": 0.0, **numbers}
    entry |= {"clips": [], "rejects": []}
    assert strict_json.from_plain(LatentShard, entry | {"file": "a.npy"}).file == "a.npy"
    with pytest.raises(ValueError, match=r"holds no latents of a\.tar"):
        strict_json.from_plain(LatentShard, entry | {"file": "../../secret.npy"})
    clip = {"clip_id": "c", "video_id": "v", "first_row": 0, "num_pairs": 2}
    good = entry | {"file": "a.npy", "clips": [clip, clip | {"first_row": 2}]}
    assert strict_json.from_plain(LatentShard, good).num_pairs == 4
    lies = [{"dtype": "O"}, {"latent_action_dim": 0}, {"data_offset": -1}]
    lies += [{"clips": [clip | {"num_pairs": -1}]}, {"clips": [clip, clip]}]
    for lie in lies:
        with pytest.raises(ValueError, match=r"of \d+ numbers|rows 0 to -1|not begin at row"):
            strict_json.from_plain(LatentShard, good | lie)


@pytest.mark.parametrize(
    "sizes",
    [
        {"width_px": 2**20},
        {"height_px": 0},
        {"max_clip_frames": 2**40},
        {"min_clip_frames": -1},
    ],
)
def test_a_set_that_claims_endless_frames_is_an_error(shards, sizes):
    change_json(shards / "shard_set.json", **sizes)
    with pytest.raises(ConfigError, match=r"shard_set\.json.*is damaged.*(frames|pixels)"):
        open_shard_set(str(shards))


@pytest.mark.parametrize(
    "clip", [{"num_frames": 2**40}, {"num_frames": -1}, {"video_offset": -5}, {"labels_bytes": -1}]
)
def test_a_clip_that_claims_endless_frames_or_negative_places_is_damaged(shards, clip):
    entry = json.loads((shards / "train-000000.json").read_text())
    entry["clips"] = [location | clip for location in entry["clips"]]
    change_json(shards / "train-000000.json", clips=entry["clips"])
    order = ClipOrder(shard_set=str(shards), split="train", seed=0)
    reader = ClipReader(str(shards))
    for ref in islice(order.visits(), 4):
        with pytest.raises(DamagedClipError):
            reader.read(ref)


def test_a_deeply_nested_record_and_broken_tables_are_one_line(shards):
    entry = shards / "train-000000.json"
    sound = entry.read_bytes()
    deep = "[" * 100_000 + "]" * 100_000
    ids = json.dumps(json.loads(sound) | {"clips": [{"clip_id": "no hex"}]})
    for text in (deep, "{", ids):
        entry.write_text(text)
        read_shard_entry.cache_clear()
        with pytest.raises(ConfigError, match=r"train-000000\.json is damaged"):
            read_shard_entry(str(shards), "train-000000.tar")
    read_shard_entry.cache_clear()
    entry.write_bytes(sound)
    manifest = shards / "manifest.parquet"
    rows = pq.read_table(manifest).to_pylist()
    for num_clips in (-1, 0.5, None):
        odd = [row | {"num_clips": num_clips} for row in rows]
        pq.write_table(pa.Table.from_pylist(odd), manifest)
        with pytest.raises(ConfigError, match=r"manifest\.parquet (is damaged|has (double|null))"):
            ClipOrder(shard_set=str(shards), split="train", seed=0)
    pq.write_table(pa.Table.from_pylist([row | {"num_clips": 3} for row in rows]), manifest)
    with pytest.raises(ConfigError, match=r"counts 3 clips in train-000000\.tar"):
        next(ClipOrder(shard_set=str(shards), split="train", seed=0).visits())
    data = manifest.read_bytes()
    for broken in (data[:-40], data[:40] + bytes(60) + data[100:], b""):
        manifest.write_bytes(broken)
        with pytest.raises(ConfigError, match=r"manifest\.parquet is damaged") as error:
            ClipOrder(shard_set=str(shards), split="train", seed=0)
        assert str(error.value).count("is damaged") == 1


@pytest.mark.parametrize(
    "labels",
    [
        Labels(true_action=np.zeros(())),
        Labels(true_action=np.zeros((9, 2), "M8[s]")),
        Labels(state=np.zeros(9)),
        Labels(condition=np.zeros((9, 2))),
        Labels(optical_flow=np.zeros((2, 2))),
    ],
)
def test_labels_that_no_clip_can_have_damage_the_clip(shards, labels):
    tar, entry = shards / "train-000000.tar", shards / "train-000000.json"
    stored, data = json.loads(entry.read_text()), labels.to_bytes()
    place = {"labels_offset": tar.stat().st_size, "labels_bytes": len(data), "crc32": None}
    tar.write_bytes(tar.read_bytes() + data)
    change_json(entry, clips=[clip | place for clip in stored["clips"]])
    read_shard_entry.cache_clear()
    ref = next(ClipOrder(shard_set=str(shards), split="train", seed=0).visits())
    with pytest.raises(DamagedClipError, match="undecodable"):
        ClipReader(str(shards)).read(ref)


@pytest.mark.parametrize("data", [b"", b"PK\3\4", b"\x93NUMPY\1\0", b"\x80\4."])
def test_broken_labels_are_a_value_error(data):
    with pytest.raises(ValueError, match="its labels cannot be read"):
        Labels.from_bytes(data)


def test_a_clip_that_claims_more_bytes_than_there_are_takes_no_memory(shards):
    entry = json.loads((shards / "train-000000.json").read_text())
    for place in ({"video_bytes": 2**62}, {"video_offset": 2**70}):
        change_json(shards / "train-000000.json", clips=[c | place for c in entry["clips"]])
        read_shard_entry.cache_clear()
        ref = next(ClipOrder(shard_set=str(shards), split="train", seed=0).visits())
        with pytest.raises(DamagedClipError, match="truncated"):
            ClipReader(str(shards)).read(ref)


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "O"},
        {"latent_action_dim": 0},
        {"frame_stack": -1},
        {"data_offset": -5},
        {"clips": [{"clip_id": "0", "video_id": "", "first_row": -1, "num_pairs": 1}]},
    ],
)
def test_latents_of_impossible_sizes_are_refused(change):
    entry = {"shard": "a.tar", "file": "a.npy", "dtype": "float16", "sha256": "", "rounding": 0.0}
    entry |= dict.fromkeys(("latent_action_dim", "frame_stack", "data_offset", "num_bytes"), 1)
    entry |= {"clips": [], "rejects": []}
    assert strict_json.from_plain(LatentShard, entry).dtype == "float16"
    with pytest.raises(ValueError):
        strict_json.from_plain(LatentShard, entry | change)


def packed(compression: int, **members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def npy(shape: tuple[int, ...], data: bytes = b"") -> bytes:
    header = io.BytesIO()
    described = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    return header.getvalue() + data


def test_labels_that_unpack_to_gigabytes_are_refused():
    bomb = packed(zipfile.ZIP_DEFLATED, true_action=npy((2**22,), bytes(2**24)))
    assert len(bomb) < 2**16
    with pytest.raises(ValueError, match="packed"):
        Labels.from_bytes(bomb)
    for shape in ((2**50,), (2**30, 2**20), (2**36,)):
        lie = packed(zipfile.ZIP_STORED, true_action=npy(shape, bytes(64)))
        with pytest.raises(ValueError):
            Labels.from_bytes(lie)
    honest = Labels(true_action=np.ones((3, 2), np.float32))
    np.testing.assert_array_equal(
        Labels.from_bytes(honest.to_bytes()).true_action, honest.true_action
    )
