"""Each case from public bug reports gives what is right for it.

The cases lie in an archive beside the repository; without it these tests are skipped. A case that
is not mended yet has a ``todo``, and its test must fail: whoever mends it takes the ``todo`` away.
"""

import gzip
import io
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines.preprocess.clip.labels.read import LabelsConfig
from lafp import storage
from tests.cases import CFG, Outcome, another_user, outcome
from tests.conftest import SHARED
from tests.http_server import WebHost, answer, serving

ARCHIVE = SHARED / "data" / "cases" / "ingest.tar.xz"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One source of the archive."""

    expect: Callable[[Outcome], None]
    """Asserts what is right."""
    has_labels: bool = False
    clip: dict[str, Any] = field(default_factory=dict)
    """Fields of ``clip`` in the config that differ from ``tests.cases.CFG``."""
    todo: str = ""
    """Why it is not right yet."""


def g_videos(*numbers: int) -> Callable[[Outcome], None]:
    """The list's good rows become whole clips; nothing but at most one reject row beside them."""

    def expect(found: Outcome) -> None:
        assert found.error == ""
        assert found.names == [f"g{number}.mp4" for number in numbers]
        for number in numbers:
            shown = list(range(200 * number, 200 * number + 100))
            assert found.numbers_of(f"g{number}.mp4") == shown

    return expect


def g_videos_and_a_reject(*numbers: int) -> Callable[[Outcome], None]:
    """The same, and the odd row is the one reject row."""

    def expect(found: Outcome) -> None:
        g_videos(*numbers)(found)
        assert len(found.rejects) == 1, found.said

    return expect


def every_name_leads_back(found: Outcome) -> None:
    """One clip per file, and its URI opens the file that it is of."""
    assert (found.error, found.rejects, len(found.clips)) == ("", [], 12)
    contents = set()
    for clip in found.clips:
        clip.uri.encode()
        contents.add(storage.read_bytes(clip.uri))
    assert len(contents) == 12


def special_files(found: Outcome) -> None:
    assert (found.error, found.names) == ("", ["good.mp4", "inside.mp4"])
    assert found.reasons == {"broken_link.mp4": "not_found", "circle.mp4": "unreadable"}


def denied(found: Outcome) -> None:
    assert (found.error, found.names) == ("", ["good.mp4"])
    assert found.reasons == {"secret.mp4": "unreadable", "closed": "unreadable"}


def s3_objects(found: Outcome) -> None:
    """A name that no file can have is no reason not to read an object; archive storage is."""
    assert found.error == ""
    assert found.names == ["good.mp4", f"{'k' * 300}.mp4"]
    assert found.reasons == {"cold.mp4": "unreadable"}
    assert "archive storage" in found.said


def tars(found: Outcome) -> None:
    """Every video once, or a row that says why not."""
    assert found.error == ""
    shown = [(clip.name, clip.numbers[0], len(clip.numbers)) for clip in found.clips]
    for start in (0, 100, 200, 300, 400, 500, 600):
        assert any(s == start and num == 60 for _, s, num in shown), start
    assert "09_UPPER.TAR#u.mp4" in found.names
    repeated = [clip.name for clip in found.clips if clip.numbers[0] == 600]
    assert {name[:2] for name in repeated} == {"05", "08", "11"}
    second = [name for name, start, _ in shown if name.startswith("05") and start != 600]
    assert len(second) == 1, "the second of two tars in one file"
    for what in ("10_link.tar#link.mp4", "10_link.tar#sym.mp4", "06_no_videos.tar", "07_cut.tar"):
        assert what in found.said, what


def kinds(found: Outcome) -> None:
    """Whatever can be decoded is, and the rest are rows."""
    assert found.error == ""
    good = {"dvd.VOB", "good.mp4", "camcorder.MOD", "camera.mxf", "phone.3g2", "stream.asf"}
    good |= {"theora.ogg", "blob.bin", "old.rm", "anim.apng"}
    assert good <= set(found.names)
    assert set(found.names) | set(found.reasons) == good | {"anim.webp"}


def edit_list(found: Outcome) -> None:
    """Nothing from before the cut, and no second that is not shown."""
    assert found.numbers_of("cut_mid_gop.mp4") == list(range(17, 120))
    assert found.numbers_of("trimmed_to_1s.mp4") == list(range(60, 90))
    assert found.numbers_of("repeated_segment.mp4") == [*range(30), *range(30)]
    assert found.rejects == []


