"""Time from made-up packets: every second that they hold is there once, and no other."""

import itertools
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.preprocess.clip.resample import Cut, resample
from data_pipelines.preprocess.clip.split_clips import ClipConfig, split_clips
from lafp.video.decoders.base import DamagedSpan, DecodedFrame, measure_rate
from lafp.video.timeline import NO_STAMP, FrameClock, Stamps, Timeline, TrustedPts, lay_out

TICKS_PER_S = 90_000
STEP = 3000


@dataclass
class Made:
    """Packets in the order of decoding."""

    pts: list[int] = field(default_factory=list)
    dts: list[int] = field(default_factory=list)
    is_key: list[bool] = field(default_factory=list)
    shown_order: list[int] = field(default_factory=list)
    """Numbers of the packets in the order of presentation."""
    sizes: list[int] = field(default_factory=list)
    """How many packets each recording has."""
    num_ticks: int = 0
    """How long all of them are."""

    @property
    def parts(self) -> list[list[int]]:
        """The packets of each recording, in the order of presentation."""
        ends = np.cumsum([0, *self.sizes]).tolist()
        return [self.shown_order[low:high] for low, high in itertools.pairwise(ends)]

    def add(self, starts_at: int, gops: list[list[int]], steps: list[int]) -> None:
        """Adds a recording.

        Args:
            starts_at: Its clock's first value.
            gops: Of each group of pictures the order of decoding, the key frame (0) first.
            steps: How long frames are shown, over and over.
        """
        num_frames = sum(len(gop) for gop in gops)
        at = starts_at + np.cumsum([0, *itertools.islice(itertools.cycle(steps), num_frames)])
        first, begin = len(self.pts), 0
        for gop in gops:
            self.pts += [int(at[begin + place]) for place in gop]
            self.is_key += [place == 0 for place in gop]
            self.shown_order += [first + begin + gop.index(place) for place in range(len(gop))]
            begin += len(gop)
        delay = 4 * max(steps)
        self.dts += [int(value) - delay for value in at[:-1]]
        self.sizes.append(num_frames)
        self.num_ticks += int(at[-1] - at[0])

    def stamps(self, pts: list[int] | None = None, dts: list[int] | None = None) -> Stamps:
        return Stamps(
            pts=np.array(self.pts if pts is None else pts),
            dts=np.array(self.dts if dts is None else dts),
            duration=np.full(len(self.pts), STEP),
            is_key=np.array(self.is_key),
            time_base=(1, TICKS_PER_S),
        )


def laid_out(stamps: Stamps, trusted_pts: TrustedPts = "all", can_jump: bool = True) -> Timeline:
    return lay_out(
        stamps, trusted_pts=trusted_pts, can_jump=can_jump, otherwise_step_s=STEP / TICKS_PER_S
    )


def times_of(
    made: Made, stamps: Stamps, timeline: Timeline, lost: Collection[int] = ()
) -> dict[int, float | None]:
    """What the clock says of the frames that a decoder gives, {packet: seconds}."""
    clock = FrameClock(timeline)
    for _ in made.pts:
        clock.sent(True)
    found = {}
    for packet in made.shown_order:
        if packet not in lost:
            pts = int(stamps.pts[packet])
            time_s = clock.time_s(packet, None if pts == NO_STAMP else pts, made.is_key[packet])
            found[packet] = time_s
    return found


@st.composite
def gops(draw) -> list[list[int]]:
    """Orders of decoding: after the key frame, runs of frames whose last one comes first."""
    orders = []
    for _ in range(draw(st.integers(1, 4))):
        order, shown = [0], 1
        for num_b in draw(st.lists(st.integers(0, 3), max_size=4)):
            order += [shown + num_b, *range(shown, shown + num_b)]
            shown += num_b + 1
        orders.append(order)
    return orders


even = st.just([STEP])
uneven = st.lists(st.integers(1000, 60_000), min_size=1, max_size=7)


