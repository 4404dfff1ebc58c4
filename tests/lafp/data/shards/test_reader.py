"""Clips as arrays: whole, or of each only the frames that the drawn windows show."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import pytest
import torch

from lafp import storage
from lafp.data.order.clips import ClipOrder
from lafp.data.order.window_draws import WindowConfig, WindowDraws
from lafp.data.shards.cache import ClipCache
from lafp.data.shards.reader import ClipReader
from lafp.data.shards.sets import read_shard_entry
from lafp.data.windows import following_steps, window_indices, windows_at
from lafp.types import ClipBatch
from tests.shard_tables import upload_folder
from tests.synthetic_shards import moving_dot, write_shard_set


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    return write_shard_set(tmp_path_factory.mktemp("shards"), num_clips=23, clips_per_shard=4)


def order(shards: str, **kwargs) -> ClipOrder:
    return ClipOrder(
        **{"shard_set": shards, "split": "train", "seed": 3, "pool_shards": 2} | kwargs
    )


def test_clips_are_read_with_their_actions_and_padded(tmp_path):
    uri = write_shard_set(tmp_path, num_clips=3, frames=(4, 9), has_labels=True)
    refs = list(islice(order(uri).visits(), 3))
    batch = ClipReader(uri).read_batch(refs)
    positions = {c.clip_id: i for i, c in enumerate(read_shard_entry(uri, refs[0].shard).clips)}
    assert batch["frames"].shape == (3, 9, 16, 16, 3) and batch["true_action"].shape == (3, 9, 2)
    for row, ref in enumerate(refs):
        length = ref.location.num_frames
        frames, steps = moving_dot(length, positions[ref.location.clip_id])
        assert batch["num_frames"][row] == length and batch["clip_key"][row] == ref.location.key
        # The codec may round colours, but a dot stays where it was.
        assert np.abs(batch["frames"][row, :length].astype(int) - frames).max() < 12
        np.testing.assert_array_equal(batch["true_action"][row, :length], steps)
        assert not batch["frames"][row, length:].any()
        assert not batch["true_action"][row, length:].any()


def test_one_clip_reads_as_in_a_batch(shards):
    ref = next(order(shards).visits())
    reader = ClipReader(shards)
    for name, array in reader.read(ref).items():
        np.testing.assert_array_equal(array, reader.read_batch([ref])[name][0])


def test_the_cache_gives_the_same_frames_keeps_what_came_first_and_stays_within_its_bytes(shards):
    one_clip = 9 * 16 * 16 * 3
    cache = ClipCache(3 * one_clip)
    cached, plain = ClipReader(shards, cache), ClipReader(shards)
    kept: list[str] = []
    for ref in islice(order(shards).visits(), 60):
        np.testing.assert_array_equal(cached.read(ref)["frames"], plain.read(ref)["frames"])
        num_bytes = sum(clip.num_bytes for clip in cache._clips.values())
        assert num_bytes == cache._num_bytes <= 3 * one_clip
        assert list(cache._clips)[: len(kept)] == kept
        kept = list(cache._clips)
    assert len(kept) >= 3


class SlowAnswers:
    """Storage whose ranged reads take their time; counts them, and how many wait at a time."""

    def __init__(self, monkeypatch) -> None:
        self.num, self.most, self._num_now, self._lock = 0, 0, 0, threading.Lock()
        self._read = storage.read_bytes
        monkeypatch.setattr(storage, "read_bytes", self)

    def __call__(self, uri, offset, length):
        with self._lock:
            self.num, self._num_now = self.num + 1, self._num_now + 1
            self.most = max(self.most, self._num_now)
        time.sleep(0.02)
        try:
            return self._read(uri, offset, length)
        finally:
            with self._lock:
                self._num_now -= 1


@pytest.mark.parametrize("num_threads", [1, 2])
def test_an_object_store_is_asked_for_several_clips_at_a_time_and_once_for_each(
    s3_bucket, tmp_path, monkeypatch, num_threads
):
    write_shard_set(tmp_path / "set", num_clips=24, has_labels=True)
    upload_folder(tmp_path / "set", f"{s3_bucket}/set")
    here, refs = (
        list(islice(order(uri).visits(), 24)) for uri in (str(tmp_path / "set"), f"{s3_bucket}/set")
    )
    expected = ClipReader(str(tmp_path / "set")).read_batch(here)
    pool = ThreadPoolExecutor(num_threads) if num_threads > 1 else None
    cache = ClipCache(3 * expected["frames"][0].nbytes)
    reader, slow = ClipReader(f"{s3_bucket}/set", cache, pool=pool), SlowAnswers(monkeypatch)
    for is_second_visit in (False, True):
        slow.num, num_cached = 0, len(cache._clips)
        assert (num_cached >= 3) == is_second_visit
        found = reader.read_batch(refs)
        assert found.keys() == expected.keys()
        for name, array in found.items():
            np.testing.assert_array_equal(array, expected[name])
        assert slow.num == len(refs) - num_cached
    assert slow.most >= 8


def test_a_damaged_object_is_told_and_the_other_clips_are_read(s3_bucket, tmp_path):
    write_shard_set(tmp_path / "set", num_clips=8, clips_per_shard=4)
    gone, *_ = sorted((tmp_path / "set").glob("*.tar"))
    gone.unlink()
    upload_folder(tmp_path / "set", f"{s3_bucket}/set")
    refs = list(islice(order(f"{s3_bucket}/set").visits(), 8))
    batch = ClipReader(f"{s3_bucket}/set").read_sound_batch(refs)
    is_gone = np.array([ref.shard == gone.name for ref in refs])
    assert is_gone.sum() == 4
    assert ((batch["damaged"][:, 0] != 0) == is_gone).all()


def test_a_damaged_shard_is_named(tmp_path):
    uri = write_shard_set(tmp_path, num_clips=1)
    ref = next(order(uri).visits())
    path = tmp_path / ref.shard
    data = bytearray(path.read_bytes())
    start = ref.location.video_offset
    data[start : start + ref.location.video_bytes] = bytes(ref.location.video_bytes)
    path.write_bytes(data)
    with pytest.raises((RuntimeError, ValueError)):
        ClipReader(uri).read(ref)


# ---------------------------------------------------------------------------------------------
# Only the frames of the windows


@pytest.fixture(scope="module")
def long_clips(tmp_path_factory):
    return write_shard_set(
        tmp_path_factory.mktemp("long"), num_clips=12, frames=(20, 61), has_labels=True
    )


DRAWS = [
    WindowDraws(window=WindowConfig(windows_per_clip=4), seed=3),
    WindowDraws(window=WindowConfig(frame_stack=3, windows_per_clip=2), seed=3),
    WindowDraws(
        window=WindowConfig(frame_stack=3, max_offset_steps=10, windows_per_clip=3), seed=3
    ),
    WindowDraws(window=WindowConfig(windows_per_clip=2), seed=3, chunk_steps=8),
]


def clip_batch(arrays: dict[str, np.ndarray]) -> ClipBatch:
    return ClipBatch(**{name: torch.from_numpy(array) for name, array in arrays.items()})


@pytest.mark.parametrize("cache_bytes", [0, 100_000, 1 << 24])
@pytest.mark.parametrize("draws", DRAWS, ids=["pairs", "stacks", "offsets", "chunks"])
def test_windows_of_the_frames_that_are_sent_are_those_of_whole_clips(
    long_clips, draws, cache_bytes
):
    refs = list(islice(order(long_clips).visits(), 30))  # two epochs and a half
    sparse = ClipReader(long_clips, ClipCache(cache_bytes), draws=draws)
    for start in range(0, 30, 6):
        of_batch = refs[start : start + 6]
        arrays = sparse.read_batch(of_batch)
        assert arrays["frames"].shape[1] == draws.max_frames < arrays["true_action"].shape[1]
        sent, whole = clip_batch(arrays), clip_batch(ClipReader(long_clips).read_batch(of_batch))
        clip_N, t_N, k_N = window_indices(sent, draws.window, draws.seed)
        at_NH, _ = following_steps(whole, clip_N, t_N, draws.chunk_steps)
        for at_N, k in [(t_N, k_N), *((at_N, torch.ones_like(k_N)) for at_N in at_NH.unbind(1))]:
            cut = [windows_at(b, clip_N, at_N, k, draws.window.frame_stack) for b in (sent, whole)]
            for name in ("obs", "next_obs", "future_obs", "true_action"):
                torch.testing.assert_close(
                    getattr(cut[0], name), getattr(cut[1], name), rtol=0, atol=0
                )


def test_using_a_frame_that_was_not_sent_fails(long_clips):
    refs = list(islice(order(long_clips).visits(), 4))
    sent = clip_batch(ClipReader(long_clips, draws=DRAWS[0]).read_batch(refs))
    t = int((sent.frame_rows[0] == sent.frames.shape[1]).nonzero()[0])
    zeros = torch.zeros(1, dtype=torch.long)
    with pytest.raises(IndexError):
        windows_at(sent, zeros, zeros + t, zeros + 1, 1)


def test_clips_that_the_windows_nearly_fill_are_sent_whole(shards):
    draws = WindowDraws(window=WindowConfig(windows_per_clip=5), seed=0)  # 10 frames of 9
    refs = list(islice(order(shards).visits(), 4))
    arrays = ClipReader(shards, draws=draws).read_batch(refs)
    assert arrays.keys() == ClipReader(shards).read_batch(refs).keys()


def test_threads_read_what_one_does(long_clips):
    refs = list(islice(order(long_clips).visits(), 24))
    with ThreadPoolExecutor(4) as pool:
        for draws in (None, DRAWS[2]):
            several = ClipReader(long_clips, ClipCache(100_000), draws=draws, pool=pool)
            alone = ClipReader(long_clips, draws=draws)
            for name, array in alone.read_batch(refs).items():
                np.testing.assert_array_equal(several.read_batch(refs)[name], array)


def test_the_stand_in_of_a_damaged_clip_brings_its_own_frames(tmp_path):
    uri = write_shard_set(tmp_path, num_clips=6, frames=(40, 41))
    refs = list(islice(order(uri).visits(), 6))
    reader = ClipReader(uri, draws=DRAWS[0])
    sound = reader.read_sound_batch(refs)
    path, location = tmp_path / refs[2].shard, refs[2].location
    data = bytearray(path.read_bytes())
    data[location.video_offset + location.video_bytes // 2] ^= 1
    path.write_bytes(data)
    batch = reader.read_sound_batch(refs)
    assert batch["damaged"][:, 0].nonzero()[0].tolist() == [2]
    source = [ref.location.key for ref in refs].index(batch["clip_key"][2])
    for name in ("frames", "frame_rows", "num_frames", "epoch"):
        np.testing.assert_array_equal(batch[name][2], sound[name][source])
