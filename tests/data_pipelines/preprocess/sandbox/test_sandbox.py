"""Files that kill, hang or exhaust the process that decodes them, in a process of their own."""

import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from data_pipelines.preprocess.clip.probe import LimitsConfig
from data_pipelines.preprocess.clip.split_clips import ClipConfig
from data_pipelines.preprocess.clip.video_to_clips import video_to_clips
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.estimate import estimate
from data_pipelines.preprocess.manifest import check_accounts
from data_pipelines.preprocess.rejects import RejectRow
from data_pipelines.preprocess.rows import (
    EncodedClip,
    ItemRows,
    VideoFrames,
    VideoItem,
    VideoRow,
    rows_that_count,
)
from data_pipelines.preprocess.sandbox import sandbox as sandbox_module
from data_pipelines.preprocess.sandbox.files import FileServer
from data_pipelines.preprocess.sandbox.messages import Messages
from data_pipelines.preprocess.sandbox.sandbox import Sandbox
from data_pipelines.preprocess.shards import write_part
from data_pipelines.preprocess.sources.list_videos import video_item
from lafp import storage
from lafp.config import ConfigError
from lafp.confined import confined_environment, missing_protection, missing_when_tried
from lafp.http.host_gate import HostGate
from lafp.storage import StorageError
from lafp.storage.clients import s3
from lafp.video.decoders.pyav import PyAVConfig, PyAVDecoder
from lafp.video.decoders.torchcodec import TorchCodecConfig, TorchCodecDecoder
from tests import hostile_decoder as hostile
from tests.s3_server import point_to_s3
from tests.synthetic_video import moving_square, write_video

ROOT = Path(__file__).parents[4]
PYAV = PyAVDecoder(PyAVConfig())
CFG = PreprocessConfig(
    video_decoder=hostile.HostileConfig(),
    clip=ClipConfig(fps=10.0, max_s=2.0, min_frames=8),
    limits=LimitsConfig(max_memory_bytes=2**30),
)