def raw_h264(found: Outcome) -> None:
    """In order, at the rate that the streams themselves state (FFmpeg's reader says 25)."""
    for name in ("b_frames.h264", "no_b_frames.h264"):
        assert found.numbers_of(name) == list(range(120))
        assert {clip.fps for clip in found.clips} == {30.0}


def restarted_clock(found: Outcome) -> None:
    """Both recordings."""
    assert found.numbers_of("cat.ts") == [*range(120), *range(200, 320)]
    assert found.numbers_of("cat_jump_forward.ts") == [*range(120), *range(200, 320)]
    assert found.rejects == []


def one_dropped(found: Outcome) -> None:
    """30 fps; each picture once, but the one before the dropped one, which is held."""
    (clip,) = found.clips
    assert clip.fps == pytest.approx(30.0, rel=1e-3)
    steps = np.diff(clip.numbers)
    assert (
        sorted(steps)[0] == 0 and (steps == 0).sum() == 1 and (steps == 1).sum() == len(steps) - 2
    )


def transparent_is_black(found: Outcome) -> None:
    """The files' alpha is 16 of 255 there, over white."""
    for clip in found.clips:
        assert clip.frames[:, 4:-4, 36:60].max() < 20, clip.name
    assert len(found.clips) == 3


def sidecar_pairs(found: Outcome) -> None:
    assert (found.error, found.rejects, len(found.clips)) == ("", [], 4)
    actions_of_their_frames(found)


def actions_of_their_frames(found: Outcome) -> None:
    """``action[t][0]`` is the number that frame t shows."""
    assert found.error == ""
    for clip in found.clips:
        assert clip.action is not None
        assert np.array_equal(clip.action[:, 0], clip.numbers), clip.uri


def mixed_formats(found: Outcome) -> None:
    assert found.names == ["a.hdf5#0", "b.mp4"]
    actions_of_their_frames(found)


def raw_droid(found: Outcome) -> None:
    """A message that says what is missing."""
    assert "trajectory.h5" in found.said and "111.mp4" in found.said


def usable_without_labels(found: Outcome) -> None:
    assert found.names == ["111.mp4", "222.mp4"]


def no_depth(found: Outcome) -> None:
    """The depth map is no colour camera, and that is said."""
    assert all("top_depth" not in clip.uri for clip in found.clips)
    assert len(found.clips) == 1
    actions_of_their_frames(found)


def both_cameras(found: Outcome) -> None:
    assert len(found.clips) == 2
    actions_of_their_frames(found)


def real_clock(found: Outcome) -> None:
    """Row t with frame t."""
    assert (len(found.clips), found.rejects) == (1, [])
    actions_of_their_frames(found)


def nan_action(found: Outcome) -> None:
    (reject,) = found.rejects
    assert "episode_000000" in reject.video_uri
    assert "nan" in reject.detail.lower() and "39" in reject.detail
    assert [len(clip.numbers) for clip in found.clips] == [39, 40]
    actions_of_their_frames(found)


def nan_state(found: Outcome) -> None:
    """Found while reading: its row is a reject that names it, and all others are kept."""
    (reject,) = found.rejects
    assert "row 5: state[0] is nan" in reject.detail
    kept = found.numbers_of("episode_000003.mp4")
    assert kept == [n for n in range(300, 340) if n != 305]


def names_the_version(found: Outcome) -> None:
    assert "v1.6" in found.said


def drift(found: Outcome) -> None:
    """Every episode begins with its own first picture and has no neighbour's."""
    for episode in range(20):
        numbers = found.numbers_of(f"file-000.mp4#{episode}")
        assert numbers == list(range(100 * episode, 100 * episode + 30))
    actions_of_their_frames(found)


def each_episode_once(found: Outcome) -> None:
    assert (found.error, found.rejects) == ("", [])
    assert found.names == ["file-000.mp4#0", "file-000.mp4#1"]
    actions_of_their_frames(found)


def names_both_robots(found: Outcome) -> None:
    assert "robot_a" in found.said and "robot_b" in found.said


def dict_action(found: Outcome) -> None:
    """The parts are named, with the setting that joins them."""
    parts = ("world_vector", "rotation_delta", "gripper_closedness_action", "terminate_episode")
    assert all(f"action/{part}" in found.said for part in parts)
    assert "labels.action_parts=[" in found.said


