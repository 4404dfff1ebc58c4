"""Maps the paths of the page's requests to answers. Knows nothing of sockets."""

import mimetypes
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from lafp import storage
from lafp.storage import strict_json
from lafp.view.set_answers import SetAnswers
from lafp.view.stored_clips import MissingError, StoredClips
from lafp.view.viewed_sets import ViewedSet

_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, kw_only=True)
class Span:
    """Bytes of a stored file, which are sent as if they were a file of their own."""

    uri: str
    offset: int
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Holds what is sent for a request."""

    body: bytes | Span
    content_type: str


class Answers:
    """Answers requests about some shard sets."""

    def __init__(self, sets: Sequence[ViewedSet], title: str, reasons: Mapping[str, str]) -> None:
        self._title, self._reasons = title, reasons
        self._sets = [_OneSet(viewed) for viewed in sets]

    def answer(self, path: str, asked: Mapping[str, str]) -> Answer:
        """Answers one request.

        Args:
            path: Path of the URL, decoded, without the token.
            asked: Parameters of the URL.

        Raises:
            MissingError: There is nothing at this path.
            ValueError: A parameter is wrong.
            OSError: Storage does not answer.
        """
        for pattern, answer in _ROUTES.items():
            if found := re.fullmatch(pattern, path):
                return answer(self, found, asked)
        raise MissingError(f"There is nothing at {path!r}.")

    def _page(self, found: re.Match[str], _: Mapping[str, str]) -> Answer:
        name = found["name"] or "index.html"
        data = page_files().get(name)
        if data is None:
            raise MissingError(f"There is no {name!r}.")
        suffix = name[name.rindex(".") :]
        return Answer(body=data, content_type=f"{_TYPES[suffix]}; charset=utf-8")

    def _overview(self, found: re.Match[str], asked: Mapping[str, str]) -> Answer:
        sets = [each.answers.overview() for each in self._sets]
        return _json({"title": self._title, "reasons": dict(self._reasons), "sets": sets})

    def _data(self, found: re.Match[str], asked: Mapping[str, str]) -> Answer:
        answers = self._set(found["set"]).answers
        name, clip_id = found["name"], found["id"]
        if clip_id and name in _ABOUT_CLIPS:
            return _json(_ABOUT_CLIPS[name](answers, clip_id, asked))
        if not clip_id and name in _ABOUT_SETS:
            return _json(_ABOUT_SETS[name](answers, asked))
        raise MissingError(f"There is no {name!r}.")

    def _clip_video(self, found: re.Match[str], _: Mapping[str, str]) -> Answer:
        clips = self._set(found["set"]).stored_clips
        place = clips.location(found["shard"], found["id"])
        span = Span(
            uri=clips.shard_uri(found["shard"]),
            offset=place.video_offset,
            num_bytes=place.video_bytes,
        )
        return Answer(body=span, content_type="video/mp4")

    def _frame(self, found: re.Match[str], _: Mapping[str, str]) -> Answer:
        clips = self._set(found["set"]).stored_clips
        data = clips.frame(found["shard"], found["id"], int(found["number"]))
        return Answer(body=data, content_type="image/jpeg")

    def _reject_picture(self, found: re.Match[str], _: Mapping[str, str]) -> Answer:
        data = self._set(found["set"]).answers.reject_picture(int(found["row"]))
        if data is None:
            raise MissingError("The source video cannot be read from here.")
        return Answer(body=data, content_type="image/jpeg")

    def _reject_video(self, found: re.Match[str], _: Mapping[str, str]) -> Answer:
        uri = self._set(found["set"]).answers.reject(int(found["row"]))["video_uri"]
        if storage.is_http(uri) or not storage.is_file(uri):
            raise MissingError("The source video cannot be read from here.")
        kind = mimetypes.guess_type(uri)[0] or ""
        span = Span(uri=uri, offset=0, num_bytes=storage.num_bytes(uri))
        # Nothing but a video: a page of a stranger would run in the place of ours.
        video = kind if kind.startswith("video/") else "application/octet-stream"
        return Answer(body=span, content_type=video)

    def _set(self, number: str) -> "_OneSet":
        if int(number) >= len(self._sets):
            raise MissingError(f"There is no set {number}.")
        return self._sets[int(number)]


class _OneSet:
    def __init__(self, viewed: ViewedSet) -> None:
        self.stored_clips = StoredClips(viewed)
        self.answers = SetAnswers(viewed, self.stored_clips)


_ABOUT_SETS = {
    "clips": SetAnswers.clips,
    "rejects": SetAnswers.rejects,
    "facets": SetAnswers.facets,
}
_ABOUT_CLIPS = {"clip": SetAnswers.clip, "neighbours": SetAnswers.neighbours}
_ROUTES: dict[str, Callable[[Answers, re.Match[str], Mapping[str, str]], Answer]] = {
    r"(?P<name>[a-z_]+\.[a-z]+|)": Answers._page,
    r"api/sets": Answers._overview,
    r"api/(?P<set>\d{1,4})/(?P<name>[a-z]+)(/(?P<id>\w+))?": Answers._data,
    r"media/(?P<set>\d{1,4})/clip/(?P<shard>[^/]+)/(?P<id>\w+)\.mp4": Answers._clip_video,
    r"media/(?P<set>\d{1,4})/frame/(?P<shard>[^/]+)/(?P<id>\w+)/(?P<number>\d{1,6})\.jpg": (
        Answers._frame
    ),
    r"media/(?P<set>\d{1,4})/reject/(?P<row>\d{1,12})\.jpg": Answers._reject_picture,
    r"media/(?P<set>\d{1,4})/reject/(?P<row>\d{1,12})/video": Answers._reject_video,
}


@cache
def page_files() -> dict[str, bytes]:
    """Returns the files that the page is made of, by name."""
    folder = files("lafp.view").joinpath("pages")
    return {
        file.name: file.read_bytes()
        for file in folder.iterdir()
        if file.name[file.name.rfind(".") :] in _TYPES
    }


def _json(value: object) -> Answer:
    return Answer(body=strict_json.dumps(value).encode(), content_type="application/json")
