"""Pictures of rejects that many threads ask for at the same time."""

import io
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lafp.storage.stored_table import StoredTable
from lafp.view import rejected
from lafp.view.rejected import RejectPictures
from tests.synthetic_video import numbered, write_video


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Spans of one video that shows its number, and one of a video that is gone."""
    folder = tmp_path_factory.mktemp("rejects")
    video = write_video(folder / "numbers.mp4", numbered(30))
    uris = [str(video)] * 9 + [str(folder / "gone.mp4")]
    starts = [0.2 * number for number in range(10)]
    columns = {"video_uri": uris, "start_s": starts, "end_s": [s + 0.2 for s in starts]}
    pq.write_table(pa.table(columns), folder / "rejects.parquet")
    return StoredTable({"rejects": folder / "rejects.parquet"})


def test_each_thread_gets_the_picture_of_its_row(table):
    pictures = RejectPictures(table)
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(pictures.picture, [*range(10), *range(10)]))
    assert found[9] is None and found[:10] == found[10:]
    sizes = {Image.open(io.BytesIO(data)).size for data in found[:9]}
    assert sizes == {(64, 32)} and len(set(found[:9])) > 5


def test_pictures_that_were_dropped_are_made_again(table, monkeypatch):
    monkeypatch.setattr(rejected, "_KEPT", 2)
    pictures = RejectPictures(table)
    pictures.prepare(range(6))
    first = pictures.picture(5)
    assert pictures.picture(0) and pictures.picture(5) == first


def test_a_decoding_that_is_ended_leaves_nobody_waiting(table, monkeypatch):
    def ended(*_):
        monkeypatch.undo()
        raise SystemExit

    monkeypatch.setattr(rejected, "reject_pictures", ended)
    pictures = RejectPictures(table)
    assert pictures.picture(0) is None
    assert pictures.picture(1) is not None
