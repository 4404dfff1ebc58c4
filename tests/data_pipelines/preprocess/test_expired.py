"""Signatures that expire while a job runs."""

from dataclasses import replace

import pytest
import ray

from data_pipelines.preprocess.job import preprocess
from lafp import storage
from lafp.config import ConfigError
from lafp.storage.tables import read_rows
from ray_jobs.core.cluster import start_local
from tests.data_pipelines.preprocess.test_secret_uris import CFG
from tests.http_server import answer, serving
from tests.synthetic_video import moving_square, write_video


@pytest.fixture(scope="module")
def local_ray():
    start_local(2)
    yield
    ray.shutdown()


def test_what_had_expired_is_read_by_the_next_run_and_rejected_when_it_expires_again(
    local_ray, tmp_path
):
    with serving() as host:
        valid = {"a": "1", "b": "2", "c": "none"}
        for seed, name in enumerate(valid):
            data = write_video(tmp_path / f"{name}.mp4", moving_square(30, seed=seed)).read_bytes()
            for signature in ("1", "2"):

                def signed(handler, _, name=name, data=data, signature=signature):
                    is_valid = signature == valid[name]
                    answer(handler, *((200, data) if is_valid else (403, b"Request has expired")))

                host.answers[f"/{name}.mp4?signature={signature}"] = signed
        listed = tmp_path / "list.txt"
        tasks = replace(CFG.tasks, videos_per_task=1)
        cfg = replace(CFG, source=str(listed), tasks=tasks, max_reject_fraction=1.0)

        def run(signature):
            names = [f"{host.url}/{name}.mp4?signature={signature}" for name in valid]
            listed.write_text("\n".join(names))
            host.hits.clear()
            return preprocess(cfg, str(tmp_path / "set"))

        with pytest.raises(ConfigError, match=r"signatures of 2 addresses had expired"):
            run("1")
        # A run between the two had other clips, began to make these shards and was killed.
        begun = ["train-000007.tar", "train-000007.signatures.parquet", "train-000007.json"]
        for name in ("work/shards/train-000007.json", *begun):
            storage.write_bytes(str(tmp_path / "set" / name), b"clips of that run")
        run("2")
        assert not any((tmp_path / "set" / name).exists() for name in begun)
        assert sorted(path for _, path, _ in host.hits) == [
            "/b.mp4?signature=2", "/c.mp4?signature=2"
        ]  # fmt: skip
        rejects = read_rows(str(tmp_path / "set/rejects.parquet"), ["video_uri", "reason"])
        assert [tuple(row.values()) for row in rejects] == [(f"{host.url}/c.mp4", "expired")]
        clips = read_rows(str(tmp_path / "set/clips/part-00000.parquet"), ["video_uri"])
        assert {row["video_uri"] for row in clips} == {f"{host.url}/{n}.mp4" for n in "ab"}