@pytest.fixture(scope="module", autouse=True)
def hostile_decoder():
    """Registers it in the processes that start meanwhile."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests/hostile")]
    yield
    del sys.path[:2]


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(CFG, HostGate()) as made:
        yield made


def item(path: Path) -> VideoItem:
    return VideoItem(uri=str(path), num_bytes=path.stat().st_size, split=None)


def video(path: Path, seed: int = 0, num_frames: int = 60) -> Path:
    return write_video(path, moving_square(num_frames, seed=seed))


def go_through(sandbox: Sandbox, folder: Path, *paths: Path) -> list[ItemRows]:
    made = write_part([sandbox.rows(item(path)) for path in paths], str(folder), "part.tar")
    for rows in made:
        check_accounts(rows)
    return made


def outcomes(rows: ItemRows) -> list[tuple[str, str]]:
    return [(reject.reason, reject.detail) for reject in rows.rejects]


def test_rows_are_those_of_the_same_process(tmp_path, sandbox):
    path = video(tmp_path / "v.mp4")
    decoder = PyAVDecoder(PyAVConfig())
    assert list(sandbox.rows(item(path))) == list(video_to_clips(item(path), CFG, decoder))


def test_a_segmentation_fault_rejects_its_file_and_no_other(tmp_path, sandbox):
    paths = [
        video(tmp_path / f"{i}.mp4", i, num_frames)
        for i, num_frames in enumerate((60, hostile.SEGFAULT, 60))
    ]
    before, bad, after = go_through(sandbox, tmp_path, *paths)
    assert (len(before.clips), before.rejects) == (3, ())
    assert (len(after.clips), after.rejects) == (3, ())
    assert outcomes(bad) == [("killed_worker", "killed by SIGSEGV")]
    assert (bad.clips, bad.rejects[0].end_s) == ((), pytest.approx(6.1))
    (opened,) = go_through(
        sandbox, tmp_path, video(tmp_path / "p.mp4", 0, hostile.SEGFAULT_IN_PROBE)
    )
    ((reason, detail),) = outcomes(opened)
    assert reason == "killed_worker" and "SIGSEGV while it was opened" in detail


def test_a_process_that_is_killed_once_loses_nothing(tmp_path, sandbox):
    path = video(tmp_path / "v.mp4", 0, hostile.KILLED_ONCE)
    (rows,) = go_through(sandbox, tmp_path, path)
    assert path.stat().st_mtime == hostile.KILLED
    assert (len(rows.clips), rows.rejects) == (4, ())
    assert len({clip.video_offset for clip in rows.clips}) == 4


def test_memory_beyond_the_limit_is_a_reject_and_what_came_before_is_kept(tmp_path, sandbox):
    (rows,) = go_through(sandbox, tmp_path, video(tmp_path / "v.mp4", 0, hostile.HOARD))
    (reject,) = rows.rejects
    assert reject.reason == "out_of_memory"
    assert reject.end_s == pytest.approx(6.5)
    (after,) = go_through(sandbox, tmp_path, video(tmp_path / "after.mp4"))
    assert len(after.clips) == 3


def test_a_decoder_that_hangs_is_cut_off_and_what_it_gave_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox_module, "_GRACE_S", 0.1)
    cfg = replace(CFG, limits=replace(CFG.limits, timeout_s=8.0))
    with Sandbox(cfg, HostGate()) as impatient:
        paths = video(tmp_path / "0.mp4", 0, hostile.HANG), video(tmp_path / "1.mp4", 1)
        hung, after = go_through(impatient, tmp_path, *paths)
    assert [clip.record.start_s for clip in hung.clips] == [0.0]
    assert outcomes(hung) == [("timeout", "the decoding process hung")]
    assert hung.rejects[0].start_s == hung.clips[0].record.end_s
    assert len(after.clips) == 3


def test_the_end_of_the_job_is_no_reject_of_the_video_that_is_decoded_then(tmp_path):
    path = video(tmp_path / "v.mp4", 0, hostile.HANG)
    with Sandbox(CFG, HostGate()) as ended:
        rows = ended.rows(item(path))
        next(rows)
        threading.Timer(0.5, ended.end).start()
        with pytest.raises(InterruptedError):
            list(rows)
        with pytest.raises(InterruptedError):  # nor does it start again
            list(ended.rows(item(path)))


def test_one_bad_video_of_a_tar_costs_itself_only(tmp_path, sandbox):
    lengths = [60, hostile.SEGFAULT, 60, 60]
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for i, num_frames in enumerate(lengths):
            tar.add(video(tmp_path / f"{i}.mp4", i, num_frames), f"{i}.mp4")
    tar_item = video_item(str(tmp_path / "x.tar"), 0, None, has_labels=False)
    (rows,) = write_part([sandbox.rows(tar_item)], str(tmp_path), "part.tar")
    check_accounts(rows)
    assert [video.uri[-5] for video in rows.videos] == list("0123")
    assert {clip.record.video_uri[-5] for clip in rows.clips} == set("023")
    assert outcomes(rows) == [("killed_worker", "killed by SIGSEGV")]


def test_storage_that_fails_for_one_input_only_costs_that_input(tmp_path, sandbox, monkeypatch):
    path = video(tmp_path / "0.mp4", 0, hostile.UNREACHABLE)
    bad, after = go_through(sandbox, tmp_path, path, video(tmp_path / "1.mp4"))
    ((reason, detail),) = outcomes(bad)
    assert reason == "unreadable" and "Could not read it: 500" in detail
    assert len(after.clips) == 3
    monkeypatch.setattr(s3, "NUM_TRIES", 1)
    point_to_s3(monkeypatch, "http://127.0.0.1:9")
    there = replace(item(path), labels_uri="s3://bucket/labels.npz")
    with pytest.raises(StorageError, match="Could not read it: 500"):
        list(sandbox.rows(there))


def test_a_process_is_started_anew_only_when_it_keeps_much(tmp_path, monkeypatch):
    with Sandbox(CFG, HostGate()) as sandbox:
        pids = []
        for i, max_kept_bytes in enumerate([2**29, 2**29, 2**20, 2**20]):
            monkeypatch.setattr(sandbox_module, "_MAX_KEPT_BYTES", max_kept_bytes)
            (rows,) = go_through(sandbox, tmp_path, video(tmp_path / f"{i}.mp4", i))
            assert len(rows.clips) == 3
            pids.append(sandbox._process.pid)
    assert pids[0] == pids[1] and len(set(pids)) == 3


def test_a_process_without_work_ends_and_the_next_input_gets_another(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox_module, "_MAX_IDLE_S", 0.5)
    others = set(psutil.Process().children())
    with Sandbox(CFG, HostGate()) as sandbox:
        for i in range(2):
            (rows,) = go_through(sandbox, tmp_path, video(tmp_path / f"{i}.mp4", i))
            assert (len(rows.clips), rows.rejects) == (3, ())
            (process,) = set(psutil.Process().children()) - others
            others.add(process)
            deadline = time.monotonic() + 60
            while process.status() != psutil.STATUS_ZOMBIE:  # until the sandbox looks at it
                assert time.monotonic() < deadline
                time.sleep(0.05)


def test_an_input_that_is_not_gone_through_leaves_nothing_behind(tmp_path, sandbox):
    path = video(tmp_path / "v.mp4")
    rows = sandbox.rows(item(path))
    next(rows)
    rows.close()  # as when the part cannot be written
    (again,) = go_through(sandbox, tmp_path, path)
    assert len(again.clips) == 3


def test_a_decoder_that_is_taken_over_has_no_keys_no_network_and_writes_nothing(
    tmp_path, monkeypatch
):
    if missing := missing_protection():
        pytest.skip(f"this kernel does not take away: {', '.join(missing)}")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRET")
    path = video(tmp_path / "v.mp4", 0, hostile.BROKEN_INTO)
    harmless = ("keys", "memory of the worker", "change the video", "start a program")
    attacks = hostile.attacks(str(path))
    assert all(hostile.tried(attacks[name]) for name in harmless), "this process may do it"
    before = path.read_bytes(), sorted(tmp_path.iterdir())
    with Sandbox(CFG, HostGate()) as sandbox:
        (rows,) = go_through(sandbox, tmp_path / "work", path)
    assert outcomes(rows) == [("does_not_decode", "15 tried, worked: []")]
    (tmp_path / "work/part.tar").unlink()
    shutil.rmtree(tmp_path / "work")
    assert (path.read_bytes(), sorted(tmp_path.iterdir())) == before


LIES = [hostile.LIES, hostile.LIES_OF_MEMORY, hostile.LIES_OF_FRAMES]


@pytest.mark.parametrize("lie", LIES)
def test_a_decoder_that_sends_rubbish_costs_its_video_only(tmp_path, sandbox, monkeypatch, lie):
    monkeypatch.setattr(sandbox_module, "_DYING_S", 0.1)
    bad, after = go_through(
        sandbox, tmp_path, video(tmp_path / "0.mp4", 0, lie), video(tmp_path / "1.mp4")
    )
    ((reason, detail),) = outcomes(bad)
    assert reason == "killed_worker" and "sent bytes that are no message" in detail
    assert len(after.clips) == 3


def frames_of(sandbox: Sandbox, path: Path, max_side_px: int = 96) -> tuple[np.ndarray, list[str]]:
    """All pixels of a video, and the reasons of its rejects."""
    rows = rows_that_count(sandbox.frames(item(path), max_side_px))
    assert isinstance(rows[0], VideoRow)
    pixels = [row.pixels for row in rows if isinstance(row, VideoFrames)]
    reasons = [row.reason for row in rows if isinstance(row, RejectRow)]
    return np.concatenate(pixels) if pixels else np.empty(0, np.uint8), reasons


def decoded(path: Path, width: int = 96, height: int = 64) -> np.ndarray:
    info = PYAV.probe(str(path), 2**24, np.inf)
    frames = PYAV.frames(str(path), info, width, height, np.inf)
    return np.stack([frame.pixels() for frame in frames])


def test_frames_are_those_of_the_decoder_scaled_where_they_are_too_large(tmp_path, sandbox):
    path = video(tmp_path / "v.mp4")
    pixels, reasons = frames_of(sandbox, path)
    np.testing.assert_array_equal(pixels, decoded(path))
    scaled, _ = frames_of(sandbox, path, max_side_px=48)
    np.testing.assert_array_equal(scaled, decoded(path, 48, 32))
    assert not reasons
    (rows,) = go_through(sandbox, tmp_path, path)  # the process still makes clips
    assert len(rows.clips) == 3


@pytest.mark.parametrize("lie", LIES)
def test_rubbish_instead_of_frames_costs_its_video_only(tmp_path, sandbox, monkeypatch, lie):
    monkeypatch.setattr(sandbox_module, "_DYING_S", 0.1)
    assert frames_of(sandbox, video(tmp_path / "0.mp4", 0, lie))[1] == ["killed_worker"]
    assert len(frames_of(sandbox, video(tmp_path / "1.mp4"))[0]) == 60


def test_frames_outlive_a_process_that_dies_once_but_not_one_that_dies_twice(tmp_path, sandbox):
    once = video(tmp_path / "once.mp4", 0, hostile.KILLED_ONCE)
    pixels, reasons = frames_of(sandbox, once)
    np.testing.assert_array_equal(pixels, decoded(once))
    assert not reasons
    twice = video(tmp_path / "twice.mp4", 0, hostile.SEGFAULT)
    assert frames_of(sandbox, twice)[1] == ["killed_worker"]


def test_the_time_of_the_consumer_of_frames_is_not_that_of_the_decoder(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox_module, "_GRACE_S", 0.1)
    cfg = replace(CFG, limits=replace(CFG.limits, timeout_s=6.0))
    path = write_video(tmp_path / "large.mp4", moving_square(24, 1024, 1024))
    with Sandbox(cfg, HostGate()) as impatient:
        rows = impatient.frames(item(path), 1024)
        assert isinstance(next(rows), VideoRow)
        assert len(next(rows).pixels) == 10  # 32 MiB
        time.sleep(8)
        assert [len(row.pixels) for row in rows] == [10, 4]
        hung = video(tmp_path / "hung.mp4", 0, hostile.HANG)
        assert frames_of(impatient, hung)[1] == ["timeout"]


# Denies landlock_restrict_self to this process and all after it, as a container may.
DENIES = """
import ctypes, errno, struct
libc = ctypes.CDLL(None, use_errno=True)
fail = 0x50000 | errno.EPERM
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, 446), (6, 0, 0, fail), (6, 0, 0, 0x7FFF0000)]
code = b"".join(struct.pack("=HBBI", *step) for step in steps)
held = ctypes.create_string_buffer(code, len(code))
libc.prctl(38, 1, 0, 0, 0)
assert libc.prctl(22, 2, struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(held)), 0, 0) == 0
"""


def test_a_machine_that_denies_confinement_ends_the_job_and_blames_no_video(tmp_path):
    if missing := missing_protection():
        pytest.skip(f"this kernel does not take away: {', '.join(missing)}")
    path = video(tmp_path / "v.mp4")
    code = f"""{DENIES}
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.rows import VideoItem
from data_pipelines.preprocess.sandbox.sandbox import Sandbox
from lafp.config import ConfigError
from lafp.confined import missing_when_tried
from lafp.http.host_gate import HostGate
item = VideoItem(uri={str(path)!r}, num_bytes={path.stat().st_size}, split=None)
with Sandbox(PreprocessConfig(), HostGate()) as sandbox:
    try:
        print(list(sandbox.rows(item)))
    except ConfigError as error:
        print("ConfigError:", error)
