"""Tars of raw videos, as video2dataset leaves them."""

import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest

from data_pipelines.config import PreprocessConfig
from data_pipelines.pipeline import list_inputs
from data_pipelines.sources.opened import content_hash
from data_pipelines.stages.motion import FiltersConfig
from data_pipelines.stages.probe import LimitsConfig
from data_pipelines.stages.read_labels import LabelsConfig
from data_pipelines.stages.resize import ResizeConfig
from data_pipelines.stages.split_clips import ClipConfig
from lafp import storage
from tests.http_server import serving
from tests.labeled_source import go_through, select
from tests.synthetic_video import moving_square, write_video

CFG = PreprocessConfig(
    clip=ClipConfig(fps=10.0, max_s=3.0, min_frames=8),
    resize=ResizeConfig(width_px=48, height_px=32),
    filters=FiltersConfig(min_motion=0.0, drop_duplicates=False),
    val_fraction=0.0,
)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return [
        write_video(folder / f"{i}.mp4", moving_square(20 + i, seed=i), fps=10) for i in range(4)
    ]


def write_tar(path, members, tar_format=tarfile.PAX_FORMAT):
    """Name, content and where each member begins."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with tarfile.open(path) as tar:
        return [member.offset for member in tar.getmembers()]


def members_of(videos):
    for i, video in enumerate(videos):
        yield f"0000{i}.json", json.dumps({"url": f"https://h/{i}"}).encode()
        yield f"0000{i}.mp4", video.read_bytes()
        yield f"0000{i}.txt", b"a caption"


def names_of(rows):
    return [row.video_uri.rpartition("/")[2] for row in rows]


def reasons_of(rejects):
    return list(zip(names_of(rejects), (row.reason for row in rejects), strict=True))


@pytest.mark.parametrize("where", ["local", "s3", "web"])
def test_every_video_of_every_tar(tmp_path, videos, where, request, monkeypatch):
    folder = tmp_path / "set"
    for name, some in (("00000", videos[:3]), ("00001", videos[3:])):
        write_tar(folder / f"{name}.tar", members_of(some))
        (folder / f"{name}_stats.json").write_text("{}")
        (folder / f"{name}.parquet").write_bytes(b"PAR1")
    source = str(folder)
    with serving() as host:
        if where == "s3":
            monkeypatch.setattr(storage.s3, "_READ_BYTES", 1000)
            source = storage.join(request.getfixturevalue("s3_bucket"), "set")
            for path in folder.iterdir():
                storage.write_bytes(storage.join(source, path.name), path.read_bytes())
        if where == "web":
            host.files = {f"/{p.name}": p.read_bytes() for p in folder.glob("*.tar")}
            (tmp_path / "list.txt").write_text(f"{host.url}/00000.tar\n{host.url}/00001.tar")
            source = str(tmp_path / "list.txt")
        clips, rejects = go_through(replace(CFG, source=source))
    assert rejects == []
    assert names_of(clip.record for clip in clips) == [
        "00000.tar#00000.mp4",
        "00000.tar#00001.mp4",
        "00000.tar#00002.mp4",
        "00001.tar#00000.mp4",
    ]
    assert [clip.record.video_id for clip in clips] == [content_hash(path) for path in videos]


def test_members_that_are_no_videos_are_rejects_and_the_others_clips(tmp_path, videos):
    good = videos[0].read_bytes()
    members = [("a.mp4", b"<html>"), ("b.mp4", good), ("b.mp4", videos[1].read_bytes())]
    members += [
        ("c.avi", bytes(50_000)),
        ("d/e f.x.mp4", good),
        ("no_suffix", b"?"),
        ("e.mp4", b""),
    ]
    write_tar(tmp_path / "x.tar", members)
    cfg = replace(CFG, source=str(tmp_path / "x.tar"), limits=LimitsConfig(max_bytes=40_000))
    selection = select(cfg, tmp_path / "parts")
    kept = sorted(names_of(clip.record for clip in selection.clips))
    assert kept[0] == "x.tar#b.mp4" and kept[1].startswith("x.tar#b.mp4@") and len(kept) == 2
    assert sorted(
        (name, row.reason)
        for name, row in zip(names_of(selection.rejects), selection.rejects, strict=True)
    ) == [
        ("e f.x.mp4", "same_file"),
        ("x.tar#a.mp4", "not_a_video"),
        ("x.tar#c.avi", "too_many_bytes"),
        ("x.tar#e.mp4", "not_a_video"),
        ("x.tar#no_suffix", "not_a_video"),
    ]


def test_a_tar_larger_than_the_limit_of_one_video_is_streamed(tmp_path, videos):
    write_tar(tmp_path / "x.tar", members_of(videos))
    largest = max(path.stat().st_size for path in videos)
    assert (tmp_path / "x.tar").stat().st_size > 2 * largest
    cfg = replace(CFG, source=str(tmp_path / "x.tar"), limits=LimitsConfig(max_bytes=largest))
    clips, rejects = go_through(cfg)
    assert (len(clips), rejects) == (4, [])


def test_a_broken_tail_is_a_reject_and_what_comes_before_it_clips(tmp_path, videos):
    path = tmp_path / "x.tar"
    offsets = write_tar(path, members_of(videos))
    sound = path.read_bytes()
    cfg = replace(CFG, source=str(path))

    def outcome(data):
        path.write_bytes(data)
        clips, rejects = go_through(cfg)
        return len(clips), [
            (name, r.reason) for name, r in zip(names_of(rejects), rejects, strict=True)
        ]

    inside = offsets[4] + 2000
    cut = [("x.tar#00001.mp4", "truncated"), ("x.tar", "damaged")]
    assert outcome(sound[:inside]) == (1, cut)
    assert outcome(sound[: offsets[6]]) == (2, [("x.tar", "truncated")]), "no end mark"
    assert outcome(sound[: offsets[6] + 100]) == (2, [("x.tar", "damaged")])
    overwritten = sound[: offsets[6]] + b"\x55" * 512 + sound[offsets[6] + 512 :]
    assert outcome(overwritten) == (2, [("x.tar", "damaged")])
    assert outcome(b"no tar" * 1000) == (0, [("x.tar", "damaged")])
    assert outcome(b"") == (0, [("x.tar", "damaged")])
    write_tar(path, [("a.json", b"{}")])
    assert outcome(path.read_bytes()) == (0, [("x.tar", "no_video_stream")])


def test_a_header_that_claims_gigabytes_is_not_read(tmp_path):
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 10**9
    path = tmp_path / "x.tar"
    with path.open("wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(2 * 10**9)
    _, rejects = go_through(replace(CFG, source=str(path)))
    assert [reject.reason for reject in rejects] == ["damaged"]
    assert "a header of 1000000000 bytes" in rejects[0].detail


def test_random_damage_never_raises(tmp_path, videos):
    path = tmp_path / "x.tar"
    write_tar(
        path, [("a" * 120 + ".json", b"{}"), ("a.mp4", videos[0].read_bytes()), ("b.json", b"1")]
    )
    sound = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        data = bytearray(sound)
        for at in rng.integers(0, 2600, 4):
            data[at] = rng.integers(256)
        path.write_bytes(data)
        clips, rejects = go_through(replace(CFG, source=str(path)))
        assert clips or rejects


def test_with_labels_a_tar_is_no_input(tmp_path, videos):
    write_tar(tmp_path / "x.tar", members_of(videos))
    (tmp_path / "y.mp4").write_bytes(b"x")
    items = list(list_inputs(replace(CFG, source=str(tmp_path), labels=LabelsConfig())))
    assert [item.uri for item in items] == [str(tmp_path / "y.mp4")]
