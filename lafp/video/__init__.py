"""Decodes source videos with decoders by name, and encodes and decodes the clips of shards."""

from typing import TYPE_CHECKING

from lafp.config.registry import Registry
from lafp.video.clip_codec import EncodeConfig, decode_clip, encode_clip

if TYPE_CHECKING:
    from lafp.video.decoders.base import VideoDecoder

VIDEO_DECODERS: Registry["VideoDecoder"] = Registry(
    "video decoder",
    {
        "decord": "lafp.video.decoders.decord:DecordDecoder",
        "pyav": "lafp.video.decoders.pyav:PyAVDecoder",
        "torchcodec": "lafp.video.decoders.torchcodec:TorchCodecDecoder",
    },
)

__all__ = ["VIDEO_DECODERS", "EncodeConfig", "decode_clip", "encode_clip"]
