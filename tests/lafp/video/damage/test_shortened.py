"""Which pieces of a key frame are decoded once more."""

from lafp.video.damage.shortened import LEFT_OUT_BYTES, to_shorten


def test_at_most_eight_pieces_are_chosen_and_they_are_spread():
    for num in range(300):
        chosen = to_shorten(range(num), lambda _: 1000)
        assert min(num, 4) <= len(chosen) <= 8
        assert len(chosen) == num or max(chosen) >= 3 * num // 4


def test_pieces_that_are_too_short_to_lose_their_end_are_left_out():
    sizes = [10, 2 * LEFT_OUT_BYTES, 2 * LEFT_OUT_BYTES + 1, 9999]
    assert list(to_shorten(sizes, lambda size: size)) == sizes[2:]