try:
    print(missing_when_tried())
except OSError as error:
    print("OSError:", error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    job, doctor = done.stdout.splitlines()
    assert job.startswith("ConfigError: The process that decodes does not start on "), done.stderr
    assert "(exit status 1)" in job and "lafp doctor" in job
    assert doctor.startswith("OSError: this machine cannot confine the process that decodes: ")
    assert "Operation not permitted" in doctor


@pytest.fixture(scope="module")
def with_torchcodec():
    try:
        TorchCodecDecoder(TorchCodecConfig())
    except ConfigError as error:
        pytest.skip(str(error))


def test_torchcodec_makes_clips_in_the_confined_process(tmp_path, with_torchcodec):
    path = video(tmp_path / "v.mp4")
    cfg = replace(CFG, video_decoder=TorchCodecConfig())
    with Sandbox(cfg, HostGate()) as sandbox:
        (rows,) = go_through(sandbox, tmp_path, path)
    (expected,) = write_part([video_to_clips(item(path), CFG, PYAV)], str(tmp_path), "p.tar")
    assert [c.record.clip_id for c in rows.clips] == [c.record.clip_id for c in expected.clips]
    assert len(rows.clips) == 3 and not rows.videos[0].decoder_fallback


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_decoder_that_lacks_something_ends_the_job_with_its_own_words(tmp_path, with_torchcodec):
    cfg = replace(CFG, video_decoder=TorchCodecConfig(device="cuda"))
    words = r"^On \S+: video_decoder\.device: cuda, but torch"
    with Sandbox(cfg, HostGate()) as sandbox, pytest.raises(ConfigError, match=words) as error:
        list(sandbox.rows(item(video(tmp_path / "v.mp4"))))
    assert "video_decoder.device=cpu" in str(error.value) and "\n" not in str(error.value)


def test_files_that_are_named_may_be_written_and_no_others(tmp_path):
    if missing := missing_protection():
        pytest.skip(f"this kernel does not take away: {', '.join(missing)}")
    for name in ("device", "other"):
        (tmp_path / name).write_text("old")
    (tmp_path / "folder").mkdir()
    code = f"""
from pathlib import Path
from lafp.confined import confine
at = Path({str(tmp_path)!r})
confine(str(at / "folder"), [str(at / "device")])
(at / "device").write_text("new")
(at / "other").write_text("new")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert "PermissionError" in done.stderr.splitlines()[-1]
    assert [(tmp_path / n).read_text() for n in ("device", "other")] == ["new", "old"]


def test_what_the_kernel_promises_holds_when_it_is_tried():
    assert bool(missing_when_tried()) == bool(missing_protection())


def test_files_on_s3_are_read_without_keys_and_leave_nothing_behind(
    tmp_path, s3_bucket, monkeypatch
):
    (tmp_path / "tmp").mkdir()
    # Other tests use the machine's folder for temporary files at the same time.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    write_video(tmp_path / "v.mp4", moving_square(60))
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "v.mp4", "v.mp4")
    for name in ("v.mp4", "x.tar"):
        storage.write_bytes(f"{s3_bucket}/{name}", (tmp_path / name).read_bytes())
    uris = [f"{s3_bucket}/{name}" for name in ("v.mp4", "x.tar", "gone.mp4")]
    with Sandbox(CFG, HostGate()) as sandbox:
        found = [list(sandbox.rows(video_item(uri, 0, None, has_labels=False))) for uri in uris]
        assert "AWS_SECRET_ACCESS_KEY" in os.environ
        assert not any("AWS" in name for name in confined_environment("/tmp"))
    assert [sum(isinstance(row, EncodedClip) for row in rows) for rows in found] == [3, 3, 0]
    assert found[2][1].reason == "not_found"
    assert not [*(tmp_path / "tmp").iterdir()]


@pytest.mark.parametrize("form", ["video", "pictures"])
def test_masks_on_s3_are_read_without_keys(tmp_path, s3_bucket, form):
    write_video(tmp_path / "v.mp4", moving_square(60))
    storage.write_bytes(f"{s3_bucket}/v.mp4", (tmp_path / "v.mp4").read_bytes())
    white = np.full_like(moving_square(60), 255)
    if form == "video":
        write_video(tmp_path / "m.mp4", white)
        storage.write_bytes(f"{s3_bucket}/masks/v.mp4", (tmp_path / "m.mp4").read_bytes())
    else:
        Image.fromarray(white[0, ..., 0]).save(tmp_path / "white.png")
        for number in range(60):
            data = (tmp_path / "white.png").read_bytes()
            storage.write_bytes(f"{s3_bucket}/masks/v/{number}.png", data)
    item = video_item(f"{s3_bucket}/v.mp4", 0, None, has_labels=False)
    with Sandbox(CFG, HostGate()) as sandbox:
        rows = list(sandbox.rows(replace(item, masks_uri=f"{s3_bucket}/masks/v")))
    clips = [row for row in rows if isinstance(row, EncodedClip)]
    assert len(clips) == 3 and all(clip.record.has_mask for clip in clips), rows


def test_each_request_for_a_file_has_one_answer(tmp_path, monkeypatch):
    """A folder that cannot be cleared, as on NFS, must not shift the answers after it."""

    @contextmanager
    def uncleared(uri):
        path = tmp_path / uri.rpartition("/")[2]
        path.write_text(uri)
        yield path
        raise OSError(39, "Directory not empty")

    monkeypatch.setattr(storage, "local_file", uncleared)
    ours, theirs = socket.socketpair()
    server, client = FileServer(Messages(ours), CFG, HostGate()), Messages(theirs)
    items = [video_item(f"s3://b/{n}.mp4", 0, None, has_labels=False) for n in range(3)]
    for item in items:
        server.answer("local_file", [item.uri], item)
        assert client.receive()[0] == {
            "error": "OSError",
            "text": "[Errno 39] Directory not empty",
            "errno": 39,
        }
    server.answer("read_bytes", ["s3://b/0.mp4", "x", None], items[0])
    assert client.receive()[0]["reason"] == "failed"
    ours.close()
    theirs.close()


def test_a_dry_run_outlives_a_segmentation_fault(tmp_path):
    paths = [
        video(tmp_path / f"{i}.mp4", i, num_frames)
        for i, num_frames in enumerate((60, hostile.SEGFAULT, 60))
    ]
    said = estimate(CFG, map(item, paths))
    assert said[1] == "sample: all of them, 18 s of video, give 6 clips"
    assert "6 clips of 12 s" in said[2]
    assert ", 0 CPU hours" not in said[3]
