"""Lists of addresses, TFRecord files and tars: what strangers hand over as a source."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data_pipelines.preprocess.clip.labels.read import LabelsConfig
from data_pipelines.preprocess.clip.measure.motion import FiltersConfig
from data_pipelines.preprocess.clip.probe import LimitsConfig
from data_pipelines.preprocess.clip.resize import ResizeConfig
from data_pipelines.preprocess.clip.split_clips import ClipConfig
from data_pipelines.preprocess.clip.video_to_clips import video_to_clips
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.rejects import RejectRow
from data_pipelines.preprocess.rows import VideoItem, VideoRow
from data_pipelines.preprocess.sources.list_videos import WEBDATASET
from data_pipelines.preprocess.sources.tfrecord import masked_crc32c
from data_pipelines.preprocess.sources.uri_list import list_uris
from lafp.config import ConfigError
from lafp.storage import CredentialsError, strict_json
from lafp.video import VIDEO_DECODERS, EncodeConfig
from tests.chaos.fuzz import Target
from tests.chaos.mutations import EDGES, ODD_TEXTS, mutated, mutated_bytes
from tests.synthetic_video import moving_square, write_video

CFG = PreprocessConfig(
    labels=LabelsConfig(max_array_bytes=2**26),
    clip=ClipConfig(fps=None, max_s=60.0, min_frames=2),
    resize=ResizeConfig(width_px=16, height_px=16),
    encode=EncodeConfig(preset="ultrafast"),
    filters=FiltersConfig(min_motion=0.0),
    limits=LimitsConfig(max_bytes=2**28, max_pixels=2**20, timeout_s=20.0),
)
DECODER = VIDEO_DECODERS.build(CFG.video_decoder)


def go_through(items: Iterable[VideoItem], cfg: PreprocessConfig = CFG) -> None:
    """Reads inputs as the decoding process does. No reject may be a surprise to lafp itself."""
    for item in items:
        stored = strict_json.loads(VideoItem, strict_json.dumps(item))
        rows = video_to_clips(stored, cfg, DECODER)
        videos: list[VideoRow] = []
        rejects: list[RejectRow] = []
        for row in rows:
            assert not isinstance(row, RejectRow) or row.reason != "failed", row.detail
            if isinstance(row, VideoRow):
                videos.append(row)
            elif isinstance(row, RejectRow):
                rejects.append(row)
        assert videos or rejects or not item.uri


def png(value: int, size: int = 16) -> bytes:
    made = io.BytesIO()
    pixels = np.full((size, size, 3), value, np.uint8)
    pixels[value % size] = 255
    Image.fromarray(pixels).save(made, "png")
    return made.getvalue()


# ---------------------------------------------------------------------------------------------
# TFRecord


def _varint(value: int) -> bytes:
    made = b""
    while value > 127:
        made += bytes((value & 127 | 128,))
        value >>= 7
    return made + bytes((value,))


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _feature(rng: Random, values: list[bytes] | np.ndarray) -> bytes:
    if isinstance(values, list):
        return _field(1, b"".join(_field(1, value) for value in values))
    if values.dtype.kind == "f":
        return _field(2, _field(1, values.astype("<f4").tobytes()))
    odd = rng.random() < 0.3
    numbers = [rng.choice(EDGES) * (64 if odd else 1) for _ in values] if odd else values.tolist()
    return _field(3, _field(1, b"".join(map(_varint, numbers))))


def _example(rng: Random) -> bytes:
    num_steps = rng.choice((0, 1, 2, 4))
    features: dict[str, list[bytes] | np.ndarray] = {
        "steps/observation/image": [png(10 * t) for t in range(num_steps)],
        "steps/observation/state": np.arange(3 * num_steps, dtype=np.float32),
        "steps/action": np.arange(rng.choice((2, 2, 2, 0, 1)) * num_steps, dtype=np.float32),
        "steps/is_first": np.ones(rng.choice((num_steps, num_steps, 5)), np.int64),
    }
    if rng.random() < 0.5:
        features["steps/action"] = np.arange(num_steps)
    if rng.random() < 0.2:
        del features[rng.choice(list(features))]
    entries = b"".join(
        _field(1, _field(1, name.encode()) + _field(2, _feature(rng, values)))
        for name, values in features.items()
    )
    return _field(1, entries)


def _framed(record: bytes) -> bytes:
    header = len(record).to_bytes(8, "little")
    return header + masked_crc32c(header).to_bytes(4, "little") + record + bytes(4)


def tfrecord(folder: Path) -> Target:
    path = folder / "x.tfrecord"

    def make(rng: Random) -> bytes:
        records = [_example(rng) for _ in range(rng.choice((1, 2)))]
        records = [mutated_bytes(rng, r) if rng.random() < 0.7 else r for r in records]
        made = b"".join(map(_framed, records))
        return mutated_bytes(rng, made) if rng.random() < 0.3 else made

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        uri = str(path)
        go_through([VideoItem(uri=uri, num_bytes=1, split=None, labels_uri=uri, reader="rlds")])

    return Target(make, parse, ())


# ---------------------------------------------------------------------------------------------
# Tars

_PACK = (lambda data: data, gzip.compress, bz2.compress, lzma.compress)
_TYPES = b"0123456789gxLKSVDM\0"


def _tar(rng: Random, videos: list[bytes]) -> bytes:
    buffer = io.BytesIO()
    kinds = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    with tarfile.open(fileobj=buffer, mode="w", format=rng.choice(kinds)) as tar:
        for number in range(rng.randint(1, 4)):
            name = rng.choice(
                (f"a/{number}.mp4", f"{number}.json", f"{'x' * 60}/{'y' * 60}.mp4", "./é.mp4")
            )
            info = tarfile.TarInfo(name)
            if rng.random() < 0.2:
                info.type, info.linkname = rng.choice((b"1", b"2")), rng.choice(("a/0.mp4", "../x"))
                tar.addfile(info)
                continue
            data = rng.choice(videos)
            info.size = len(data)
            if tar.format == tarfile.PAX_FORMAT and rng.random() < 0.5:
                key = rng.choice(("path", "size", "mtime", "GNU.sparse.map", "hdrcharset", "x"))
                info.pax_headers = {key: rng.choice(("0", "1,2,3", "é", *map(str, EDGES)))}
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _odd_header(rng: Random, data: bytes) -> bytes:
    """Changes a field of a header and computes its checksum anew, so that it is believed."""
    made = bytearray(data)
    places = [at for at in range(0, len(data) - 511, 512) if data[at + 257 : at + 262] == b"ustar"]
    if not places:
        return data
    at = rng.choice(places)
    fields = ((0, 100), (100, 8), (124, 12), (124, 12), (136, 12), (157, 100), (345, 155))
    low, size = rng.choice(fields)
    change = rng.randrange(4)
    if change == 0:  # a number in base 256
        number = rng.choice((*EDGES, 2**80)) * rng.choice((1, -1))
        value = (number % 256 ** (size - 1)).to_bytes(size - 1, "big")
        made[at + low : at + low + size] = rng.choice((b"\x80", b"\xff")) + value
    elif change == 1:
        text = f"{rng.choice(EDGES):o}".encode()[-size + 1 :]
        made[at + low : at + low + size] = text.rjust(size - 1, b"0") + b"\0"
    elif change == 2:
        made[at + 156] = rng.choice(_TYPES)
    else:
        text = rng.choice(ODD_TEXTS).encode(errors="replace")[:size]
        made[at + low : at + low + size] = text.ljust(size, b"\0")
    made[at + 148 : at + 156] = b" " * 8
    made[at + 148 : at + 156] = f"{sum(made[at : at + 512]):06o}\0 ".encode()
    return bytes(made)


def tar(folder: Path) -> Target:
    path = folder / "x.tar"
    video = write_video(folder / "seed.mp4", moving_square(4, 32, 32)).read_bytes()
    videos = [video, b"no video", b"", video[:100]]

    def make(rng: Random) -> bytes:
        made = b"".join(_tar(rng, videos) for _ in range(rng.choice((1, 1, 2))))
        for _ in range(rng.choice((0, 1, 1, 2))):
            made = _odd_header(rng, made)
        if rng.random() < 0.4:
            made = mutated_bytes(rng, made)
        packed = rng.choice((*_PACK[:1] * 5, *_PACK[1:]))(made)
        return mutated_bytes(rng, packed) if rng.random() < 0.2 else packed

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        item = VideoItem(uri=str(path), num_bytes=len(data), split=None, reader=WEBDATASET)
        go_through([item], replace(CFG, labels=None))

    return Target(make, parse, ())


# ---------------------------------------------------------------------------------------------
# Lists

_URIS = ["a.mp4", "https://h.org/a.mp4?token=x", "s3://b/a", "/abs/b.mp4", "é.mp4", "a,b.mp4"]
_URIS += ["file:///x/%C3%A9.mp4", '"q".mp4', "http://[::1]:99999/x", "~/a.mp4"]
_URIS += ["http://u:p@h/x", "s3://", "file://h/x", "ftp://h/x", "http://h:x/", "a\tb", "# c"]
_MARKS = (b"", b"", b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xff\xfe\0\0")


def _list(rng: Random, suffix: str) -> bytes:
    uris = [rng.choice((*_URIS, *ODD_TEXTS)) for _ in range(rng.randint(1, 6))]
    if suffix == ".parquet":
        made = io.BytesIO()
        safe = [uri.encode(errors="replace").decode() for uri in uris]
        pq.write_table(pa.table({"uri": safe, "n": list(range(len(uris)))}), made)
        return mutated(rng, "x.parquet", made.getvalue())
    if suffix == ".jsonl":
        text = "\n".join(json.dumps({"uri": uri, "n": [1, {"a": None}]}) for uri in uris)
        return mutated(rng, "x.jsonl", text.encode())
    if suffix == ".txt":
        text = "\n".join(uris)
    else:
        mark = rng.choice(",;\t|")
        quoted = [f'"{uri}"' if rng.random() < 0.5 else uri for uri in uris]
        text = "\n".join(f"{uri}{mark}{n}" for n, uri in enumerate(["uri", *quoted]))
    data = rng.choice(_MARKS) + text.encode(errors="surrogatepass")
    if rng.random() < 0.05:
        data = rng.choice((b'"' + b"x" * 200_000, b"," * 300_000, b"uri\n" * 20_000)) + data
    return mutated_bytes(rng, data) if rng.random() < 0.7 else data


def lists(folder: Path) -> Target:
    suffixes = (".txt", ".csv", ".tsv", ".jsonl", ".parquet")

    def make(rng: Random) -> tuple[str, bytes]:
        suffix = rng.choice(suffixes)
        return suffix, _list(rng, suffix)

    def parse(made: tuple[str, bytes]) -> None:
        path = folder / f"list{made[0]}"
        path.write_bytes(made[1])
        for found in list_uris(str(path), None, "uri", has_labels=False):
            if isinstance(found, VideoItem):
                json.dumps(asdict(found)).encode()
                assert found.refused is None or found.refused.reason != "failed", found

    return Target(make, parse, (ConfigError, CredentialsError))


TARGETS = {"tfrecord": tfrecord, "tar": tar, "lists": lists}
