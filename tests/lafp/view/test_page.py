"""The page of `lafp view` in a real browser: what a user sees, clicks and types."""

import json

import pytest

from tests.browser import browsing
from tests.lafp.view.conftest import EVIL, NUM_CLIPS

TILES = "document.querySelectorAll('.list.clips:not(.waiting) > .tile')"
SEARCH = """
const box = document.querySelector('input[name=search]');
box.value = {text};
box.dispatchEvent(new Event('input'));
"""


@pytest.fixture(scope="module")
def page():
    with browsing() as page:
        yield page


@pytest.fixture
def opened(page, served):
    """Opens a place of the page anew. Ends with a look at what the browser complained about."""
    page.failures.clear()
    page.requests.clear()

    def open_(place: str = "", width: int = 1300):
        page.open("about:blank")
        page.open(f"{served.url}#{place}", width=width)
        page.wait("document.querySelector('h1')")
        return page

    yield open_
    # Chromium draws the controls of a video with pictures in data URLs.
    ours = ("about:", "data:", served.url)
    asked = [url for url in page.requests if not url.startswith(ours)]
    assert not asked, "the page asked for something else"


def test_one_filters_opens_a_clip_and_sees_it_play(opened, clip_rows):
    page = opened()
    page.wait(f"{TILES}.length == {NUM_CLIPS}")
    page.wait(f"[...{TILES}].every(tile => tile.querySelector('img').naturalWidth)")
    page.run(SEARCH.format(text=json.dumps("<script>")))
    page.wait(f"{TILES}.length == 1")
    assert page.run("document.querySelector('.total').textContent") == "1 clip"
    assert page.run("document.querySelector('.tile .name').textContent") == EVIL
    page.run(f"{TILES}[0].click()")
    page.wait("document.querySelector('#video').readyState >= 2")
    clip = clip_rows[3]
    duration = page.run("document.querySelector('#video').duration")
    assert duration == pytest.approx(clip["num_frames"] / clip["fps"], abs=0.05)
    page.run("window.seen = document.querySelector('#video').currentTime")
    page.wait("document.querySelector('#video').currentTime != window.seen")
    assert page.run("document.querySelector('#video').videoWidth") == clip["width_px"]
    # The name of the video was shown everywhere, and is nowhere an element.
    assert page.run("document.title") == "videos · lafp view"
    assert EVIL in page.run("document.body.innerText")
    assert page.run("document.querySelectorAll('main script, main [onerror]').length") == 0
    assert page.failures == []


def test_a_clip_shows_frames_curves_neighbours_and_its_dropped_copy(opened, clip_rows):
    page = opened(f"/0/clip/{clip_rows[3]['clip_id']}")
    page.wait("document.querySelectorAll('.neighbours .pair-tile').length > 4")
    titles = page.run("[...document.querySelectorAll('h3')].map(h => h.textContent)")
    assert titles == [
        "Its video",
        "Frames",
        "Motion",
        "true action",
        "Nearest latent actions (steps)",
        "Near-duplicates of it that were dropped",
    ]
    assert page.run("document.querySelectorAll('.small-curves .curve svg').length") >= 2
    page.run("document.querySelectorAll('.frames button')[4].click()")
    page.wait("document.querySelector('.frame-number').textContent.startsWith('frame 4 of')")
    assert page.run("document.querySelector('#video').paused")
    assert page.failures == []


def test_the_next_clip_of_the_list_is_one_key_away(opened, clip_rows):
    page = opened("/0/clips?sort=motion&order=desc")
    page.wait(f"{TILES}.length == {NUM_CLIPS}")
    page.run(f"{TILES}[1].click()")
    page.wait("document.querySelector('.steps')")
    page.run("dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}))")
    page.wait("document.querySelector('.steps').textContent.includes('3 of 12')")
    assert clip_rows[-3]["clip_id"] in page.run("location.hash")
    assert page.run("document.querySelector('.steps a').hash").startswith("#/0/clips?sort=motion")


