"""Writes the README.md of a shard set on the Hugging Face Hub, its dataset card.

Names and texts of videos are a stranger's, so they are escaped. Of the sources the card says only
kinds and host names, because paths, buckets and addresses may be private.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import yaml

from lafp.data.shards.clip_tables import clip_rows
from lafp.data.shards.format import ShardSet
from lafp.data.shards.sets import open_shard_set
from lafp.finished.model_card import table
from lafp.runs.run_dir import StageDir
from lafp.runs.wording import byte_size
from lafp.storage.secrets import text_without_secrets

_MAX_HOSTS = 20
# Hosts are counted in memory. A corpus of more of them has the rest counted together.
_MAX_COUNTED_HOSTS = 100_000
_KINDS = {
    "s3": "an S3 bucket", "gs": "a Google bucket", "az": "an Azure container",
    "hf": "the Hugging Face Hub",
}  # fmt: skip
# Sections of the config that shape the clips. None of them holds a path or an address.
_SECTIONS = ("video_decoder", "clip", "resize", "filters", "encode", "optical_flow")
# Sizes as the hub names them: the upper end of each.
_SIZES = (
    (10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"), (10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"),
    (10**11, "10B<n<100B"), (10**12, "100B<n<1T"),
)  # fmt: skip
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~$])")
_SPLITS = {"train": "train", "val": "validation"}


def dataset_card(stage: StageDir, shards: Sequence[Mapping[str, Any]], uri: str) -> str:
    """Writes the card of a finished shard set.

    Args:
        stage: The set's folder. Its config and summary may be missing, if the set was copied.
        shards: Rows of its manifest, with ``split`` and ``num_bytes``.
        uri: The repository, ``hf://datasets/USER/NAME``.
    """
    spec = open_shard_set(stage.uri)
    name = uri.removeprefix("hf://datasets/").partition("@")[0]
    parts = [
        _front(spec),
        f"# {name}",
        "Clips of video as WebDataset shards, made by lafp's `preprocess` for training without "
        "actions (latent action models).",
        "## What it holds",
        table(("", ""), _contents(spec, shards)),
        "The split `validation` (shards `val-*.tar`) is held out: no clip of its videos is in "
        "`train`.",
        "## How to load it",
        _usage(uri, name),
        "## Where the videos are from",
        table(("Source", "Clips"), _sources(stage.uri)),
        "The tables in `clips/` and the `.json` of a clip name its video and its seconds in there.",
        "## What was left out",
        _left_out(stage),
        "## How it was made",
        _made(stage),
        "## Rights and limits",
        "- The rights to the videos are those of their sources. This card names no license: who "
        "published the set must add one.\n"
        "- People in the videos were not asked, and faces are not hidden.\n"
        "- Videos were filtered as above and by nothing else. Their content was not checked.",
    ]
    return "\n\n".join(parts) + "\n"


def escaped(text: object) -> str:
    """Returns text of any origin as one line of Markdown that shows it as it is."""
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", line)


def _front(spec: ShardSet) -> str:
    num_clips = sum(spec.num_clips.values())
    files = [
        {"split": _SPLITS[split], "path": f"{split}-*.tar"}
        for split in _SPLITS
        if spec.num_clips.get(split)
    ]
    size = next((size for most, size in _SIZES if num_clips < most), "n>1T")
    fields = {
        "tags": ["lafp", "webdataset", "video", "robotics", "latent-action-model"],
        "task_categories": ["robotics"],
        "size_categories": [size],
        "configs": [{"config_name": "default", "data_files": files}],
    }
    return f"---\n# license: who publishes the set must name one\n{yaml.safe_dump(fields)}---"


def _contents(spec: ShardSet, shards: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    splits = ", ".join(
        f"{spec.num_clips.get(split, 0):,} {name}" for split, name in _SPLITS.items()
    )
    rows = [
        ("Hours", f"{spec.num_hours:.2f}"),
        ("Clips", splits),
        ("Frames", f"{sum(spec.num_frames.values()):,}"),
        ("Picture", f"{spec.width_px} x {spec.height_px} px, H.264"),
        ("Rate", f"{spec.fps:g} frames per second" if spec.fps else "that of each video"),
        ("Clip length", f"{spec.min_clip_frames} to {spec.max_clip_frames} frames"),
        ("Shards", f"{len(shards)}, {byte_size(sum(row['num_bytes'] for row in shards))}"),
    ]
    if spec.action:
        rows.append(("True actions", f"{spec.action['dim']} dimensions"))
    if spec.optical_flow_size_px:
        height, width = spec.optical_flow_size_px
        rows.append(("Optical flow", f"{width} x {height}"))
    if masked := sum(spec.num_masked_clips.values()):
        rows.append(("Masks of the agent", f"{masked:,} clips"))
    return rows


def _usage(uri: str, name: str) -> str:
    web = f"https://huggingface.co/datasets/{name}/resolve/main"
    return f"""```bash
pip install '.[train,hub]'   # from a checkout of lafp
lafp train-lam configs/train_lam/videos.yaml shards={uri}
```

