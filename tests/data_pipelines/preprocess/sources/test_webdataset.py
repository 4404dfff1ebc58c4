"""Tars of raw videos, as video2dataset leaves them."""

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from data_pipelines.preprocess.clip.labels.read import LabelsConfig
from data_pipelines.preprocess.clip.measure.motion import FiltersConfig
from data_pipelines.preprocess.clip.probe import LimitsConfig
from data_pipelines.preprocess.clip.resize import ResizeConfig
from data_pipelines.preprocess.clip.split_clips import ClipConfig
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.file_counts import FileCounts, FileTable
from data_pipelines.preprocess.job import list_inputs
from data_pipelines.preprocess.parts import make_part
from data_pipelines.preprocess.plan import Task
from data_pipelines.preprocess.sandbox.sandbox import Sandbox
from data_pipelines.preprocess.shards import read_part, write_part
from data_pipelines.preprocess.sources import webdataset
from data_pipelines.preprocess.sources.file_kinds import suffix_of
from data_pipelines.preprocess.sources.opened import content_hash
from lafp import storage
from lafp.http.download import HttpConfig
from lafp.http.host_gate import HostGate
from lafp.storage import strict_json
from tests.http_server import serving
from tests.labeled_source import go_through, select
from tests.synthetic_video import moving_square, write_video