@st.composite
def recordings(draw, steps=even, max_num: int = 3) -> Made:
    """One or more, whose clocks start anywhere: each behind the one before or far ahead of it."""
    made = Made()
    clock = draw(st.integers(0, 10**9))
    for _ in range(draw(st.integers(1, max_num))):
        made.add(clock, draw(gops()), draw(steps))
        if draw(st.booleans()):
            clock = made.dts[-1] + draw(st.integers(60, 10**6)) * TICKS_PER_S
        else:
            clock = made.pts[made.parts[-1][0]] - draw(st.integers(2, 10**4)) * TICKS_PER_S
    return made


@settings(deadline=None)
@given(recordings(steps=uneven))
def test_frames_follow_each_other_whatever_their_clocks_say(made):
    stamps = made.stamps()
    timeline = laid_out(stamps)
    assert len(timeline.recordings) == len(made.sizes)
    found = times_of(made, stamps, timeline)
    times_s = [found[packet] for packet in made.shown_order]
    assert times_s == pytest.approx(timeline.times_s.tolist(), abs=1e-6)
    assert times_s[0] == pytest.approx(0, abs=1e-9)
    last_s = None
    for part in made.parts:
        stamped_s = np.array([made.pts[packet] for packet in part]) / TICKS_PER_S
        part_s = [found[packet] for packet in part]
        assert np.diff(part_s) == pytest.approx(np.diff(stamped_s), abs=1e-6)
        if last_s is not None:
            assert part_s[0] - last_s == pytest.approx(STEP / TICKS_PER_S, abs=1e-6)
        last_s = part_s[-1]


@settings(deadline=None)
@given(recordings(), st.data())
def test_missing_stamps_are_made_up_from_the_order_of_frames(made, data):
    """As in program streams: only some packets have stamps, and each recording's first one."""
    firsts = set(np.cumsum([0, *made.sizes]).tolist())
    keeps = [
        packet in firsts or data.draw(st.booleans(), label=f"packet {packet} is stamped")
        for packet in range(len(made.pts))
    ]
    pts = [p if keep else NO_STAMP for p, keep in zip(made.pts, keeps, strict=True)]
    dts = [d if keep else NO_STAMP for d, keep in zip(made.dts, keeps, strict=True)]
    stamps = made.stamps(pts, dts)
    found = times_of(made, stamps, laid_out(stamps))
    expected_s = np.arange(len(made.pts)) * STEP / TICKS_PER_S
    assert [found[p] for p in made.shown_order] == pytest.approx(expected_s.tolist(), abs=1e-6)


@settings(deadline=None)
@given(recordings(max_num=1), st.booleans(), st.data())
def test_without_presentation_times_frames_are_even_and_a_key_frame_puts_losses_right(
    made, has_dts, data
):
    """As in elementary streams and AVI. A lost frame shifts others up to the next key frame."""
    nothing = [NO_STAMP] * len(made.pts)
    stamps = made.stamps(nothing, None if has_dts else nothing)
    timeline = laid_out(stamps, trusted_pts="none")
    expected_s = {p: place * STEP / TICKS_PER_S for place, p in enumerate(made.shown_order)}
    assert times_of(made, stamps, timeline) == pytest.approx(expected_s, abs=1e-6)
    lost = data.draw(st.sets(st.sampled_from(made.shown_order)), label="lost")
    found = times_of(made, stamps, timeline, lost)
    keys = {packet: time_s for packet, time_s in found.items() if made.is_key[packet]}
    assert keys == pytest.approx({packet: expected_s[packet] for packet in keys}, abs=1e-6)
    assert list(found.values()) == sorted(found.values())


