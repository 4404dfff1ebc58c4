"""Lists of signed web addresses: the videos are read, and no file holds a signature."""

from dataclasses import replace
from itertools import chain

import pytest

from data_pipelines.preprocess.clip.resize import ResizeConfig
from data_pipelines.preprocess.clip.split_clips import ClipConfig
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.job import list_inputs
from data_pipelines.preprocess.manifest import write_reject_rows
from data_pipelines.preprocess.plan import Plan, make_plan
from data_pipelines.preprocess.rejects import RejectRow
from data_pipelines.preprocess.rows import EncodedClip
from data_pipelines.preprocess.sandbox.sandbox import Sandbox
from data_pipelines.preprocess.secret_uris import SecretUris
from data_pipelines.preprocess.shards import read_part, write_part
from lafp.config import ConfigError
from lafp.http.download import HttpConfig
from lafp.http.host_gate import HostGate
from lafp.storage.tables import read_rows
from ray_jobs.core.early_checks import check_no_secrets, storage_uri
from tests.http_server import answer, serving
from tests.synthetic_video import moving_square, write_video

CFG = PreprocessConfig(
    clip=ClipConfig(fps=10.0, max_s=3.0, min_frames=8),
    resize=ResizeConfig(width_px=48, height_px=32),
    http=HttpConfig(
        requests_per_s_per_host=500.0, retries=0, timeout_s=5.0, allow_private_addresses=True
    ),
)


@pytest.fixture
def host(tmp_path):
    """A host that wants a signature: it changes when the list is signed anew."""
    with serving() as host:
        host.signature = "SECRET1"
        data = write_video(tmp_path / "v.mp4", moving_square(20)).read_bytes()

        def signed(handler, _):
            is_signed = f"signature={host.signature}" in handler.path
            answer(handler, 200 if is_signed else 403, data if is_signed else b"")

        def moved(handler, _):
            there = f"{host.url}/gone.mp4?X-Amz-Signature={host.signature}"
            answer(handler, 302, Location=there)

        for signature in ("SECRET1", "SECRET2"):
            for number in (1, 2):
                host.answers[f"/v.mp4?n={number}&signature={signature}"] = signed
            host.answers[f"/moved.mp4?signature={signature}"] = moved
            host.answers[f"/v.mp4?token={signature}&signature={signature}"] = signed
            host.answers[f"/v.mp4?token={signature}b&signature={signature}"] = signed
        yield host


def write_list(folder, host) -> None:
    sign = f"signature={host.signature}"
    token = host.signature
    uris = [f"v.mp4?n=1&{sign}", f"v.mp4?n=2&{sign}", f"v.mp4?n=2&{sign}", f"moved.mp4?{sign}"]
    uris += [f"v.mp4?token={token}&{sign}", f"v.mp4?token={token}b&{sign}"]
    bad = [f"{host.url.replace('//', '//me:SECRET@')}/x.mp4", "https://me:SEC/RET@h:x/y.mp4"]
    bad += ["s3://AKIA:SECRET@bucket/x.mp4", "ftp://me:SECRET@h/x.mp4"]
    lines = [*(f"{host.url}/{uri}" for uri in uris), *bad]
    (folder / "list.txt").write_text("\n".join(lines))


def make_parts(cfg, work, secrets, plan: Plan) -> list:
    with Sandbox(cfg, HostGate()) as sandbox:
        for number, task in enumerate(plan.tasks(0)):
            rows = map(sandbox.rows, secrets.fill(task).items)
            write_part(rows, str(work), f"{task.part}.tar")
            yield number, read_part(str(work), task.part)


