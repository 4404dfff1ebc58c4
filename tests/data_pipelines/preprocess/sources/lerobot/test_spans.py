"""Which frames are whose: whatever the index says, no episode gets a frame of another one."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.preprocess.sources.lerobot.spans import Place, place_episodes
from lafp.video.decoders.arrays import pictures_info

FPS = 10.0


def file_of(num_frames, fps=FPS):
    return pictures_info(num_frames, 64, 64, fps, codec="h264")


def spans_of(lengths, drift_s=0.0, fps=FPS):
    """The index that LeRobot writes: sums of durations that are each ``drift_s`` too long."""
    spans, from_s = [], 0.0
    for episode, length in enumerate(lengths):
        to_s = from_s + length / fps + drift_s
        spans.append({"episode": episode, "length": length, "from_s": from_s, "to_s": to_s})
        from_s = to_s
    return spans


def firsts(lengths):
    return np.concatenate([[0], np.cumsum(lengths)])[:-1].tolist()


def in_words(found):
    return [place.detail if not isinstance(place, Place) else place for place in found]


LENGTHS = st.lists(st.integers(3, 40), min_size=1, max_size=12)


@settings(deadline=None)
@given(LENGTHS, st.floats(-0.045, 0.045))
def test_a_clock_that_drifts_moves_no_frame(lengths, drift_s):
    found = place_episodes(spans_of(lengths, drift_s), file_of(sum(lengths)))
    expected = [Place(f, n) for f, n in zip(firsts(lengths), lengths, strict=True)]
    assert found == expected


@settings(max_examples=200, deadline=None)
@given(
    lengths=LENGTHS,
    drift_s=st.sampled_from([0.0, 0.0, 0.004, -0.004, 0.02, -0.03]),
    unlisted=st.sets(st.integers(0, 11), max_size=4),
    moved=st.dictionaries(st.integers(0, 11), st.floats(-5, 5), max_size=2),
    swapped=st.booleans(),
    lost=st.integers(-2, 2),
    at=st.integers(0, 400),
)
def test_a_wrong_index_never_gives_frames_of_a_neighbour(
    lengths, drift_s, unlisted, moved, swapped, lost, at
):
    """Episodes that are not listed, moved spans, or frames lost or added somewhere in the file.

    One of these at a time: nothing but the pictures could tell where a file lost frames of which
    it has too many for its index.
    """
    moved = {} if swapped or unlisted else moved
    lost = 0 if moved or unlisted else lost
    at %= sum(lengths)
    owner = [e for e, length in enumerate(lengths) for _ in range(length)]
    number = [t for length in lengths for t in range(length)]
    if lost < 0:
        del owner[at : at - lost], number[at : at - lost]
    owner[at:at], number[at:at] = [owner[min(at, len(owner) - 1)]] * lost, [-1] * lost
    spans = [span for span in spans_of(lengths, drift_s) if span["episode"] not in unlisted]
    for i, by_s in moved.items():
        if i < len(spans):
            spans[i] |= {"from_s": spans[i]["from_s"] + by_s, "to_s": spans[i]["to_s"] + by_s}
    if swapped and len(spans) > 1:
        spans[0]["episode"], spans[1]["episode"] = spans[1]["episode"], spans[0]["episode"]
    spans.sort(key=lambda span: span["from_s"])
    for span, place in zip(spans, place_episodes(spans, file_of(len(owner))), strict=True):
        if isinstance(place, Place) and place.num_frames == span["length"]:
            frames = slice(place.first, place.first + place.num_frames)
            assert owner[frames] == [span["episode"]] * span["length"], spans
            assert number[frames] == list(range(span["length"])), spans


def test_what_cannot_be_placed_says_why():
    good = spans_of([30, 40, 20])
    overlapping = [good[0], good[1] | {"from_s": 2.0, "to_s": 6.0}, good[2]]
    found = in_words(place_episodes(overlapping, file_of(90)))
    assert found[0] == found[1] and "episode 1 from 2.000 to 6.000 s overlaps episode 0" in found[0]
    assert found[2] == Place(70, 20)
    longer = [good[0], good[1] | {"length": 43}, good[2]]
    found = in_words(place_episodes(longer, file_of(90)))
    assert "which is 40.0 frames, but its length is 43" in found[1]
    found = in_words(place_episodes(good, file_of(93)))
    assert found == 3 * ["its file has 93 frames, but its episodes end at frame 90"]
    nowhere = [good[0] | {"from_s": None}, good[1]]
    assert "no from_timestamp" in in_words(place_episodes(nowhere, file_of(90)))[0]
    swapped = [good[0] | {"episode": 1}, good[1] | {"episode": 0}]
    assert "lies behind" in in_words(place_episodes(swapped, file_of(70)))[0]


def test_a_file_that_was_cut_off_keeps_what_is_there():
    found = place_episodes(spans_of([20, 33, 27]), file_of(50))
    assert found[:2] == [Place(0, 20), Place(20, 30)]
    assert found[2].reason == "no_frames"
    few_lost = replace(file_of(79), declared_duration_s=8.0)
    assert place_episodes(spans_of([20, 33, 27]), few_lost)[2] == Place(53, 26)


@pytest.mark.parametrize("first_pts_s", [0.0, 0.07, 1.4])
def test_a_file_whose_clock_starts_late(first_pts_s):
    info = replace(file_of(60), first_pts_s=first_pts_s)
    assert place_episodes(spans_of([30, 30]), info) == [Place(0, 30), Place(30, 30)]
    own_clock = [
        span | {"from_s": span["from_s"] + first_pts_s, "to_s": span["to_s"] + first_pts_s}
        for span in spans_of([30, 30])
    ]
    assert place_episodes(own_clock, info) == [Place(0, 30), Place(30, 30)]


def test_of_two_episodes_the_first_may_be_missing_in_the_index():
    assert place_episodes(spans_of([30, 40])[1:], file_of(70)) == [Place(30, 40)]
    drifted = spans_of(20 * [30], drift_s=0.004)
    found = place_episodes([span for span in drifted if span["episode"] != 3], file_of(600))
    assert [p for p in found if isinstance(p, Place)][:3] == [Place(30 * i, 30) for i in range(3)]
    assert all("nearest frame" in p.detail for p in found if not isinstance(p, Place))
