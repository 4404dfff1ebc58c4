"""Cut long videos into pieces that can be gone through one by one, on any number of machines.

A piece is decoded from a key frame before its start on, whether one task goes through all pieces
or every piece has a task of its own. So nothing depends on how the work is dealt out: not under
damage, whose signs a decoder carries along, and not with anything else that looks back.
"""

import math

from data_pipelines.preprocess.clip.resample import JITTER
from data_pipelines.preprocess.clip.split_clips import ClipConfig, frames_per_clip

Span = tuple[float, float]


def piece_spans(duration_s: float, fps: float, piece_s: float, cfg: ClipConfig) -> list[Span]:
    """Spans that touch and cover the video, of about ``piece_s`` each.

    They begin where clips of a sound video begin, so cutting a video into pieces makes no clip
    shorter: piece j begins at tick j m n, where n is the ticks per clip and m the clips per piece.

    Args:
        duration_s: Of the video.
        fps: Of the clips.
        piece_s: Length to aim at; videos shorter than 1.5 of it are one piece.
        cfg: Lengths of clips.
    """
    num_ticks = math.ceil(duration_s * fps - JITTER)
    clip_ticks = frames_per_clip(num_ticks, fps, cfg)
    piece_ticks = clip_ticks * max(1, round(piece_s * fps / clip_ticks))
    num_pieces = max(1, round(num_ticks / piece_ticks))
    starts_s = [piece * piece_ticks / fps for piece in range(num_pieces)]
    return list(zip(starts_s, [*starts_s[1:], duration_s], strict=True))
