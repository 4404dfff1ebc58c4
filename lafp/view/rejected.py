"""Pictures of rejected spans, decoded from their sources by another process, a few at a time."""

import io
import threading
import traceback
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future

from PIL import Image

from lafp.report.reject_pictures import reject_pictures
from lafp.storage.stored_table import StoredTable

SIDE_PX = 320
_AT_ONCE, _KEPT = 8, 1024
_COLUMNS = ("video_uri", "start_s", "end_s")


class RejectPictures:
    """Makes pictures of the rows of ``rejects.parquet``. Threads may share it.

    A thread decodes the rows that wait, several at a time, because the start of the process that
    decodes takes longer than most pictures.
    """

    def __init__(self, table: StoredTable) -> None:
        self._table = table
        self._pictures: OrderedDict[int, Future[bytes | None]] = OrderedDict()
        self._waiting: list[int] = []
        self._lock = threading.Lock()
        self._is_decoding = False

    def prepare(self, rows: Sequence[int]) -> None:
        """Starts to decode pictures that will be asked for, the first one first."""
        with self._lock:
            missing = [row for row in rows if row not in self._pictures]
            self._pictures.update((row, Future()) for row in missing)
            # The page that was opened last goes first: earlier ones may have been left.
            self._waiting = missing + self._waiting
            if not self._waiting or self._is_decoding:
                return
            self._is_decoding = True
        threading.Thread(target=self._decode_all, name="pictures", daemon=True).start()

    def picture(self, row: int) -> bytes | None:
        """Returns the middle frame of a span as JPEG; None if its video cannot be reached."""
        while True:
            self.prepare([row])
            with self._lock:
                made = self._pictures.get(row)
            if made is not None:  # else it was the oldest of very many, and is decoded again
                return made.result()

    def _decode_all(self) -> None:
        while True:
            with self._lock:
                rows, self._waiting = self._waiting[:_AT_ONCE], self._waiting[_AT_ONCE:]
                if not rows:
                    self._is_decoding = False
                    return
            found: dict[int, bytes] = {}
            try:
                found = self._decode(rows)
            except BaseException:
                # Such as a full disk: these rows have no picture, the next may have. A thread that
                # ended here would leave all who ask waiting for ever.
                traceback.print_exc()
            self._keep(rows, found)

    def _decode(self, rows: Sequence[int]) -> dict[int, bytes]:
        found = {}
        rejects = self._table.take(rows, _COLUMNS)
        for index, pixels in reject_pictures(rejects, SIDE_PX).items():
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "jpeg", quality=88)
            found[rows[index]] = buffer.getvalue()
        return found

    def _keep(self, rows: Sequence[int], found: dict[int, bytes]) -> None:
        with self._lock:
            for row in rows:
                self._pictures[row].set_result(found.get(row))
            while len(self._pictures) > _KEPT and next(iter(self._pictures.values())).done():
                self._pictures.popitem(last=False)
