import numpy as np
import pytest
import torch

from lafp.data.order.window_draws import WindowConfig, draw_windows
from lafp.data.windows import cut_windows, stack_frames, windows_at
from lafp.types import ClipBatch


def clips(lengths: list[int], epoch: int = 0, first_key: int = 0) -> ClipBatch:
    """Every pixel of frame t of clip b is 16 b + t; padding is 255."""
    longest = max(lengths)
    frames = torch.full((len(lengths), longest, 2, 2, 3), 255, dtype=torch.uint8)
    for b, length in enumerate(lengths):
        frames[b, :length] = (16 * b + torch.arange(length)).view(-1, 1, 1, 1)
    return ClipBatch(
        frames=frames,
        num_frames=torch.tensor(lengths),
        clip_key=torch.arange(first_key, first_key + len(lengths)),
        epoch=torch.full((len(lengths),), epoch),
        true_action=(
            16 * torch.arange(len(lengths)).view(-1, 1, 1) + torch.arange(longest).view(1, -1, 1)
        ).float(),
    )


def draws(batch: ClipBatch, cfg: WindowConfig, seed: int) -> tuple[np.ndarray, np.ndarray]:
    of_clips = (batch.num_frames, batch.epoch, batch.clip_key)
    return draw_windows(*(numbers.numpy() for numbers in of_clips), cfg, seed)


def value(obs: torch.Tensor) -> torch.Tensor:
    """The frame number of each stacked frame: [N, 3 F, H, W] -> [N, F]."""
    return ((obs[:, ::3, 0, 0] + 1) * 127.5).round().long()


@pytest.mark.parametrize("frame_stack", [1, 3])
@pytest.mark.parametrize("max_offset", [1, 4, 10])
def test_windows_stay_inside_their_clip_and_line_up(frame_stack, max_offset):
    lengths = [frame_stack + 1, frame_stack + 2, 9, 14]
    cfg = WindowConfig(frame_stack=frame_stack, max_offset_steps=max_offset, windows_per_clip=200)
    window = cut_windows(clips(lengths), cfg, seed=1)
    assert len(window) == 800
    clip_N = torch.arange(4).repeat_interleave(200)
    obs, next_obs, future = value(window.obs), value(window.next_obs), value(window.future_obs)
    for values in (obs, next_obs, future):
        assert (values // 16 == clip_N[:, None]).all(), "a frame of another clip, or padding"
    assert (next_obs == obs + 1).all()
    assert (future == obs + window.offset_steps[:, None]).all()
    assert (obs.diff(dim=1) == 1).all(), "stacked frames are neighbours, oldest first"
    assert (window.true_action[:, 0].long() == obs[:, -1]).all(), "a_t acts from o_t on"
    last = torch.tensor(lengths)[clip_N] - 1
    assert (future[:, -1] % 16 <= last).all() and (obs[:, 0] % 16 >= 0).all()


def test_windows_reach_the_first_and_the_last_frame():
    window = cut_windows(clips([12]), WindowConfig(max_offset_steps=3, windows_per_clip=500), 0)
    assert value(window.obs).min() == 0 and value(window.future_obs).max() == 11


def test_offsets_and_times_are_uniform_where_they_fit():
    cfg = WindowConfig(frame_stack=2, max_offset_steps=4, windows_per_clip=50)
    t_BN, k_BN = draws(clips([10] * 400), cfg, seed=0)
    num_draws = t_BN.size
    np.testing.assert_allclose(np.bincount(k_BN.ravel())[1:] / num_draws, 1 / 4, atol=0.012)
    for k in range(1, 5):
        times = t_BN[k_BN == k]
        counts = np.bincount(times, minlength=10)[1 : 10 - k]
        assert times.min() == 1 and times.max() == 9 - k
        np.testing.assert_allclose(counts / len(times), 1 / (9 - k), atol=0.02)


def test_a_clip_draws_the_same_in_any_batch():
    cfg = WindowConfig(max_offset_steps=3, windows_per_clip=4)
    together = draws(clips([9, 9, 9, 9]), cfg, seed=5)
    for i in range(4):
        alone = draws(clips([9], first_key=i), cfg, seed=5)
        for got, wanted in zip(alone, together, strict=True):
            np.testing.assert_array_equal(got[0], wanted[i])


@pytest.mark.parametrize("change", [{"epoch": 1}, {"first_key": 4}, {}])
def test_draws_change_with_epoch_clip_and_seed(change):
    cfg = WindowConfig(max_offset_steps=3, windows_per_clip=16)
    t, _ = draws(clips([30, 30]), cfg, seed=0)
    other, _ = draws(clips([30, 30], **change), cfg, seed=0 if change else 1)
    assert (t != other).mean() > 0.8


def test_a_clip_too_short_for_a_window_is_an_error():
    with pytest.raises(ValueError, match="A clip has 3 frames, a window needs 4"):
        cut_windows(clips([3]), WindowConfig(frame_stack=3), seed=0)


def test_a_single_step_window_shares_its_next_and_future_observation():
    window = cut_windows(clips([5]), WindowConfig(), seed=0)
    assert window.future_obs is window.next_obs


def test_pixels_go_from_bytes_to_minus_one_and_one():
    frames = torch.tensor([0, 255], dtype=torch.uint8).view(1, 2, 1, 1, 1).expand(1, 2, 1, 1, 3)
    zeros = torch.zeros(1, dtype=torch.long)
    obs = stack_frames(frames, zeros, zeros + 1, frame_stack=2)
    torch.testing.assert_close(obs.flatten(), torch.tensor([-1.0] * 3 + [1.0] * 3))


def test_windows_at_takes_the_frames_it_is_told():
    zeros = torch.zeros(2, dtype=torch.long)
    window = windows_at(clips([8]), zeros, torch.tensor([2, 3]), torch.tensor([4, 1]), 1)
    assert value(window.future_obs).flatten().tolist() == [6, 4]