def test_the_way_back_from_a_clip_ends_where_the_list_was_left(opened):
    page = opened("/0/clips", width=400)
    page.wait(f"{TILES}.length == {NUM_CLIPS}")
    page.run("scrollTo(0, 500)")
    page.run(f"{TILES}[6].click()")
    page.wait("document.querySelector('.clip') && scrollY == 0")
    page.run("history.back()")
    page.wait("document.querySelector('.list.clips') && scrollY == 500")


def test_two_fields_that_are_typed_in_at_once_both_count(opened):
    page = opened("/0/clips")
    page.wait(f"{TILES}.length == {NUM_CLIPS}")
    page.run(
        "for (const [edge, value] of [['min', 0.05], ['max', 0.08]]) {"
        "const box = document.querySelector(`[aria-label='Motion, ${edge}']`);"
        "box.value = value; box.dispatchEvent(new Event('input')); }"
    )
    page.wait(f"{TILES}.length == 4")
    page.run("document.querySelector('.clear').click()")
    page.wait(f"{TILES}.length == {NUM_CLIPS}")


def test_rejects_are_chosen_by_reason_and_their_source_plays(opened):
    page = opened("/0/rejects")
    page.wait("document.querySelectorAll('.reject').length == 4")
    assert "<b>not</b>" in page.run("document.querySelector('main').innerText")
    page.run("document.querySelector('[data-reason=static]').click()")
    page.wait("document.querySelectorAll('.reject').length == 1")
    assert page.run("location.hash") == "#/0/rejects?reason=static"
    page.wait("document.querySelector('.reject img').naturalWidth > 0")
    page.run("document.querySelector('.reject .play').click()")
    page.wait("document.querySelector('.reject video').currentTime > 0")
    page.run("document.querySelector('[data-reason=dark]').click()")
    page.wait("document.querySelector('.reject .none')?.textContent == 'no picture'")


def test_both_videos_of_a_near_duplicate_play_side_by_side(opened):
    page = opened("/0/pairs")
    page.wait("document.querySelector('.pair .both')")
    page.run("document.querySelector('.pair .both').click()")
    page.wait(
        "[...document.querySelectorAll('.pair video')].filter(v => v.currentTime > 0).length == 2"
    )
    # The source plays from where the dropped span begins.
    assert page.run("document.querySelector('.pair .source video').currentTime") >= 2


def test_a_neighbour_opens_at_its_frame(opened, clip_rows):
    page = opened(f"/0/clip/{clip_rows[0]['clip_id']}")
    page.wait("document.querySelectorAll('.neighbours .pair-tile').length > 4")
    page.run("document.querySelectorAll('.pair-tile')[2].click()")
    page.wait("location.hash.includes('?at=')")
    frame = page.run("location.hash.split('?at=')[1]")
    page.wait(
        "document.querySelector('#video').paused && "
        f"document.querySelector('.frame-number').textContent.startsWith('frame {frame} of')"
    )


@pytest.mark.parametrize("place", ["/0/clips", "/0/rejects", "/0/pairs", "/0/clip"])
def test_nothing_is_wider_than_a_telephone(opened, clip_rows, place):
    page = opened(f"{place}/{clip_rows[3]['clip_id']}" if place == "/0/clip" else place, width=400)
    page.wait("document.querySelector('.list:not(.waiting) > *, .clip')")
    assert page.run("document.documentElement.scrollWidth") == 400


@pytest.mark.parametrize("place", ["/0/clip/no_such_clip", "/0/clips?sort=no_such"])
def test_what_cannot_be_shown_is_said_on_the_page(opened, place):
    page = opened("/0/clips")
    page.wait(f"{TILES}.length == {NUM_CLIPS}")
    page.run(f"location.hash = {json.dumps(place)}")
    page.wait("document.querySelector('.note.warning').textContent.includes('no_such')")