def late_camera(found: Outcome) -> None:
    """The first picture of a camera is empty: a reject, and the others are used."""
    (reject,) = found.rejects
    assert reject.video_uri.endswith("#0/wrist_image") and "picture 0 is empty" in reject.detail
    assert sorted(len(clip.numbers) for clip in found.clips) == [39, 40, 40, 40]


def web(found: Outcome) -> None:
    """Videos, or rows that say why not; 22 rows of the list, of which one repeats another."""
    good = {"plain.mp4", "my video.mp4", "ünï.mp4", "get?id=7", "frag.mp4#t=10,20"}
    good |= {"redir", "gz.mp4", "chunked.mp4", "percent%25.mp4", "percent%.mp4"}
    good |= {"plain.mp4?upper", "shard.tar#in.mp4", "shard.tar#@13#in.mp4"}
    assert set(found.names) == good
    reasons = dict(found.reasons)
    assert reasons.pop("html.mp4") == "not_a_video"
    assert reasons.pop("missing.mp4") == "not_found"
    assert {"close.mp4", "204.mp4", "playlist.m3u8", "watch?v=1", "list.txt#21"} <= set(reasons)


CASES = {
    "lists/comment.txt": Case(expect=g_videos(0, 1, 2)),
    "lists/directory.txt": Case(expect=g_videos_and_a_reject(0, 1)),
    "lists/too_long.txt": Case(expect=g_videos_and_a_reject(0, 1)),
    "lists/nul.txt": Case(expect=g_videos_and_a_reject(0, 1)),
    "lists/not_a_folder.txt": Case(expect=g_videos_and_a_reject(0)),
    "lists/circle.txt": Case(expect=g_videos_and_a_reject(0)),
    "lists/device.txt": Case(expect=g_videos_and_a_reject(0)),
    "lists/file_scheme.txt": Case(expect=g_videos(0, 1, 2)),
    "lists/glob.txt": Case(expect=g_videos(0, 1, 2)),
    "lists/latin1.txt": Case(expect=g_videos_and_a_reject(0)),
    "lists/quoted.txt": Case(expect=g_videos(0, 1)),
    "lists/caps.csv": Case(expect=g_videos(0, 1)),
    "lists/semicolon.csv": Case(expect=g_videos(0, 1)),
    "lists/utf16.csv": Case(expect=g_videos(0)),
    "odd_names": Case(expect=every_name_leads_back),
    "special_files": Case(expect=special_files),
    "denied": Case(expect=denied),
    "s3_keys": Case(expect=s3_objects),
    "http_list": Case(expect=web),
    "tars": Case(expect=tars),
    "names_of_kinds": Case(expect=kinds),
    "editlist": Case(expect=edit_list),
    "raw_h264": Case(expect=raw_h264),
    "ts_concat": Case(expect=restarted_clock),
    "dropped_frame": Case(expect=one_dropped),
    "alpha_webm": Case(expect=transparent_is_black),
    "npz_pairs": Case(expect=sidecar_pairs, has_labels=True),
    "mixed_formats": Case(expect=mixed_formats, has_labels=True),
    "droid_raw": Case(expect=usable_without_labels),
    "droid_raw as labeled": Case(expect=raw_droid, has_labels=True),
    "lr2_depth": Case(expect=no_depth, has_labels=True),
    "lr2_mixed": Case(expect=both_cameras, has_labels=True),
    "lr2_hw_clock": Case(expect=real_clock, has_labels=True),
    "lr2_nan_action": Case(expect=nan_action, has_labels=True),
    "lr2_nan_state8": Case(expect=nan_state, has_labels=True),
    "lr2_v16": Case(expect=names_the_version, has_labels=True),
    "lr3_drift": Case(expect=drift, has_labels=True),
    "lr3_dup_episode": Case(expect=each_episode_once, has_labels=True),
    "lr_parent_dims": Case(expect=names_both_robots, has_labels=True),
    "rlds_dict_action": Case(expect=dict_action, has_labels=True),
    "rlds_first_empty": Case(expect=late_camera, has_labels=True),
}


