"""Push a shard set to a hub on loopback, break the push, go on, read it back and train on it."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
import yaml

from lafp.config import ConfigError
from lafp.data.shards.format import signatures_name
from lafp.finished.dataset_card import dataset_card, escaped, host_in_words
from lafp.finished.dataset_hub import parse_dataset
from lafp.runs.run_dir import StageDir
from tests import hub_server
from tests.synthetic_shards import write_shard_set
from tests.warm_process import warm_process

ROOT = Path(__file__).parents[3]
REPO, URI = "datasets:user/dots", "hf://datasets/user/dots"
SOURCES = (
    "https://user:geheim@Videos.example.org/a.mp4",
    "https://videos.example.org/b.mp4?token=geheim",
    "s3://private-bucket/c.mp4",
    "/home/somebody/d.mp4",
    "https://[broken/e.mp4",
    "http://a|b*<script>.example/f.mp4",
)


@pytest.fixture(scope="module")
def hub():
    pytest.importorskip("huggingface_hub")
    with hub_server.serving() as hub:
        yield hub


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A set of 12 clips in train and 4 held out, as `preprocess` leaves it."""
    folder = tmp_path_factory.mktemp("run") / "shards/dots"
    write_shard_set(folder, num_clips=16, num_val_clips=4)
    clips = pq.read_table(folder / "clips")
    uris = [SOURCES[i % len(SOURCES)] for i in range(len(clips))]
    at = clips.schema.get_field_index("video_uri")
    pq.write_table(
        clips.set_column(at, "video_uri", pa.array(uris)), folder / "clips/part-00000.parquet"
    )
    for tar in folder.glob("*.tar"):
        looks = pa.table({"clip_id": [tar.name], "signature": [b"pictures"]})
        pq.write_table(looks, folder / signatures_name(tar.name))
    spec = json.loads((folder / "shard_set.json").read_text())
    write_json(folder / "shard_set.json", spec | {"has_signatures": True})
    rejects = {"static": {"spans": 3, "seconds": 7200.0}, "a|b": {"spans": 1, "seconds": 0.0}}
    funnel = {"inputs": {"videos": 8, "seconds": 36000.0}, "rejects": rejects, "clips": {}}
    write_json(folder / "summary.json", {"funnel": funnel})
    packages = {"lafp": "0.1.0", "torchcodec": "0.13.0"}
    found = {"identity": "x", "inputs": {}, "packages": packages}
    write_json(folder / "provenance.json", found)
    config = {
        "source": "/home/somebody/secret",
        "video_decoder": {"name": "torchcodec", "device": "cpu"},
        "filters": {"min_motion": 0.0003, "note": "```\n# not a heading"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "rejects.parquet").write_text("not pushed")
    return folder


def write_json(path, content):
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    # The hub's address is read when its package is imported, so only torch may be warm.
    with warm_process("import torch\n", tmp_path_factory.mktemp("said"), cwd=ROOT) as process:
        yield process


def call(process, hub, cache, *args, code=None, **env):
    given = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(cache)}
    given["HF_TOKEN"] = hub_server.TOKEN
    code = code or "from ray_jobs.command import main\nmain()\n"
    return process.run(code, *map(str, args), env=given | env)


