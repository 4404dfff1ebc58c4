"""Masks of the agent from the shard to the window, and the share of clips that keeps theirs."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from lafp.data.augment import AugmentConfig, augment_window
from lafp.data.masks import count_masks, keep_masks, unpacked
from lafp.data.order.clips import ClipOrder
from lafp.data.order.demand import ClipDemand
from lafp.data.order.micro_batches import clip_num_bytes
from lafp.data.order.window_draws import WindowConfig, WindowDraws
from lafp.data.shards.cache import ClipCache, DecodedClip
from lafp.data.shards.damage import REASONS
from lafp.data.shards.format import Labels
from lafp.data.shards.reader import ClipReader
from lafp.data.shards.sets import open_shard_set
from lafp.data.windows import cut_windows
from lafp.types import ClipBatch
from tests.synthetic_shards import SyntheticClip, write_clips

HEIGHT_PX, WIDTH_PX = 16, 20  # a width that fills no whole number of bytes
CFG = WindowConfig(frame_stack=2, max_offset_steps=3, windows_per_clip=4)


def dots(num_frames: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A white dot that jumps, uint8 [T, H, W, 3], and where it is, bool [T, H, W]."""
    rng = np.random.default_rng(seed)
    shown = np.zeros((num_frames, HEIGHT_PX, WIDTH_PX), bool)
    for frame in shown:
        frame[rng.integers(HEIGHT_PX), rng.integers(WIDTH_PX)] = True
    return np.repeat(255 * shown[..., None].astype(np.uint8), 3, axis=3), shown


def clips(num: int, num_masked: int, num_frames: int = 40) -> list[SyntheticClip]:
    made = []
    for seed in range(num):
        frames, shown = dots(num_frames, seed)
        mask = np.packbits(shown, axis=2) if seed < num_masked else None
        made.append(SyntheticClip(frames=frames, true_action=None, split="train", mask=mask))
    return made


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    """Four clips with masks and two without."""
    folder = tmp_path_factory.mktemp("shards")
    return write_clips(folder, clips(6, num_masked=4), 3, seed=0, max_action=1.0)


def batch_of(shards: str, draws: WindowDraws | None, cache_bytes: int = 0) -> ClipBatch:
    order = ClipOrder(shard_set=shards, split="train", seed=0)
    reader = ClipReader(shards, ClipCache(cache_bytes), draws=draws)
    refs = list(islice(order.visits(), order.num_clips))
    for _ in range(2):  # the second time from the cache, if there is one
        arrays = reader.read_batch(refs)
    return ClipBatch(**{name: torch.from_numpy(array) for name, array in arrays.items()})


@pytest.mark.parametrize("draws", [None, WindowDraws(window=CFG, seed=3)], ids=["whole", "sent"])
@pytest.mark.parametrize("cache_bytes", [0, 1 << 24])
def test_a_window_has_the_dots_of_both_of_its_frames(shards, draws, cache_bytes):
    assert open_shard_set(shards).num_masked_clips == {"train": 4}
    window = cut_windows(batch_of(shards, draws, cache_bytes), CFG, seed=3)
    assert window.next_mask.shape == (24, 1, HEIGHT_PX, WIDTH_PX)
    is_masked = (window.next_mask == 0).flatten(1).any(1)
    assert is_masked.sum() == 16, "four windows of each masked clip"
    now, later, future = (
        obs[:, -1:] > 0 for obs in (window.obs, window.next_obs, window.future_obs)
    )
    for mask, other in ((window.next_mask, later), (window.future_mask, future)):
        assert torch.equal(mask[is_masked].bool(), (now | other)[is_masked])
        assert (mask[~is_masked] == 1).all(), "clips without a mask count in full"
    assert not torch.equal(window.next_mask, window.future_mask)


def test_a_mask_of_another_shape_is_damage(tmp_path):
    made = clips(4, num_masked=4)
    made[1] = replace(made[1], mask=made[1].mask[:-1])
    made[2] = replace(made[2], mask=made[2].mask[:, 1:])
    uri = write_clips(tmp_path, made, 4, seed=0, max_action=1.0)
    order = ClipOrder(shard_set=uri, split="train", seed=0)
    batch = ClipReader(uri).read_sound_batch(list(islice(order.visits(), 4)))
    assert sorted(batch["damaged"][:, 1]) == [0, 0, *[REASONS.index("undecodable")] * 2]