def test_signed_videos_are_read_and_their_signatures_are_nowhere(tmp_path, host):
    write_list(tmp_path, host)
    cfg, work = replace(CFG, source=str(tmp_path / "list.txt")), tmp_path / "work"
    with SecretUris(lambda: list_inputs(cfg)) as secrets:
        plan = make_plan(secrets.noted(list_inputs(cfg)), cfg.tasks, str(work))
        items = list(chain.from_iterable(rows for _, rows in make_parts(cfg, work, secrets, plan)))
    uris = {clip.record.video_uri for item in items for clip in item.clips}
    # The rows with tokens have one name left, so the second of them is told apart by its row.
    names = ("n=1", "n=2")
    assert uris == {
        *(f"{host.url}/v.mp4?{name}" for name in names),
        f"{host.url}/v.mp4",
        f"{host.url}/v.mp4#@6",
    }
    rejects: list[RejectRow] = [row for item in items for row in item.rejects]
    assert [row.reason for row in rejects] == ["same_file", "not_found", *4 * ["bad_entry"]]
    write_reject_rows(str(work), rejects)
    assert len(read_rows(f"{work}/rejects.parquet", ["original_uri"])) == 6
    stored = [path.read_bytes() for path in work.rglob("*") if path.is_file()]
    assert len(stored) >= 4
    assert not any(b"SEC" in data or b"me:" in data for data in stored)


def test_a_list_that_was_signed_anew_resumes_with_the_new_signatures(tmp_path, host):
    write_list(tmp_path, host)
    cfg, work = replace(CFG, source=str(tmp_path / "list.txt")), tmp_path / "work"
    before = [item.uri for item in list_inputs(cfg)]
    with SecretUris(lambda: list_inputs(cfg)) as secrets:
        made = make_plan(secrets.noted(list_inputs(cfg)), cfg.tasks, str(work))
    host.signature = "SECRET2"
    write_list(tmp_path, host)
    assert [item.uri for item in list_inputs(cfg)] == before, "the source counts as unchanged"
    with SecretUris(lambda: list_inputs(cfg)) as secrets:
        plan = make_plan(secrets.noted(list_inputs(cfg)), cfg.tasks, str(work))
        assert plan == made
        items = list(chain.from_iterable(rows for _, rows in make_parts(cfg, work, secrets, plan)))
    assert sum(bool(item.clips) for item in items) == 4


def test_an_error_of_the_download_does_not_tell_the_signature(tmp_path, host):
    away = f"{host.url}/loop.mp4?signature=SECRET"
    host.answers["/loop.mp4?signature=SECRET"] = lambda h, _: answer(h, 302, Location=away)
    other = "ftp://me:SECRET@h/x?token=SECRET"
    host.answers["/out.mp4"] = lambda h, _: answer(h, 302, Location=other)
    login = host.url.replace("//", "//me:SECRET@")
    host.answers["/login.mp4"] = lambda h, _: answer(h, 302, Location=login)
    (tmp_path / "list.txt").write_text(f"{away}\n{host.url}/out.mp4\n{host.url}/login.mp4\n")
    cfg = replace(CFG, source=str(tmp_path / "list.txt"))
    with Sandbox(cfg, HostGate()) as sandbox:
        rows = [row for item in list_inputs(cfg) for row in sandbox.rows(item)]
    assert not any(isinstance(row, EncodedClip) for row in rows)
    rejects = [row for row in rows if isinstance(row, RejectRow)]
    assert [row.reason for row in rejects] == 3 * ["unreadable"]
    assert "SECRET" not in repr(rows)


def test_a_config_with_a_secret_is_refused_before_it_is_stored():
    raw = {"sources": [{"source": "s3://AKIA:SECRET@bucket/videos"}]}
    with pytest.raises(ConfigError, match=r"sources\.0\.source: the URI holds a password") as error:
        check_no_secrets(raw)
    assert "SECRET" not in str(error.value)
    check_no_secrets({"sources": ["s3://bucket/a@b?token=x", "/data/x"], "n": 3})
    with pytest.raises(
        ConfigError, match="--storage s3://bucket/runs: the URI also holds"
    ) as error:
        storage_uri("s3://AKIA:SECRET@bucket/runs")
    assert "SECRET" not in str(error.value)
