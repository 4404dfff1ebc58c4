"""RLDS: the real file against its own episodes, and small ones written here."""

import gzip
import io
import struct
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from data_pipelines.preprocess.clip.labels.read import ASSUMED_FPS
from data_pipelines.preprocess.clip.resize import ResizeConfig
from data_pipelines.preprocess.sources.tfrecord import masked_crc32c, parse_example, read_records
from lafp import storage
from lafp.video import EncodeConfig, decode_clip
from lafp.video.decoders.base import VideoError
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
        steps__observation__depth=[png(np.full((32, 64), t, np.uint16)) for t in range(num_steps)],
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


def test_a_number_of_more_than_64_bits_costs_its_record_alone(tmp_path):
    long = field(3, field(1, b"\xff" * 9 + b"\x7f"))
    broken = field(1, field(1, field(1, b"steps/is_first") + field(2, long)))
    path = write(tmp_path / "set", broken, episode(1))
    clips, rejects = go_through(replace(CFG, source=str(path.parent)))
    assert clips
    assert ("does_not_decode", True) in {(r.reason, "64 bits" in r.detail) for r in rejects}


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
    left_out = [("absent", "blank"), ("depth", "depth")]
    assert found == [(f"#{i}/{name}", reason) for i in range(3) for name, reason in left_out]
    names = [clip.record.video_uri.rpartition("#")[2] for clip in clips]
    assert names == ["0/front", "0/wrist", "1/front", "1/wrist", "2/front", "2/wrist"]
    assert len({clip.record.episode_id for clip in clips}) == 3
    for i, clip in enumerate(clips):
        action = np.arange(36, dtype=np.float32) + 100 * (i // 2)
        np.testing.assert_array_equal(clip.labels.true_action, action.reshape(12, 3))
        np.testing.assert_array_equal(clip.labels.state, action[:24].reshape(12, 2))
        assert clip.record.fps == ASSUMED_FPS
        if "wrist" in names[i]:
            numbers = [number_of(frame) for frame in decode_clip(clip.video)]
            assert numbers == list(range(i // 2, i // 2 + 12))


def test_damage_keeps_the_records_before_it(tmp_path):
    path = write(tmp_path / "set", episode(0), episode(1))
    sound = path.read_bytes()
    path.write_bytes(sound[:-100])
    selection = select(replace(CFG, source=str(path)), tmp_path / "a")
    assert len(selection.clips) == 2
    assert [row.reason for row in selection.rejects] == ["blank", "depth", "truncated"]
    path.write_bytes(framed(episode(0)) + b"\x01" + framed(episode(1)))
    selection = select(replace(CFG, source=str(path)), tmp_path / "b")
    assert len(selection.clips) == 2
    assert [row.reason for row in selection.rejects] == ["blank", "depth", "does_not_decode"]
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
    assert rejects[0].reason == "no_labels"
    assert rejects[0].detail.startswith("'action' is a dict of action/world_vector [3]. labels.act")
    reasons = [reject.reason for reject in rejects[1:]]
    assert reasons == ["no_video_stream", "does_not_decode", "blank", "depth"]
    named = replace(CFG.labels, action_key="action/world_vector")
    clips, _ = go_through(replace(CFG, source=str(path), labels=named))
    assert clips[0].labels.true_action.shape == (12, 3)


def test_an_action_in_parts_is_joined_in_the_order_of_the_config(tmp_path):
    """As in RT-1: world_vector, rotation_delta, gripper and an integer flag per step."""
    steps = np.arange(12, dtype=np.float32)
    record = example(
        steps__observation__image=[png(frame) for frame in numbered(12)],
        steps__action__world_vector=np.repeat(steps, 3),
        steps__action__gripper=-steps,
        steps__action__terminate=np.repeat(np.arange(12) // 11, 2),
        steps__is_first=np.arange(12) == 0,
    )
    path = write(tmp_path / "set", record)
    _, rejects = go_through(replace(CFG, source=str(path)))
    assert all(name in rejects[0].detail for name in ("action/gripper [1]", "labels.action_parts"))
    parts = ("action/gripper", "action/world_vector", "action/terminate")
    labels = replace(CFG.labels, action_parts=parts)
    (clip,), rejects = go_through(replace(CFG, source=str(path), labels=labels))
    action = clip.labels.true_action
    assert (action.shape, rejects) == ((12, 6), [])
    np.testing.assert_array_equal(action[:, :2], np.stack([-steps, steps], axis=1))
    np.testing.assert_array_equal(action[:, 4:], np.repeat(steps // 11, 2).reshape(12, 2))


def test_one_broken_picture_costs_itself(tmp_path):
    """Empty, cut off, of another size, no picture at all; first, in the middle and last."""
    pictures = [png(frame) for frame in numbered(30)]
    pictures[0] = b""
    pictures[9] = pictures[9][:60]
    pictures[10] = png(np.zeros((16, 16, 3), np.uint8))
    pictures[20] = b"no picture"
    pictures[29] = b"\xff\xd8\xff"
    action = np.arange(30, dtype=np.float32)
    record = example(
        steps__observation__late=pictures,
        steps__observation__sound=[png(frame) for frame in numbered(30)],
        steps__observation__image_lost=[b""] * 30,
        steps__action=action,
        steps__observation__text=[b""] * 30,
    )
    path = write(tmp_path / "set", record)
    clips, rejects = go_through(replace(CFG, source=str(path)))
    late = [clip for clip in clips if clip.record.video_uri.endswith("late")]
    assert [clip.record.num_frames for clip in late] == [8, 9, 8]
    for clip in clips:
        numbers = [number_of(frame) for frame in decode_clip(clip.video)]
        np.testing.assert_array_equal(clip.labels.true_action[:, 0], numbers)
    names = {row.video_uri.rpartition("/")[2]: row.reason for row in rejects}
    assert names == {"late": "damaged", "image_lost": "blank"}
    details = [row.detail for row in rejects if row.reason == "damaged"]
    assert details[0] == "picture 0 is empty" and "16x16" in " ".join(details)
    assert len(clips) == 4


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_of_pictures_are_black(tmp_path, mode):
    """White everywhere; the number is in what is opaque."""
    pictures = []
    for frame in numbered(12):
        opaque = Image.fromarray(frame[..., 0])
        if mode == "P":  # colour 0 of the palette is transparent white
            picture = Image.fromarray(frame[..., 0] // 255).convert("P")
            picture.putpalette([255] * 6)
        else:
            picture = Image.new(mode, opaque.size, "white")
            picture.putalpha(opaque)
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", **({"transparency": 0} if mode == "P" else {}))
        pictures.append(buffer.getvalue())
    record = example(
        steps__observation__image=pictures, steps__action=np.arange(24, dtype=np.float32)
    )
    (clip,), _ = go_through(replace(CFG, source=str(write(tmp_path / "set", record))))
    assert [number_of(frame) for frame in decode_clip(clip.video)] == list(range(12))


def test_a_camera_with_fewer_pictures_than_steps_is_a_mismatch(tmp_path):
    """15 pictures of 30 steps: 30 rows of 2 numbers would look like 15 rows of 4."""
    record = example(
        steps__observation__image=[png(frame) for frame in numbered(15)],
        steps__action=np.arange(60, dtype=np.float32),
        steps__is_last=np.arange(30) == 29,
    )
    clips, rejects = go_through(replace(CFG, source=str(write(tmp_path / "set", record))))
    assert clips == []
    assert [(r.reason, r.detail) for r in rejects] == [("labels_mismatch", "15 pictures, 30 steps")]


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


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (gzip.compress(b"x" * 99), "compressed with gzip: unpack it"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"<html><body>Log in</body></html>", "a web page"),
    ],
)
@pytest.mark.parametrize("name", ["A.TFRecord-00000-of-00001", "a.h5"])
def test_a_file_that_is_something_else_says_what_it_is(tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    clips, (reject,) = go_through(replace(CFG, source=str(tmp_path)))
    assert (clips, reject.reason) == ([], "does_not_decode")
    assert said in reject.detail


@pytest.mark.parametrize(("encoding", "is_read"), [("WEBP", True), ("BMP", True), ("GIF", False)])
def test_a_camera_of_another_encoding_is_read_or_said(tmp_path, encoding, is_read):
    def encoded(frame):
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, encoding)
        return buffer.getvalue()

    record = example(
        steps__observation__front=[png(frame) for frame in numbered(12)],
        steps__observation__wrist_image=[encoded(frame) for frame in numbered(12)],
        steps__action=np.arange(12, dtype=np.float32),
    )
    clips, rejects = go_through(replace(CFG, source=str(write(tmp_path / "set", record))))
    assert len(clips) == 1 + is_read
    assert [row.reason for row in rejects] == ([] if is_read else ["does_not_decode"])


def test_an_odd_feature_costs_nothing_else(tmp_path):
    """A name that is not UTF-8, and one that is empty, as protobuf leaves it out."""
    values = field(2, feature(np.zeros(3, np.float32)))
    odd = field(1, field(1, b"steps/\xff") + values) + field(1, values)
    sound = example(
        steps__observation__image=[png(frame) for frame in numbered(12)],
        steps__action=np.arange(12, dtype=np.float32),
    )
    path = write(tmp_path / "set", sound + field(1, odd))
    (clip,), rejects = go_through(replace(CFG, source=str(path)))
    assert (clip.record.num_frames, rejects) == (12, [])


def test_a_record_without_what_is_needed_lists_what_it_holds(tmp_path):
    pictures = [png(frame) for frame in numbered(12)]
    elsewhere = example(steps__image=pictures, steps__action=np.zeros(24, np.float32))
    words = example(steps__observation__image=pictures, steps__action=[b"left"] * 12)
    path = write(tmp_path / "set", elsewhere, words)
    clips, (first, second) = go_through(replace(CFG, source=str(path)))
    assert (clips, first.reason, second.reason) == ([], "no_video_stream", "no_labels")
    assert first.detail.endswith("among steps/action float32 [24], steps/image bytes [12]")
    assert second.detail.startswith("no numbers in 'steps/action' among steps/action bytes [12]")
