"""Cuts long videos into pieces that any number of machines can process one by one.

A piece is always decoded from a key frame before its start, whether one task processes all pieces
or every piece has a task of its own. So the result does not depend on how the work is divided, even
though a decoder carries signs of damage along, and filters look back at earlier frames.
"""

import math

from data_pipelines.preprocess.clip.resample import JITTER
from data_pipelines.preprocess.clip.split_clips import ClipConfig, frames_per_clip

Span = tuple[float, float]


def piece_spans(duration_s: float, fps: float, piece_s: float, cfg: ClipConfig) -> list[Span]:
    """Computes spans of about ``piece_s`` that touch each other and cover the video.

    The spans begin where clips of an undamaged video begin, so cutting a video into pieces makes no
    clip shorter: piece j begins at tick j m n, where n is the ticks per clip and m the clips per
    piece.

    Args:
        duration_s: Duration of the video.
        fps: Rate of the clips.
        piece_s: Intended length. Videos shorter than 1.5 times this are one piece.
        cfg: Lengths of clips.
    """
    # These numbers are those of `split_clips`, so that pieces begin where its clips begin.
    num_ticks = math.ceil(duration_s * fps - JITTER)
    clip_ticks = frames_per_clip(num_ticks, fps, cfg)
    piece_ticks = clip_ticks * max(1, round(piece_s * fps / clip_ticks))
    num_pieces = max(1, round(num_ticks / piece_ticks))
    starts_s = [piece * piece_ticks / fps for piece in range(num_pieces)]
    return list(zip(starts_s, [*starts_s[1:], duration_s], strict=True))