@settings(deadline=None)
@given(recordings(steps=uneven), st.data())
def test_every_second_of_the_packets_is_in_exactly_one_clip_or_cut(made, data):
    stamps = made.stamps()
    timeline = laid_out(stamps)
    found = times_of(made, stamps, timeline)
    starts = {recording.first_packet for recording in timeline.recordings[1:]}
    events = []
    for packet in made.shown_order:
        if packet in starts:
            events.append(DamagedSpan(found[packet], found[packet], "another recording begins"))
        pixels = np.zeros((1, 1, 3), np.uint8)
        events.append(DecodedFrame(found[packet], lambda pixels=pixels: pixels))
    source_fps, _ = measure_rate(np.unique(timeline.times_s), None)
    duration_s = float(timeline.times_s[-1]) + timeline.last_frame_s
    cfg = ClipConfig(
        fps=data.draw(st.sampled_from([1.0, 7.0, 10.0, 50.0]), label="fps"),
        max_s=data.draw(st.sampled_from([2.0, 10.0]), label="max_s"),
        max_hold_s=data.draw(st.sampled_from([0.1, 2.0]), label="max_hold_s"),
        min_frames=2,
    )
    ticks = resample(
        events,
        fps=cfg.fps,
        source_fps=source_fps,
        duration_s=duration_s,
        max_hold_s=cfg.max_hold_s,
    )
    covered_s = 0.0
    joints_s = [found[packet] for packet in starts]
    for span in split_clips(ticks, cfg.fps, duration_s, cfg, lambda pixels: pixels):
        assert span.start_s == pytest.approx(covered_s, abs=1e-6)
        assert span.end_s >= span.start_s
        covered_s = span.end_s
        if not isinstance(span, Cut):
            assert not any(span.start_s + 1e-6 < s < span.end_s - 1e-6 for s in joints_s)
    assert covered_s == pytest.approx(duration_s, abs=1e-6)
    # The last frame of each recording ends as its packet says, the others with the next one.
    missing_s = made.num_ticks / TICKS_PER_S - duration_s
    assert abs(missing_s) <= len(made.sizes) * 60_000 / TICKS_PER_S


def test_a_frame_that_stays_for_long_is_no_jump_of_the_clock():
    """Decoding times jump later than presentation times, where frames are reordered."""
    pts = [0, 3, 1, 2, 606, 604, 605]
    stamps = Stamps(
        pts=np.array(pts),
        dts=np.array([-3, -2, 0, 1, 2, 3, 604]),
        duration=np.ones(7, int),
        is_key=np.arange(7) == 0,
        time_base=(1, 1),
    )
    timeline = laid_out(stamps)
    assert len(timeline.recordings) == 1
    assert timeline.times_s.tolist() == sorted(pts)


def test_only_clocks_of_broadcasts_jump_but_no_clock_by_a_day():
    made = Made()
    made.add(0, [[0, 1, 2]], [STEP])
    made.add(3600 * TICKS_PER_S, [[0, 1, 2]], [STEP])
    assert len(laid_out(made.stamps(), can_jump=False).recordings) == 1
    assert len(laid_out(made.stamps(), can_jump=True).recordings) == 2
    made.add(10**6 * TICKS_PER_S, [[0, 1, 2]], [STEP])
    assert len(laid_out(made.stamps(), can_jump=False).recordings) == 2


@settings(deadline=None)
@given(
    st.sampled_from([12.0, 24000 / 1001, 25.0, 30000 / 1001, 30.0, 60.0]),
    st.integers(30, 2000),
    st.data(),
)
def test_dropped_frames_do_not_change_the_rate_of_a_clock_in_milliseconds(fps, num_frames, data):
    dropped = data.draw(st.sets(st.integers(1, num_frames - 2), max_size=num_frames // 10))
    places = np.array([place for place in range(num_frames) if place not in dropped])
    times_s = np.round(places / fps, 3)
    assert measure_rate(times_s, fps)[0] == fps
    assert measure_rate(times_s, None)[0] == pytest.approx(fps, rel=0.002)
    assert measure_rate(times_s, 1000.0)[0] == pytest.approx(fps, rel=0.002)