def test_shards_without_masks_have_none_in_their_windows(tmp_path):
    uri = write_clips(tmp_path, clips(2, num_masked=0), 2, seed=0, max_action=1.0)
    window = cut_windows(batch_of(uri, None), CFG, seed=3)
    assert window.next_mask is None and window.future_mask is None


def test_masks_count_among_the_bytes_of_a_clip(shards, tmp_path):
    plain = write_clips(tmp_path, clips(2, num_masked=0), 2, seed=0, max_action=1.0)
    num_bytes = [
        clip_num_bytes(
            ClipDemand(order=ClipOrder(shard_set=uri, split="train", seed=0), clips_per_step=2)
        )
        for uri in (shards, plain)
    ]
    assert num_bytes[0] - num_bytes[1] == 40 * HEIGHT_PX * 3
    frames, shown = dots(40, seed=0)
    labels = Labels(mask=np.packbits(shown, axis=2))
    cached = [DecodedClip(frames, arrays, None).num_bytes for arrays in (labels, None)]
    assert cached[0] - cached[1] == 40 * HEIGHT_PX * 3


def test_a_larger_share_of_the_clips_holds_a_smaller_one(shards):
    batch = batch_of(shards, None)
    many = replace(
        batch,
        frames=batch.frames[:1].expand(2000, -1, -1, -1, -1),
        mask=torch.zeros(2000, 40, HEIGHT_PX, 3, dtype=torch.uint8),
        num_frames=torch.full((2000,), 40),
        clip_key=torch.arange(2000) * 7919,
        epoch=torch.zeros(2000, dtype=torch.int64),
    )
    kept = {
        fraction: (keep_masks(many, fraction, seed=1).mask == 0).flatten(1).all(1)
        for fraction in (0.01, 0.05, 0.5, 1.0)
    }
    for fraction, is_kept in kept.items():
        assert float(is_kept.float().mean()) == pytest.approx(fraction, abs=0.1 * fraction + 0.01)
    assert (kept[0.01] <= kept[0.05]).all() and (kept[0.05] <= kept[0.5]).all()
    dropped = keep_masks(many, 0.05, seed=1).mask[~kept[0.05]]
    assert (unpacked(dropped[:, 0], WIDTH_PX) == 1).all()
    assert not torch.equal(kept[0.5], (keep_masks(many, 0.5, 2).mask == 0).flatten(1).all(1))


def test_the_masks_that_are_kept_can_be_counted(shards):
    order = ClipOrder(shard_set=shards, split="train", seed=0)
    arrays = ClipReader(shards).read_batch(list(islice(order.visits(), order.num_clips)))
    batch = ClipBatch(**{name: torch.from_numpy(array) for name, array in arrays.items()})
    counts = []
    for seed in range(8):
        kept = (keep_masks(batch, 0.6, seed).mask != 0xFF).flatten(1).any(1)
        counts.append(count_masks(shards, 0.6, seed))
        assert counts[-1] == kept.sum()
    assert len(set(counts)) > 1 and count_masks(shards, 1.0, 0) == 4


def test_augmentation_moves_a_mask_with_the_frame_that_is_predicted(shards):
    """The mask of the dots is drawn into the frames, so that each shows where the other must be."""
    torch.manual_seed(0)
    window = cut_windows(batch_of(shards, None), replace(CFG, frame_stack=1), seed=3)
    drawn = replace(
        window,
        next_obs=window.next_mask.expand(-1, 3, -1, -1),
        future_obs=window.future_mask.expand(-1, 3, -1, -1),
    )
    moved = augment_window(drawn, AugmentConfig())
    assert torch.allclose(moved.next_mask, moved.next_obs[:, :1], atol=1e-6)
    assert torch.allclose(moved.future_mask, moved.future_obs[:, :1], atol=1e-6)
    assert not torch.equal(moved.next_mask, window.next_mask)
