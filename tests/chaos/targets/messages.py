"""What comes over sockets and in addresses: the decoding process, robots, browsers, web hosts."""

import asyncio
import http.client
import io
import json
import socket
import struct
from contextlib import ExitStack
from email.message import Message
from pathlib import Path
from random import Random
from types import SimpleNamespace
from urllib.parse import parse_qsl, unquote

import msgspec
import numpy as np

from data_pipelines.preprocess.rejects import RejectRow
from data_pipelines.preprocess.rows import EncodedClip, VideoRow
from data_pipelines.preprocess.sandbox.messages import Messages, row_of, send_row
from lafp.data.shards.format import Labels, read_records
from lafp.http import answers
from lafp.serve import messages
from lafp.serve.http_requests import MAX_HEAD_BYTES, RefusedError, body_bytes, read_head
from lafp.view.answers import Answers
from lafp.view.server import byte_range
from lafp.view.stored_clips import MissingError
from lafp.view.viewed_sets import open_sets
from tests.chaos.fuzz import Target
from tests.chaos.mutations import EDGES, ODD_TEXTS, mutated_bytes, mutated_json, mutated_tree
from tests.synthetic_shards import write_shard_set

_HEADER = struct.Struct("<II")


def sandbox(folder: Path) -> Target:
    """Messages of a decoding process that was broken into."""
    write_shard_set(folder / "set", num_clips=1, has_labels=True)
    (record,) = read_records(folder / "set" / "train-000000.tar")
    labels = Labels(true_action=np.zeros((4, 2), np.float32))
    rows = (
        VideoRow(uri="a", video_id="0", split=None, num_bytes=1, duration_s=1.0, span_s=(0.0, 1.0)),
        RejectRow(video_uri="a", start_s=0.0, end_s=1.0, reason="dark"),
        EncodedClip(record=record, video=b"v" * 9, labels=labels, label_sums=None, signature="s"),
    )
    seeds = []
    for row in rows:
        ours, theirs = socket.socketpair()
        send_row(row, Messages(ours))
        seeds.append(Messages(theirs).receive())
        ours.close(), theirs.close()

    def make(rng: Random) -> bytes:
        message, data = rng.choice(seeds)
        text = mutated_json(rng, json.dumps(message).encode())[:50_000]
        data = mutated_bytes(rng, data) if rng.random() < 0.5 else data
        made = _HEADER.pack(len(text), len(data)) + text + data
        return mutated_bytes(rng, made) if rng.random() < 0.1 else made

    def parse(made: bytes) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.sendall(made[:100_000])
            ours.shutdown(socket.SHUT_WR)
            message, data = Messages(theirs).receive()
            if message.get("kind") in ("video", "reject", "clip"):
                row = row_of(message, data)
                assert not isinstance(row, EncodedClip) or isinstance(row.signature, str), "no text"

    return Target(make, parse, (EOFError,))


def robots(_: Path) -> Target:
    """Requests to the policy server: the head, and a message in MessagePack."""
    arrays = {"dtype": "float32", "shape": [2, 3], "data": bytes(24)}
    seeds = {
        messages.Observation: {"image": arrays | {"dtype": "uint8"}, "state": arrays},
        messages.Episodes: {"num_episodes": 2, "seed": 1},
        messages.EpisodesThatEnd: {"is_over": arrays | {"dtype": "bool"}},
    }
    head = b"POST /sessions HTTP/1.1\r\nAuthorization: Bearer x\r\nContent-Length: 12\r\n\r\n"

    def make(rng: Random) -> tuple[bytes, type, bytes]:
        kind = rng.choice(list(seeds))
        try:
            body = msgspec.msgpack.encode(mutated_tree(rng, seeds[kind]))
        except (ValueError, OverflowError):
            body = msgspec.msgpack.encode(seeds[kind])
        sized = head.replace(b"12", rng.choice((str(rng.choice(EDGES)), "9" * 5000, "٣")).encode())
        return mutated_bytes(rng, sized), kind, mutated_bytes(rng, body, most=2)

    async def headed(data: bytes) -> None:
        reader = asyncio.StreamReader(limit=MAX_HEAD_BYTES)
        reader.feed_data(data)
        reader.feed_eof()
        if found := await read_head(reader):
            body_bytes(found, 1 << 20)

    loop = asyncio.new_event_loop()

    def parse(made: tuple[bytes, type, bytes]) -> None:
        try:
            loop.run_until_complete(headed(made[0]))
        except RefusedError as refused:
            messages.write({"error": refused.message})
        read = messages.read(made[1], made[2])
        if isinstance(read, messages.Observation):
            read.to_numpy()
        elif isinstance(read, messages.EpisodesThatEnd):
            messages.to_numpy("is_over", read.is_over)

    return Target(make, parse, (ValueError,))


