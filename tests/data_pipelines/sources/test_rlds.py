"""RLDS: the real file against its own episodes, and small ones written here."""

import io
import struct
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from data_pipelines.sources.tfrecord import masked_crc32c, parse_example, read_records
from data_pipelines.stages.resize import ResizeConfig
from lafp import storage
from lafp.video import EncodeConfig, decode_clip
from lafp.video.decoder import VideoError
from tests.labeled_source import CFG, go_through, select
from tests.synthetic_video import moving_square, number_of, numbered

LOSSLESS = EncodeConfig(crf=0, pixel_format="yuv444p")


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def feature(values) -> bytes:
    if isinstance(values, list):
        return field(1, b"".join(field(1, value) for value in values))
    if values.dtype.kind == "f":
        return field(2, field(1, values.astype("<f4").tobytes()))
    return field(3, field(1, b"".join(varint(int(value)) for value in values)))


def example(**features) -> bytes:
    entries = (
        field(1, field(1, key.replace("__", "/").encode()) + field(2, feature(values)))
        for key, values in features.items()
    )
    return field(1, b"".join(entries))


def framed(record: bytes) -> bytes:
    length = struct.pack("<Q", len(record))
    return length + struct.pack("<I", masked_crc32c(length)) + record + b"crc."


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def episode(number: int, num_steps: int = 12, **more) -> bytes:
    action = np.arange(num_steps * 3, dtype=np.float32) + 100 * number
    front = moving_square(num_steps, 32, 64, seed=number)
    return example(
        steps__action=action,
        steps__observation__state=action[: num_steps * 2],
        steps__observation__front=[png(frame) for frame in front],
        steps__observation__wrist=[png(frame) for frame in numbered(num_steps + number)[number:]],
        steps__observation__depth=[png(np.zeros((32, 64), np.uint16))] * num_steps,
        steps__observation__absent=[png(np.zeros((32, 64, 3), np.uint8))] * num_steps,
        steps__language_instruction=[b"do it"] * num_steps,
        steps__is_first=np.arange(num_steps) == 0,
        **more,
    )


def write(folder, *records: bytes):
    folder.mkdir()
    (folder / "features.json").write_text("{}")
    path = folder / "toy-train.tfrecord-00000-of-00001"
    path.write_bytes(b"".join(map(framed, records)))
    return path