@pytest.fixture(scope="module")
def pushed(process, hub, shards, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    done = call(process, hub, cache, "push", shards, URI, "--private")
    assert done.returncode == 0, done.stderr
    return done.stdout


TABLES = {"manifest.parquet", "clips/part-00000.parquet", "shard_set.json"}


def names(shards):
    found = {p.name for p in shards.iterdir() if p.name.startswith(("train-", "val-"))}
    return found | TABLES


def test_a_push_holds_the_set_and_a_card_and_nothing_else(hub, shards, pushed):
    files = hub.files(REPO)
    assert set(files) == names(shards) | {"README.md", ".gitattributes"} and hub.private[REPO]
    for name in names(shards):
        assert files[name] == (shards / name).read_bytes()
    assert (
        f"pushed: {hub.url}/datasets/user/dots/commit/" in pushed
        and "Mind: the tables in clips/" in pushed
    )


def test_the_card_is_yaml_and_markdown_without_a_secret(hub, pushed):
    card = hub.files(REPO)["README.md"].decode()
    front = yaml.safe_load(card.split("---")[1])
    assert front["size_categories"] == ["n<1K"] and "license" not in front
    (config,) = front["configs"]
    assert [f["split"] for f in config["data_files"]] == ["train", "validation"]
    for words in (
        "| Clips | 12 train, 4 validation |",
        "16 x 16 px, H.264",
        "| videos.example.org | 6 |",
        "| an S3 bucket | 3 |",
        "| files | 3 |",
        "| `static` | 3 | 2.00 |",
        "| `a\\|b` | 1 | 0.00 |",
        "| Video decoder | torchcodec |",
        "| Package torchcodec | 0.13.0 |",
        "min_motion: 0.0003",
        "shards=hf://datasets/user/dots",
        'load_dataset("user/dots"',
    ):
        assert words in card, words
    for secret in ("geheim", "private-bucket", "somebody", "<script>", "secret"):
        assert secret not in card, secret
    assert card.count("```") % 2 == 0 and "\n# not a heading" not in card.split("```yaml")[0]


def test_a_push_again_sends_no_shard(process, hub, shards, pushed, tmp_path):
    hub.requests.clear()
    done = call(process, hub, tmp_path, "push", shards, URI)
    assert "12 of 12 files are there already" in done.stdout, done.stderr
    assert sum("/commit/" in request for request in hub.requests) == 1


def test_a_push_that_broke_goes_on_and_is_no_set_before_its_end(
    process, hub, shards, pushed, tmp_path
):
    repo = "datasets:user/broken"
    half = dict(list(hub.files(REPO).items())[:4])
    assert "shard_set.json" not in half
    hub.commit(repo, "main", half)
    num = sum(name in half for name in names(shards) - TABLES)
    assert 0 < num < 12
    opens = "import sys\nfrom lafp.data.shards.sets import open_shard_set as opened\n"
    opens += "opened(sys.argv[1])\n"
    done = call(process, hub, tmp_path, "hf://datasets/user/broken", code=opens)
    assert "No shard set at hf://datasets/user/broken" in done.stderr
    done = call(process, hub, tmp_path, "push", shards, "hf://datasets/user/broken")
    assert f"{num} of 12 files are there already" in done.stdout, done.stderr
    assert hub.files(repo).keys() == hub.files(REPO).keys()


def test_shards_that_the_set_no_longer_names_are_deleted(process, hub, shards, pushed, tmp_path):
    """As after `takedown`: another push must not leave the video on the hub."""
    repo = "datasets:user/taken"
    extra = {f"train-000099.{kind}": b"{}" for kind in ("tar", "json", "signatures.parquet")}
    extra["clips/part-00009.parquet"] = b"{}"
    extra["notes.md"] = b"kept"
    hub.commit(repo, "main", dict(hub.files(REPO)) | extra)
    done = call(process, hub, tmp_path, "push", shards, "hf://datasets/user/taken")
    assert done.returncode == 0, done.stderr
    assert hub.files(repo).keys() == hub.files(REPO).keys() | {"notes.md"}


def test_a_damaged_shard_is_not_pushed(process, hub, shards, tmp_path):
    copy = shutil.copytree(shards, tmp_path / "set")
    path = next(copy.glob("train-*.tar"))
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    done = call(process, hub, tmp_path, "push", copy, "hf://datasets/user/damaged")
    assert done.returncode == 2 and f"{path} is damaged" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "shard_set.json" not in hub.files("datasets:user/damaged")


def test_a_push_of_a_changed_set_that_breaks_leaves_all_tables_of_before(
    process, hub, shards, pushed, tmp_path
):
    repo = "datasets:user/changed"
    before = dict(hub.files(REPO)) | dict.fromkeys(TABLES, b"of an earlier set")
    del before[next(name for name in before if name.endswith(".tar"))]
    hub.commit(repo, "main", before)
    copy = shutil.copytree(shards, tmp_path / "set")
    for path in copy.glob("*.tar"):
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    done = call(process, hub, tmp_path, "push", copy, "hf://datasets/user/changed")
    assert done.returncode == 2 and "is damaged" in done.stderr
    found = hub.files(repo)
    assert {found[name] for name in TABLES} == {b"of an earlier set"}


READS = """
import json, sys
from tests.lafp.finished.test_dataset_hub import read_all
print(json.dumps(read_all(sys.argv[1])))
"""


def read_all(uri):
    """Hashes of the frames of all clips, as training reads them."""
    from lafp import storage
    from lafp.data.shards.sets import read_manifest, read_shard_entry
    from lafp.video import decode_clip

    found = {}
    for row in read_manifest(uri, ["shard"]).to_pylist():
        for clip in read_shard_entry(uri, row["shard"]).clips:
            path = storage.join(uri, row["shard"])
            data = storage.read_bytes(path, clip.video_offset, clip.video_bytes)
            found[clip.clip_id] = hashlib.sha256(decode_clip(data).tobytes()).hexdigest()
    return found


def test_clips_of_the_hub_are_those_that_were_pushed(process, hub, shards, pushed, tmp_path):
    done = call(process, hub, tmp_path, URI, code=READS)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == read_all(str(shards))


def test_webdataset_reads_what_the_hub_holds(hub, pushed, tmp_path):
    for name, data in hub.files(REPO).items():
        if name.endswith(".tar"):
            (tmp_path / name).write_bytes(data)
    tars = sorted(map(str, tmp_path.glob("train-*.tar")))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False))
    assert len(samples) == 12
    assert all(json.loads(s["json"])["clip_id"] == s["__key__"] and s["mp4"] for s in samples)


@pytest.mark.parametrize(
    "uri", ["hf://datasets/a", "hf://datasets/a/../b", "hf://datasets/a/b/c", "hf://datasets/a/b@"]
)
def test_what_is_no_dataset_is_refused(uri):
    with pytest.raises(ConfigError, match="is no dataset of the Hugging Face Hub"):
        parse_dataset(uri)


def test_a_folder_without_a_set_is_one_line(process, hub, tmp_path):
    done = call(process, hub, tmp_path, "push", tmp_path, URI)
    assert done.returncode == 2 and "No shard set at" in done.stderr
    assert done.stderr.count("\n") == 1


def test_text_of_strangers_stays_text():
    text = escaped("a\n# b | c <img src=x> [x](http://y) `z` *w* ![i](j) &amp; $x$")
    assert "\n" not in text and "<" not in text and "\\|" in text and "\\[x\\]\\(" in text
    assert host_in_words("https://u:p@Host.example:8080/x") == "host.example"
    assert host_in_words("https://[broken/x") == "the web"


def test_a_set_that_was_copied_without_its_records_says_so(shards, tmp_path):
    (tmp_path / "clips").mkdir()
    for name in names(shards):
        shutil.copy(shards / name, tmp_path / name)
    card = dataset_card(StageDir(str(tmp_path), "x"), [], URI)
    assert card.count("The set's folder does not say.") == 2
