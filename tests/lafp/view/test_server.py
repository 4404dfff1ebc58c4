"""What the server of `lafp view` answers over HTTP, on loopback, and to whom."""

import http.client
import io
import json
import re
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lafp.data.shards.sets import read_shard_entry
from lafp.video import decode_clip
from lafp.view import server
from lafp.view.set_answers import SetAnswers
from lafp.view.stored_clips import StoredClips
from lafp.view.viewed_sets import open_sets
from tests.lafp.view.conftest import EVIL, NUM_CLIPS
from tests.synthetic_shards import write_shard_set


@pytest.fixture
def get(served):
    """GET of a path below the token: status, headers, body."""
    url = urlsplit(served.url)

    def ask(path: str, headers: dict | None = None, method: str = "GET", prefix: str = url.path):
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=60)
        connection.request(method, prefix + path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()

    return ask


@pytest.fixture
def ask(get):
    """The JSON of an API path."""

    def asked(path: str, **parameters):
        status, _, body = get(f"api/{path}?{urlencode(parameters)}")
        assert status == 200, body
        return json.loads(body)

    return asked


def of_clip(clip: dict) -> str:
    return f"{clip['shard']}/{clip['clip_id']}"


def test_the_page_and_its_files_are_served_and_name_nothing_outside(get):
    status, headers, body = get("")
    assert status == 200 and headers["Content-Type"].startswith("text/html")
    names = re.findall(r'(?:src|href)="([^"]+)"', body.decode())
    while names:
        name = names.pop()
        status, headers, body = get(name)
        assert status == 200, name
        names += re.findall(r'from "\./([^"]+)"', body.decode())
        outside = re.findall(r"https?://[^\"'\s]+", body.decode())
        assert not [url for url in outside if not url.startswith("http://www.w3.org/")], name


@pytest.mark.parametrize("path", ["", "api/sets", "view.css", "nothing", "media/0/reject/0/video"])
def test_every_answer_forbids_foreign_resources_and_copies(get, path):
    _, headers, _ = get(path)
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["Cache-Control"] == "no-store" and headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("prefix", ["/", "/wrong-token/", "//", "/%00/"])
def test_without_the_token_nothing_is_answered(get, prefix):
    for path in ("", "api/sets", "view.css"):
        status, _, body = get(path, prefix=prefix)
        assert status == 403 and b"token" in body


@pytest.mark.parametrize("prefix", ["//[::", "*", "http:x", "/?%ff", "/%e9/"])
def test_an_odd_request_is_refused_like_any_other(get, prefix, capfd):
    assert get("", prefix=prefix)[0] == 403
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_a_name_that_leads_here_is_refused(get, host):
    assert get("api/sets", {"Host": host})[0] == 403


def test_a_tunnel_to_another_port_is_answered(get):
    assert get("api/sets", {"Host": "localhost:9999"})[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_only_reading_is_answered(get, method):
    assert get("api/sets", method=method)[0] == 501


@pytest.mark.parametrize(
    "path",
    ["../server.py", "..%2Fserver.py", "%2e%2e/answers.py", "media/0/clip/..%2F..%2Fx.tar/ab.mp4",
     "media/0/clip/manifest.parquet/ab.mp4", "media/7/reject/0.jpg", "api/0/_set",
     "media/0/reject/999.jpg", "api/0/clip/nothing", "api/0/neighbours/nothing"],
)  # fmt: skip
def test_what_is_not_there_is_a_404_with_a_reason(get, path):
    status, headers, body = get(path)
    assert status == 404 and body and headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize("query", ["sort=no_such", "min_motion=much", "offset=x", "limit=1.5"])
def test_a_wrong_parameter_is_a_400_that_names_it(get, query):
    status, _, body = get(f"api/0/clips?{query}")
    assert status == 400 and query.partition("=")[0].encode() in body


def test_the_overview_describes_the_sets(ask):
    found = ask("sets")
    (one,) = found["sets"]
    assert one["name"] == "videos" and one["num_clips"] == NUM_CLIPS and one["num_rejects"] == 4
    assert one["spec"]["width_px"] == 16 and one["latents"] == ["steps"]
    assert found["reasons"]["dark"] == "darker than <b>"


def test_clips_come_in_pages_in_the_order_asked_for(ask, clip_rows):
    pages = [ask("0/clips", offset=n, limit=5) for n in (0, 5, 10)]
    assert [page["total"] for page in pages] == [NUM_CLIPS] * 3
    ids = [row["clip_id"] for page in pages for row in page["rows"]]
    assert ids == [row["clip_id"] for row in clip_rows]
    by_motion = ask("0/clips", sort="motion", order="desc")["rows"]
    assert [row["clip_id"] for row in by_motion] == ids[::-1]
    shuffled = [row["clip_id"] for row in ask("0/clips", sort="random")["rows"]]
    assert sorted(shuffled) == sorted(ids) and shuffled != ids


def test_filters_and_words_narrow_the_list(ask, clip_rows):
    def found(**parameters):
        return [row["row"] for row in ask("0/clips", **parameters)["rows"]]

    assert found(min_motion=0.05, max_motion=0.08) == [4, 5, 6, 7]
    assert found(split="val") == [8, 9, 10, 11]
    assert found(search="CLIP_1 mp4") == [1, 10, 11]
    assert found(search=clip_rows[7]["clip_id"]) == [7]
    assert found(search="<script>") == [3]
    assert found(search=".*") == []
    assert found(has_labels="false") == [] and len(found(has_labels="true")) == NUM_CLIPS
    longest = [n for n, row in enumerate(clip_rows) if row["num_frames"] == 9]
    assert found(min_length=0.9) == longest


def test_facets_count_what_filters_offer(ask, clip_rows):
    found = ask("0/facets")
    assert {name: of["spans"] for name, of in found["clips"]["split"].items()} == {
        "train": 8,
        "val": 4,
    }
    assert found["reasons"]["static"] == {"spans": 1, "seconds": 2.0}
    motion = found["histograms"]["clips"]["motion"]
    assert sum(motion["counts"]) == NUM_CLIPS and motion["low"] == pytest.approx(0.01)


def test_a_clip_is_a_file_of_its_own_that_is_read_by_ranges(get, run, clip_rows):
    clip = clip_rows[5]
    stage = run.stage("shards/videos")
    place = next(
        each
        for each in read_shard_entry(stage.uri, clip["shard"]).clips
        if each.clip_id == clip["clip_id"]
    )
    tar = Path(stage.path(clip["shard"])).read_bytes()
    video = tar[place.video_offset : place.video_offset + place.video_bytes]
    path = f"media/0/clip/{of_clip(clip)}.mp4"
    status, headers, body = get(path)
    assert status == 200 and body == video and headers["Accept-Ranges"] == "bytes"
    size = len(video)
    for header, first, end in [
        ("bytes=0-", 0, size),
        ("bytes=10-19", 10, 20),
        (f"bytes={size - 5}-{size + 100}", size - 5, size),
        ("bytes=-7", size - 7, size),
    ]:
        status, headers, body = get(path, {"Range": header})
        assert status == 206 and body == video[first:end]
        assert headers["Content-Range"] == f"bytes {first}-{end - 1}/{size}"
    long = f"bytes={'9' * 5000}-"
    for header in (f"bytes={size}-", "bytes=-", "bytes=-0", "bytes=9-3", "lines=0-1", long):
        status, headers, _ = get(path, {"Range": header})
        assert status == 416 and headers["Content-Range"] == f"bytes */{size}"


def test_frames_are_those_that_training_sees(get, run, clip_rows):
    clip = clip_rows[2]
    video = get(f"media/0/clip/{of_clip(clip)}.mp4")[2]
    frames = decode_clip(video)
    for number in (0, len(frames) - 1):
        status, _, body = get(f"media/0/frame/{of_clip(clip)}/{number}.jpg")
        shown = np.asarray(Image.open(io.BytesIO(body)).convert("RGB")).astype(int)
        assert status == 200 and np.abs(shown - frames[number]).mean() < 8
    assert get(f"media/0/frame/{of_clip(clip)}/{len(frames)}.jpg")[0] == 404


def test_a_clip_comes_with_labels_its_video_and_its_copies(ask, clip_rows):
    clip = clip_rows[3]
    found = ask(f"0/clip/{clip['clip_id']}")
    assert found["record"] == clip
    (action,) = [label for label in found["labels"] if label["name"] == "true_action"]
    assert action["shape"] == [clip["num_frames"], 2] and len(action["dims"]) == 2
    assert [span["clip_id"] for span in found["spans"]] == [clip["clip_id"]]
    assert [row["reason"] for row in found["rejects"]] == ["not_a_video"]
    assert [row["row"] for row in found["duplicates"]] == [1]


def test_rejects_are_filtered_by_reason_and_name_the_clip_that_was_kept(ask, clip_rows):
    assert [row["reason"] for row in ask("0/rejects", reason="dark")["rows"]] == ["dark"]
    (pair,) = ask("0/rejects", reason="near_duplicate")["rows"]
    assert pair["original"]["clip_id"] == clip_rows[3]["clip_id"]
    assert EVIL in pair["original"]["video_uri"]


def test_a_reject_shows_its_source_where_that_is_there(get, tmp_path, ask):
    status, headers, body = get("media/0/reject/0.jpg")
    assert status == 200 and Image.open(io.BytesIO(body)).size[0] > 0
    status, headers, body = get("media/0/reject/0/video", {"Range": "bytes=4-7"})
    assert status == 206 and body == b"ftyp" and headers["Content-Type"] == "video/mp4"
    for path in ("media/0/reject/2.jpg", "media/0/reject/2/video", "media/0/reject/3.jpg"):
        assert get(path)[0] == 404


def test_neighbours_moved_alike_in_other_videos(ask, clip_rows):
    clip = clip_rows[0]
    for frame in (0, 3):
        found = ask(f"0/neighbours/{clip['clip_id']}", latents="steps", frame=frame)
        distances = [near["distance"] for near in found["neighbours"]]
        videos = [near["clip"]["video_id"] for near in found["neighbours"]]
        assert distances == sorted(distances) and distances[0] <= 1
        assert len(set(videos)) == len(videos) and clip["video_id"] not in videos
        z = [dim[frame] for dim in found["latents"]["dims"]]
        near = found["neighbours"][0]
        of_near = ask(f"0/clip/{near['clip_id']}")["labels"]
        action = next(label for label in of_near if label["name"] == "true_action")
        step = [dim[near["frame"]] for dim in action["dims"]]
        assert np.hypot(*np.subtract(step, z)) == pytest.approx(distances[0])
    assert found["num_pairs"] > 0


def test_a_shard_that_is_gone_or_cut_is_told_and_the_rest_is_served(served, get, run, clip_rows):
    path = Path(run.stage("shards/videos").path(clip_rows[8]["shard"]))
    data = path.read_bytes()
    name = of_clip(clip_rows[8])
    try:
        path.write_bytes(data[:600])
        assert get(f"media/0/frame/{name}/1.jpg")[0] == 404
        path.unlink()
        status, _, body = get(f"media/0/frame/{name}/2.jpg")
        assert status == 404 and b"not there any more" in body
        assert get(f"media/0/clip/{name}.mp4", {"Range": "bytes=0-"})[0] == 404
    finally:
        path.write_bytes(data)
    assert get(f"media/0/frame/{name}/2.jpg")[0] == 200


def test_names_in_paths_may_be_quoted(get, clip_rows):
    shard = quote(clip_rows[0]["shard"], safe="")
    assert get(f"media/0/clip/{shard}/{clip_rows[0]['clip_id']}.mp4")[0] == 200


def test_the_time_line_of_a_long_video_is_whole(tmp_path):
    """A video of hours has more spans than a page of a listing has rows."""
    write_shard_set(tmp_path, num_clips=300, clips_per_shard=300, frames=(3, 3), size_px=8)
    path = tmp_path / "clips/part-00000.parquet"
    rows = pq.read_table(path).to_pylist()
    for number, row in enumerate(rows):
        row |= {"video_uri": "long.mp4", "start_s": 10.0 * number, "end_s": 10.0 * number + 10}
    pq.write_table(pa.Table.from_pylist(rows), path)
    with ExitStack() as stack:
        (viewed,) = open_sets(str(tmp_path), stack)
        answers = SetAnswers(viewed, StoredClips(viewed))
        found = answers.clip(rows[299]["clip_id"], {})
    assert found["num_spans"] == len(found["spans"]) == 300
    assert found["spans"][-1]["end_s"] == 3000
    assert len(answers.clips({"limit": "1000"})["rows"]) == 200


@pytest.mark.parametrize("header", [f"bytes=0-{'9' * 5_000}", f"bytes=-{'9' * 5_000}"])
def test_a_range_of_thousands_of_digits_is_no_range(header):
    assert server.byte_range(header, 10) is None