def test_the_wire_format_is_that_of_protobuf():
    check = 0xE3069283  # the published CRC-32C of these digits
    masked = ((check >> 15 | check << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert masked_crc32c(b"123456789") == masked
    values = np.array([0, 1, -1, 300, 2**40, -(2**40)])
    parsed = parse_example(example(a=values, b=np.float32([1.5, -2]), c=[b"x", b""]))
    np.testing.assert_array_equal(parsed["a"], values)
    np.testing.assert_array_equal(parsed["b"], [1.5, -2])
    assert parsed["c"] == [b"x", b""]


def test_protobuf_itself_reads_the_same():
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    proto = descriptor_pb2.FileDescriptorProto(name="floats.proto", syntax="proto3")
    message = proto.message_type.add(name="Floats")
    message.field.add(name="value", number=1, type=2, label=3)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(proto)
    cls = message_factory.GetMessageClass(pool.FindMessageTypeByName("Floats"))
    packed = cls(value=[1.5, 2.5, -3.0]).SerializeToString()
    entry = field(1, field(1, b"x") + field(2, field(2, packed)))
    np.testing.assert_array_equal(parse_example(field(1, entry))["x"], [1.5, 2.5, -3.0])


@pytest.mark.parametrize("where", ["local", "s3"])
def test_every_camera_of_every_record_with_its_actions(tmp_path, where, request):
    path = write(tmp_path / "set", episode(0), episode(1), episode(2))
    source = str(path.parent)
    if where == "s3":
        source = storage.join(request.getfixturevalue("s3_bucket"), "set")
        storage.write_bytes(storage.join(source, path.name), path.read_bytes())
    clips, rejects = go_through(replace(CFG, source=source))
    found = [(row.video_uri.removeprefix(f"{source}/{path.name}"), row.reason) for row in rejects]
    assert found == [(f"#{i}/absent", "blank") for i in range(3)]
    names = [clip.record.video_uri.rpartition("#")[2] for clip in clips]
    assert names == ["0/front", "0/wrist", "1/front", "1/wrist", "2/front", "2/wrist"]
    assert len({clip.record.episode_id for clip in clips}) == 3
    for i, clip in enumerate(clips):
        action = np.arange(36, dtype=np.float32) + 100 * (i // 2)
        np.testing.assert_array_equal(clip.labels.true_action, action.reshape(12, 3))
        np.testing.assert_array_equal(clip.labels.state, action[:24].reshape(12, 2))
        assert clip.record.fps == CFG.labels.fps
        if "wrist" in names[i]:
            numbers = [number_of(frame) for frame in decode_clip(clip.video)]
            assert numbers == list(range(i // 2, i // 2 + 12))


def test_damage_keeps_the_records_before_it(tmp_path):
    path = write(tmp_path / "set", episode(0), episode(1))
    sound = path.read_bytes()
    path.write_bytes(sound[:-100])
    selection = select(replace(CFG, source=str(path)), tmp_path / "a")
    assert len(selection.clips) == 2
    assert [row.reason for row in selection.rejects] == ["truncated", "blank"]
    path.write_bytes(framed(episode(0)) + b"\x01" + framed(episode(1)))
    selection = select(replace(CFG, source=str(path)), tmp_path / "b")
    assert len(selection.clips) == 2
    assert [row.reason for row in selection.rejects] == ["does_not_decode", "blank"]
    path.write_bytes(b"x" * 11)
    with pytest.raises(VideoError, match="ends inside the header at byte 0"):
        list(read_records(path))


def test_records_without_pictures_or_actions_are_rejects(tmp_path):
    no_action = example(
        steps__observation__front=[png(frame) for frame in moving_square(12, 32, 64)],
        steps__action__world_vector=np.zeros(36, np.float32),
    )
    no_pictures = example(steps__action=np.zeros(36, np.float32))
    path = write(tmp_path / "set", no_action, no_pictures, b"\xff\xff", episode(0))
    clips, rejects = go_through(replace(CFG, source=str(path)))
    assert [clip.record.video_uri[-8:] for clip in clips] == ["#3/front", "#3/wrist"]
    reasons = [(reject.reason, reject.detail[:30]) for reject in rejects]
    assert reasons[0] == ("no_labels", "no 'steps/action' among action")
    assert [reason for reason, _ in reasons[1:]] == ["no_video_stream", "does_not_decode", "blank"]
    named = replace(CFG.labels, action_key="action/world_vector")
    clips, _ = go_through(replace(CFG, source=str(path), labels=named))
    assert clips[0].labels.true_action.shape == (12, 3)


def test_the_real_records_are_those_of_the_episodes_file(shared_videos):
    folder = shared_videos / "labeled/bridge_v1_rlds"
    cfg = replace(CFG, source=str(folder), resize=ResizeConfig(width_px=64, height_px=64))
    clips, rejects = go_through(replace(cfg, encode=LOSSLESS))
    assert len(clips) == 45
    assert [(row.video_uri[-8:], row.reason) for row in rejects] == 15 * [("/image_3", "blank")]
    assert len({clip.record.episode_id for clip in clips}) == 15
    with np.load(folder / "episodes.npz") as arrays:
        for i, clip in enumerate(clips):
            np.testing.assert_array_equal(clip.labels.true_action, arrays["action"][i // 3])
            np.testing.assert_array_equal(clip.labels.state, arrays["state"][i // 3])
            if i % 3 == 0:
                error = decode_clip(clip.video).astype(int) - arrays["image_0"][i // 3]
                assert np.abs(error).max() <= 4
