"""Decodes source videos with decoders by name, and encodes and decodes the clips of shards."""

from lafp.config.registry import Registry
from lafp.video.clip_codec import EncodeConfig, decode_clip, encode_clip

VIDEO_DECODERS = Registry(
    "video decoder",
    {
        "decord": "lafp.video.decoders.decord:DecordDecoder",
        "pyav": "lafp.video.decoders.pyav:PyAVDecoder",
    },
)

__all__ = ["VIDEO_DECODERS", "EncodeConfig", "decode_clip", "encode_clip"]
