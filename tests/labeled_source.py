"""What `preprocess` makes of a labeled source, without Ray."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from data_pipelines.preprocess.clip.labels.read import LabelsConfig
from data_pipelines.preprocess.clip.resize import ResizeConfig
from data_pipelines.preprocess.clip.split_clips import ClipConfig
from data_pipelines.preprocess.clip.video_to_clips import video_to_clips
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.job import list_inputs
from data_pipelines.preprocess.manifest import check_accounts
from data_pipelines.preprocess.rejects import RejectRow
from data_pipelines.preprocess.rows import EncodedClip, ItemRows, Row, VideoItem, VideoRow
from data_pipelines.preprocess.shards import read_part, write_part
from lafp.storage import strict_json
from lafp.video import VIDEO_DECODERS, EncodeConfig
from tests.selecting import kept_clips, rejects_of, select_items

CFG = PreprocessConfig(
    name="labeled",
    labels=LabelsConfig(),
    clip=ClipConfig(fps=None, max_s=60.0, min_frames=4),
    resize=ResizeConfig(width_px=64, height_px=32),
    encode=EncodeConfig(crf=4),
    val_fraction=0.5,
)


def rows_of(cfg: PreprocessConfig) -> Iterator[Iterator[Row]]:
    """Whatever comes of each input; items go through JSON, as in the job."""
    cls = VIDEO_DECODERS.get("pyav")
    decoder = cls(cls.Config())
    items = list(list_inputs(cfg))
    assert len({item.uri for item in items}) == len(items)
    for item in items:
        stored = strict_json.loads(VideoItem, strict_json.dumps(item))
        assert stored == item
        yield video_to_clips(stored, cfg, decoder)


def go_through(cfg: PreprocessConfig) -> tuple[list[EncodedClip], list[RejectRow]]:
    """Clips and rejects of all inputs."""
    rows = list(chain.from_iterable(rows_of(cfg)))
    uris = [row.uri for row in rows if isinstance(row, VideoRow)]
    assert len(set(uris)) == len(uris)
    clips = [row for row in rows if isinstance(row, EncodedClip)]
    return clips, [row for row in rows if isinstance(row, RejectRow)]


def select(cfg: PreprocessConfig, folder: Path) -> ItemRows:
    """What the whole source comes to, its seconds accounted for."""
    folder.mkdir(exist_ok=True)
    part = "000000/part-000000.tar"
    write_part(rows_of(cfg), str(folder), part)
    items = read_part(str(folder), part.removesuffix(".tar"))
    for item in items:
        check_accounts(item)
    found = select_items(cfg, items, folder)
    clips, rejects = tuple(kept_clips(found)), tuple(rejects_of(found))
    videos = tuple(video for item in items for video in item.videos)
    selected = ItemRows(videos=videos, clips=clips, rejects=rejects)
    check_accounts(selected)
    return selected