def browsers(folder: Path) -> Target:
    """Addresses and headers that a browser sends to ``lafp view``."""
    uri = write_shard_set(folder / "set", num_clips=3, has_labels=True)
    stack = ExitStack()
    answers = Answers(open_sets(uri, stack), "t", {})
    (record, *_) = read_records(folder / "set" / "train-000000.tar")
    clip = record.clip_id
    paths = ["", "api/sets", "api/0/clips", "api/0/rejects", "api/0/facets", f"api/0/clip/{clip}"]
    paths += [f"media/0/frame/train-000000.tar/{clip}/1.jpg", "api/0/neighbours/x", "view.js"]
    paths += [f"media/0/clip/train-000000.tar/{clip}.mp4", "media/0/reject/0.jpg"]
    words = ("search", "split", "sort", "order", "offset", "limit", "min_motion", "max_length")
    words += ("source", "has_labels", "frame", "min_length")
    values = ("", "train", "motion", "desc", "0", "-1", "1e309", "nan", "1_0", "%ff", "random", "(")

    def make(rng: Random) -> tuple[str, str]:
        asked = "&".join(
            f"{rng.choice(words)}={rng.choice((*values, *ODD_TEXTS, *map(str, EDGES)))}"
            for _ in range(rng.randrange(4))
        )
        path = f"{rng.choice(paths)}?{asked}".encode(errors="replace")
        if rng.random() < 0.5:
            path = mutated_bytes(rng, path, most=2)
        ranged = (
            f"bytes={rng.choice((0, 5, '', '9' * 5000))}-{rng.choice((*EDGES, '', '9' * 5000))}"
        )
        return path.decode("latin-1"), ranged

    def parse(made: tuple[str, str]) -> None:
        byte_range(made[1], 100)
        path, _, query = made[0].partition("?")
        answers.answer(unquote(path), dict(parse_qsl(query)))

    return Target(make, parse, (MissingError, ValueError, OSError))


_HEADERS = {
    "Content-Range": "bytes 0-99/100",
    "Content-Length": "100",
    "Retry-After": "Wed, 21 Oct 2099 07:28:00 GMT",
    "Location": "https://h.org:8080/a?b#c",
    "ETag": '"abc"',
    "Content-Encoding": "gzip",
}


def hosts(_: Path) -> Target:
    """Headers of web hosts, as ``http.client`` parses them, and addresses of redirects."""

    def make(rng: Random) -> bytes:
        made = dict(_HEADERS)
        for name in rng.sample(list(made), 2):
            odd = rng.choice((*ODD_TEXTS, *map(str, EDGES), f"bytes 0-1/{'9' * 5000}", "120"))
            made[name] = odd if rng.random() < 0.5 else made[name]
        made["Location"] = rng.choice((made["Location"], "//[::1]:99999/", "http://h:99999999999/"))
        lines = (f"{name}: {value}" for name, value in made.items())
        text = "\r\n".join(lines).encode(errors="replace")
        return mutated_bytes(rng, text) + b"\r\n\r\n"

    def parse(data: bytes) -> None:
        try:
            headers: Message = http.client.parse_headers(io.BytesIO(data))
        except http.client.HTTPException:
            return
        for status in (200, 206):
            response = SimpleNamespace(status=status, headers=headers)
            answers.total_bytes(response, 0)
        answers.retry_after_s(headers.get("Retry-After", ""))
        url = answers.joined("https://h.org/x", str(headers.get("Location") or ""))
        answers.host_name(url)

    return Target(make, parse, (answers.DownloadError,))


TARGETS = {
    "sandbox messages": sandbox,
    "policy server": robots,
    "view": browsers,
    "http headers": hosts,
}