@pytest.fixture(scope="module")
def archive() -> Iterator[Path]:
    """The archive, unpacked where another user may read it."""
    if not ARCHIVE.is_file():
        pytest.skip("the archive of cases is not here")
    folder = Path(tempfile.mkdtemp(prefix="lafp-cases-"))
    folder.chmod(0o755)
    with tarfile.open(ARCHIVE) as tar:
        tar.extractall(folder, filter="fully_trusted")
    (folder / "lists/file_scheme.txt").write_text(
        (folder / "lists/file_scheme.txt").read_text().replace("/CASES", str(folder))
    )
    yield folder
    for closed in ("denied/closed", "denied/secret.mp4"):
        (folder / closed).chmod(0o755)
    shutil.rmtree(folder)


def params() -> list[Any]:
    made = []
    for name, case in CASES.items():
        todo = pytest.mark.xfail(strict=True, reason=case.todo)
        made.append(pytest.param(name, marks=[todo] if case.todo else [], id=name))
    return made


@pytest.mark.parametrize("name", params())
def test_a_case_gives_what_is_right_for_it(name, archive, tmp_path, request):
    case, folder = CASES[name], name.partition(" ")[0]
    cfg = replace(
        CFG,
        source=str(archive / folder),
        labels=LabelsConfig(fps=10.0) if case.has_labels else None,
        clip=replace(CFG.clip, **case.clip),
    )
    with serving() as host:
        if folder == "http_list":
            cfg = replace(cfg, source=str(web_list(archive, host, tmp_path)))
        if folder == "s3_keys":
            cfg = replace(cfg, source=s3_keys(archive, request.getfixturevalue("s3_bucket")))
        with tempfile.TemporaryDirectory(prefix="lafp-") as work:
            Path(work).chmod(0o777)
            with another_user(archive) if folder == "denied" else nullcontext():
                found = outcome(cfg, Path(work))
    case.expect(found)


def test_no_folder_of_the_archive_is_forgotten(archive):
    folders = {path.name for path in archive.iterdir()}
    assert folders == {name.split("/")[0].split(" ")[0] for name in CASES}
    listed = {f"lists/{path.name}" for path in (archive / "lists").glob("*.[tc][xs][tv]")}
    assert listed <= set(CASES)


def s3_keys(archive: Path, bucket: str) -> str:
    """A good object, one with a key that is no file name, and one in archive storage."""
    import boto3

    data = (archive / "lists/v/g0.mp4").read_bytes()
    name = bucket.removeprefix("s3://")
    for key, storage_class in (
        ("set/good.mp4", "STANDARD"),
        (f"set/{'k' * 300}.mp4", "STANDARD"),
        ("set/cold.mp4", "GLACIER"),
    ):
        boto3.client("s3").put_object(
            Bucket=name, Key=key, Body=data + key.encode(), StorageClass=storage_class
        )
    return f"{bucket}/set"


def web_list(archive: Path, host: WebHost, folder: Path) -> Path:
    """The archive's list of URLs, and a host that answers to them."""
    video = (archive / "lists/v/g0.mp4").read_bytes()
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as file:
        info = tarfile.TarInfo("in.mp4")
        info.size = len(video)
        file.addfile(info, io.BytesIO(video))
    paths = ["/plain.mp4", "/my%20video.mp4", "/%C3%BCn%C3%AF.mp4", "/get?id=7&sig=a%2Fb+c"]
    paths += ["/frag.mp4", "/percent%25.mp4", "/percent%.mp4", "/plain.mp4?upper"]
    host.files = dict.fromkeys(paths, video)
    host.files |= dict.fromkeys(["/shard.tar", "/shard.tar?X-Amz-Signature=abc"], tar.getvalue())
    host.files |= {"/html.mp4": b"<html>Please log in</html>", "/playlist.m3u8": b"#EXTM3U\n"}
    host.answers["/redir"] = lambda handler, _: answer(handler, 302, Location="/ünï.mp4")
    host.answers["/gz.mp4"] = lambda handler, _: answer(
        handler, 200, gzip.compress(video), Content_Encoding="gzip"
    )
    host.answers["/chunked.mp4"] = lambda handler, _: answer_in_chunks(handler, video)
    host.answers["/close.mp4"] = lambda handler, _: None
    host.answers["/204.mp4"] = lambda handler, _: answer(handler, 204)
    path = folder / "list.txt"
    urls = (archive / "http_list/urls.txt").read_text()
    path.write_text(urls.replace("//127.0.0.1:18777", f"//{host.url.partition('//')[2]}"))
    return path


def answer_in_chunks(handler: Any, body: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for start in range(0, len(body), 1000):
        chunk = body[start : start + 1000]
        handler.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
    handler.wfile.write(b"0\r\n\r\n")