CFG = PreprocessConfig(
    clip=ClipConfig(fps=10.0, max_s=3.0, min_frames=8),
    resize=ResizeConfig(width_px=48, height_px=32),
    filters=FiltersConfig(min_motion=0.0, drop_duplicates=False),
    val_fraction=0.0,
    http=HttpConfig(allow_private_addresses=True),
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


def test_a_member_may_be_called_like_a_broken_address():
    assert suffix_of("http://[a/b.mp4") == ".mp4"


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
            monkeypatch.setattr(storage.remote, "_READ_BYTES", 1000)
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


def test_members_are_counted_as_the_files_of_a_folder_are(tmp_path, videos):
    good = videos[0].read_bytes()
    files = {"a.mp4": good, "b.json": b"{}", "c.JSON": b"{}", "d.jpg": b"\xff\xd8\xff", "e": b"?"}
    files |= {"f.cls": b"7", "g.unheard": videos[1].read_bytes(), "h.npz": b"PK", "i.mp4": b""}
    files |= {f"j.tfrecord-0000{i}-of-2": b"?" for i in range(2)}
    (tmp_path / "folder").mkdir()
    for name, data in files.items():
        (tmp_path / "folder" / name).write_bytes(data)
    members = [("k/", (tarfile.DIRTYPE, "")), *files.items(), ("l.mp4", (tarfile.FIFOTYPE, ""))]
    os.mkfifo(tmp_path / "folder/l.mp4")
    (tmp_path / "x.tar").write_bytes(tar_bytes(members))
    in_folder, in_tar = (count(tmp_path / name, tmp_path) for name in ("folder", "x.tar"))
    kinds = {".json": 2, ".jpg": 1, ".npz": 1, ".tfrecord": 2, "a named pipe": 1}
    for counts, num_more in ((in_folder, 0), (in_tar, 1)):  # the tar is a file too
        assert {kind.what: kind.files for kind in counts.left_out} == kinds
        assert (counts.seen, counts.read) == (12 + num_more, 5 + num_more)
    example = {kind.what: kind.example for kind in in_tar.left_out}[".json"]
    assert example == f"{tmp_path}/x.tar#b.json"


def count(source, scratch):
    """Files of a source in the summary, from a part that is stored and read again."""
    cfg, listed = replace(CFG, source=str(source)), FileCounts()
    with Sandbox(cfg, HostGate()) as sandbox:
        inputs = [sandbox.rows(item) for item in list_inputs(cfg, listed)]
        write_part(inputs, str(scratch), "part.tar")
    counts = FileCounts.of_table(strict_json.loads(FileTable, strict_json.dumps(listed.table())))
    for rows in read_part(str(scratch), "part"):
        counts.add_members(rows)
    return counts.table()


@pytest.mark.parametrize("is_tar", [False, True])
def test_sidecars_of_unknown_kinds_do_not_stop_a_job_for_its_rejects(tmp_path, videos, is_tar):
    files = {f"{i}.mp4": video.read_bytes() for i, video in enumerate(videos)}
    files |= {f"{i}.{kind}": b"7" for i in range(4) for kind in ("cls", "unheard", "id")}
    (tmp_path / "x").mkdir()
    if is_tar:
        (tmp_path / "x/x.tar").write_bytes(tar_bytes(files.items()))
    else:
        for name, data in files.items():
            (tmp_path / "x" / name).write_bytes(data)
    cfg = replace(CFG, source=str(tmp_path / "x"))
    task = Task(part="000000/part", items=tuple(list_inputs(cfg)))
    made = make_part(cfg, task, str(tmp_path / "work"))
    assert (made.num_videos, made.num_empty, made.rejects.spans["not_a_video"]) == (4, 0, 12)


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


def tar_bytes(members):
    """Bytes of a tar with regular files and links: name and content, or type and target."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, what in members:
            info = tarfile.TarInfo(name)
            if isinstance(what, bytes):
                info.size = len(what)
                tar.addfile(info, io.BytesIO(what))
            else:
                info.type, info.linkname = what
                tar.addfile(info)
    return file.getvalue()


PACKERS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("packing", PACKERS)
def test_several_tars_in_one_file_are_read_whatever_they_are_packed_with(tmp_path, videos, packing):
    tars = [tar_bytes([(f"{i}.mp4", video.read_bytes())]) for i, video in enumerate(videos)]
    for name in (f"x.tar{packing}", f"X.TAR{packing.upper()}"):
        path = tmp_path / name
        path.write_bytes(PACKERS[packing](b"".join(tars)))
        clips, rejects = go_through(replace(CFG, source=str(path)))
        assert names_of(clip.record for clip in clips) == [f"{name}#{i}.mp4" for i in range(4)]
        assert rejects == []
        path.unlink()


@pytest.mark.parametrize("packing", [".gz", ".bz2", ".xz"])
def test_a_packed_tar_that_is_cut_off_keeps_what_comes_before(tmp_path, videos, packing):
    sound = tar_bytes([(f"{i}.mp4", video.read_bytes()) for i, video in enumerate(videos)])
    packed = PACKERS[packing](sound)
    for share in (0.7, 0.3, 0.01):
        (tmp_path / f"x.tar{packing}").write_bytes(packed[: int(share * len(packed))])
        clips, rejects = go_through(replace(CFG, source=str(tmp_path)))
        assert len(clips) >= (2 if packing == ".gz" and share == 0.7 else 0)
        assert rejects and {r.reason for r in rejects} <= {"truncated", "damaged", "unreadable"}


def test_links_hidden_files_and_odd_names_in_a_tar(tmp_path, videos):
    good = videos[0].read_bytes()
    members = [
        ("./a/", (tarfile.DIRTYPE, "")),
        ("./a/x.mp4", good),
        ("./a/._x.mp4", b"\x00\x05\x16\x07"),
        ("./.DS_Store", b"?"),
        ("./a/hard.mp4", (tarfile.LNKTYPE, "./a/x.mp4")),
        ("./a/soft.mp4", (tarfile.SYMTYPE, "x.mp4")),
        ("./b/up.mp4", (tarfile.SYMTYPE, "../a/x.mp4")),
        ("./lost.mp4", (tarfile.SYMTYPE, "/etc/passwd")),
        ("./pipe.mp4", (tarfile.FIFOTYPE, "")),
        ("caf\udce9.mp4", videos[1].read_bytes()),
        ("notes.txt", b"text"),
    ]
    path = tmp_path / "x.tar"
    path.write_bytes(tar_bytes(members))
    clips, rejects = go_through(replace(CFG, source=str(path)))
    uris = [clip.record.video_uri.partition("#")[2] for clip in clips]
    assert uris == ["./a/x.mp4", "caf\\xe9.mp4"]
    found = {r.video_uri.partition("#")[2]: (r.reason, r.detail, r.original_uri) for r in rejects}
    same = ("same_file", f"{path}#./a/x.mp4", f"{path}#./a/x.mp4")
    lost = ("not_found", "a link to /etc/passwd, which is not an earlier video in the tar", None)
    names = ["./a/hard.mp4", "./a/soft.mp4", "./b/up.mp4"]
    assert found == dict.fromkeys(names, same) | {"./lost.mp4": lost}


def test_archives_of_other_kinds_are_named(tmp_path, videos):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(videos[0], "a.mp4")
    (tmp_path / "b.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(100))
    (tmp_path / "c.tar").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))
    _, rejects = go_through(replace(CFG, source=str(tmp_path)))
    assert reasons_of(rejects) == [
        ("a.zip", "not_a_video"),
        ("b.7z", "not_a_video"),
        ("c.tar", "unreadable"),
    ]
    for word, row in zip(("ZIP", "7z", "Zstandard"), rejects, strict=True):
        assert word in row.detail


def test_a_presigned_tar_is_a_tar(tmp_path, videos):
    with serving() as host:
        paths = ["/x.tar?X-Amz-Signature=a%2Fb&n=1", "/y.TAR.GZ?sig=1#part"]
        data = tar_bytes([("v.mp4", videos[0].read_bytes())])
        host.files = {paths[0]: data, "/y.TAR.GZ?sig=1": gzip.compress(data)}
        path = tmp_path / "list.txt"
        path.write_text("\n".join(host.url + name for name in paths))
        clips, rejects = go_through(replace(CFG, source=str(path)))
    names = ["x.tar?n=1#v.mp4", "y.TAR.GZ#part#v.mp4"]
    assert names_of(clip.record for clip in clips) == names
    assert rejects == []


@pytest.mark.parametrize("where", ["left out", "video", "behind the end"])
def test_a_tar_that_unpacks_to_terabytes_is_cut_off_before_it_is_unpacked(
    tmp_path, videos, monkeypatch, where
):
    monkeypatch.setattr(webdataset, "_SMALL_TAR_BYTES", 2**20)
    honest = ("a.mp4", videos[0].read_bytes())
    bomb = {"left out": ("b.txt", 64), "video": ("b.mp4", 64), "behind the end": ("b.txt", 0)}
    name, size_mib = bomb[where]
    data = tar_bytes([honest, (name, bytes(size_mib * 2**20))]) + bytes(64 * 2**20)
    packed = tmp_path / "x.tar.gz"
    packed.write_bytes(gzip.compress(data, 9))
    assert packed.stat().st_size < 2**20
    read = []
    decompress = gzip.GzipFile.read
    monkeypatch.setattr(
        gzip.GzipFile, "read", lambda self, *n: read.append(out := decompress(self, *n)) or out
    )
    clips, rejects = go_through(replace(CFG, source=str(packed)))
    assert names_of(clip.record for clip in clips) == ["x.tar.gz#a.mp4"]
    assert [row.reason for row in rejects] == ["too_many_bytes"]
    assert "unpacks to more than 50 times its size" in rejects[0].detail
    assert sum(map(len, read)) < 50 * 2**20


def test_a_tar_of_endless_members_is_cut_off(tmp_path, videos, monkeypatch):
    monkeypatch.setattr(webdataset, "MAX_MEMBERS", 3)
    honest = ("a.mp4", videos[0].read_bytes())
    write_tar(tmp_path / "x.tar", [honest, *((f"{i}.txt", b"") for i in range(5))])
    clips, rejects = go_through(replace(CFG, source=str(tmp_path / "x.tar")))
    assert names_of(clip.record for clip in clips) == ["x.tar#a.mp4"]
    assert [(row.reason, row.detail) for row in rejects] == [
        ("too_many_bytes", "more than 3 members in a tar")
    ]