```python
from datasets import load_dataset

clips = load_dataset("{name}", split="train", streaming=True)   # columns mp4, json, ...
```

```python
import webdataset as wds
from huggingface_hub import HfFileSystem

shards = [p.rpartition("/")[2] for p in HfFileSystem().glob("datasets/{name}/train-*.tar")]
clips = wds.WebDataset([f"{web}/{{shard}}" for shard in shards], shardshuffle=False)
```"""


def _sources(shards: str) -> list[tuple[str, str]]:
    """Counts clips by host, or by kind of storage."""
    hosts: Counter[str] = Counter()
    for row in clip_rows(shards, ["video_uri"]):
        host = host_in_words(row["video_uri"])
        is_new = host not in hosts and len(hosts) >= _MAX_COUNTED_HOSTS
        hosts["other hosts" if is_new else host] += 1
    shown = hosts.most_common(_MAX_HOSTS)
    rest = hosts.total() - sum(num for _, num in shown)
    rows = [(escaped(host), f"{num:,}") for host, num in shown]
    if rest:
        rows.append((f"{len(hosts) - len(shown):,} other hosts", f"{rest:,}"))
    return rows


def host_in_words(video_uri: str) -> str:
    """Names the host or the kind of store that a video came from, without credentials."""
    scheme = video_uri.partition("://")[0].lower() if "://" in video_uri else ""
    if scheme in _KINDS:
        return _KINDS[scheme]
    if scheme not in ("http", "https"):
        return "files"
    try:
        return urlsplit(video_uri).hostname or "the web"
    except ValueError:
        return "the web"


def _left_out(stage: StageDir) -> str:
    if not stage.is_complete():
        return "The set's folder does not say."
    funnel = stage.summary()["funnel"]
    rejects = funnel["rejects"]
    total_h = funnel["inputs"]["seconds"] / 3600
    if not rejects:
        return f"Nothing of {total_h:.2f} hours."
    rows = [
        (f"`{escaped(reason)}`", f"{found['spans']:,}", f"{found['seconds'] / 3600:.2f}")
        for reason, found in rejects.items()
    ]
    return f"Of {total_h:.2f} hours:\n\n" + table(("Reason", "Spans", "Hours"), rows)


def _made(stage: StageDir) -> str:
    if not stage.is_begun():
        return "The set's folder does not say."
    packages = stage.provenance().get("packages", {})
    config = stage.config()
    kept = {name: config[name] for name in _SECTIONS if config.get(name) is not None}
    video_decoder = kept.get("video_decoder", {}).get("name", "pyav")
    versions = [("lafp", packages.get("lafp")), ("Video decoder", video_decoder)]
    package = {"pyav": "av"}.get(video_decoder, video_decoder)
    versions.append((f"Package {escaped(package)}", packages.get(package)))
    # A fence inside of a value would end the block.
    text = text_without_secrets(yaml.safe_dump(kept, sort_keys=False)).replace("```", "'''")
    rows = [(name, escaped(value or "unknown")) for name, value in versions]
    return f"{table(('', ''), rows)}\n\n```yaml\n{text}```"
