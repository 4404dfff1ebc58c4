"""The job that measures a latent action model alone, on a tiny LAM that was trained here."""

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray

from lafp import storage
from lafp.config import ConfigError
from lafp.data.shards.sets import shards_sha256
from lafp.evaluate.latents.config import EvaluateLamConfig
from lafp.models.bottlenecks.vq import VqConfig
from lafp.models.encoders import SmallCnnConfig
from lafp.models.fdm import UNetConfig
from lafp.objectives.lapo import LapoConfig
from lafp.runs.run_dir import RunDir
from lafp.train.config import TrainConfig
from lafp.train.context import LocalContext
from lafp.train.loop import train
from lafp.train.tasks.lam import LamTask, TrainLamConfig
from lafp.train.tasks.lam_sections import SupervisionConfig
from ray_jobs.core.cluster import start_local
from ray_jobs.core.job import dry_run, execute
from ray_jobs.evaluate_lam import JOB
from tests import synthetic_lam
from tests.synthetic_dinov2 import write_dinov2
from tests.synthetic_lary import write_motions, write_pictures
from tests.synthetic_shards import SyntheticClip, moving_dot, write_clips, write_shard_set

LAM = TrainLamConfig(
    objective=LapoConfig(
        latent_action_dim=16,
        encoder=SmallCnnConfig(channels=(8, 8), embed_dim=32),
        fdm=UNetConfig(channels=(8, 8)),
        bottleneck=VqConfig(num_codebooks=1, num_discrete_latents=2, num_codes=8),
    ),
    supervision=SupervisionConfig(weight=1.0, label_fraction=0.25, batch_size=16),
    train=TrainConfig(num_steps=10, global_batch_size=16, seed=5),
)


@pytest.fixture(scope="module")
def cluster():
    start_local(2)
    yield
    ray.shutdown()


def write_lam(run: RunDir, labeled: str, cfg: TrainLamConfig, folder: Path) -> None:
    """Trains the run's LAM for a moment."""
    videos = write_shard_set(folder / "videos", num_clips=12)
    stage = run.stage("lam")
    stage.begin(cfg, {"labeled_shards": shards_sha256(labeled)})
    train(cfg.train, LamTask(cfg, videos, labeled), LocalContext(stage.uri))
    stage.finish({})


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunDir:
    folder = tmp_path_factory.mktemp("run")
    labeled = write_shard_set(
        folder / "runs/demo/shards/labeled",
        num_clips=16,
        num_val_clips=6,
        has_labels=True,
        frames=(10, 14),
    )
    run = RunDir(str(folder / "runs/demo"))
    run.stage("shards/labeled").begin({}, {})
    run.stage("shards/labeled").finish({})
    write_lam(run, labeled, LAM, folder)
    return run


@pytest.fixture(scope="module")
def cfg(tmp_path_factory) -> EvaluateLamConfig:
    return EvaluateLamConfig(lary_tables=(write_pictures(tmp_path_factory.mktemp("lary")),))


@pytest.fixture(scope="module")
def evaluated(run, cfg, cluster):
    summary = execute(JOB, cfg, run)
    return run.stage("lam_evaluation"), summary


def test_the_table_holds_probes_controls_sums_codes_and_transfer(evaluated):
    stage, _ = evaluated
    table = pq.read_table(stage.path("results.parquet")).to_pandas()
    probed = table[table.metric == "probe_r2"].set_index("label")
    assert set(probed.index) == {"lam", "embedding", "random_lam", "pixel_difference", "nothing"}
    value = table.set_index(["label", "metric"]).value
    for metric in ("probe_r2_mlp", "probe_r2_standardized", "s_pcfc", "transfer_error"):
        assert ("lam", metric) in value.index
    assert value["pixel_difference", "additivity_error"] == pytest.approx(0, abs=1e-6)
    assert value["pixel_difference", "reversal_error"] == pytest.approx(0, abs=1e-6)
    assert value["lam", "additivity_error"] > 0.01
    assert 0 < value["lam", "codebook_usage"] <= 1
    gain = value["lam", "probe_gain_over_pixel_difference"]
    assert gain == pytest.approx(value["lam", "probe_r2"] - value["pixel_difference", "probe_r2"])
    # A quarter of the 10 training episodes supervised the LAM, so the probe is fitted on the rest.
    lengths = pq.read_table(f"{stage.uri}/../shards/labeled/clips").to_pylist()
    most = sum(row["num_frames"] - 1 for row in lengths if row["split"] == "train")
    num_labels = probed.labeled_transitions["lam"]
    assert probed.labeled_episodes["lam"] == 3 and 3 * 9 <= num_labels <= 3 * 13
    fits = [int(m.removeprefix("probe_r2_at_")) for m in table.metric if "probe_r2_at" in m]
    assert 0.5 * most < max(fits) < 0.9 * most


def test_without_ray_the_numbers_are_the_same(evaluated, run, cfg, tmp_path):
    stage, _ = evaluated
    ray.shutdown()
    try:
        alone = RunDir(str(tmp_path)).stage("lam_evaluation")
        JOB.run(cfg, run, alone)
        assert not ray.is_initialized()
    finally:
        start_local(2)
    tables = [pq.read_table(folder.path("results.parquet")) for folder in (stage, alone)]
    assert tables[0].equals(tables[1])


def test_the_page_and_the_end_of_the_job_say_what_it_means(evaluated, capsys):
    stage, summary = evaluated
    lines = JOB.tell(EvaluateLamConfig(), stage, summary)
    text = "\n".join(lines)
    assert lines[0].split(":")[0] in {"Good", "Uncertain", "Bad"}
    assert "z(a, b) + z(b, c)" in text and "S-PCFC" in text and "% of the codes" in text
    assert "swapped_shards=FOLDER" in text and "dinov2=FOLDER" in text
    assert lines[-1].startswith("Next: ")
    page = storage.read_text(stage.path("report.html"))
    assert "Do latent actions add up" in page and "Control: difference of the pixels" in page
    assert page.count("<img") >= 3 and stage.has("transfer.png")


def test_z_for_lary_lies_beside_the_page_and_the_end_of_the_job_names_it(evaluated):
    stage, summary = evaluated
    table = stage.path("lary", "data", "val_la_calvin_5_my-lam.csv")
    (line,) = [line for line in summary["findings"] if "for LARY" in line]
    assert line.startswith(f"z of 2 rows for LARY: {table}; 1 rows left out")
    assert stage.has("lary/latent_actions/calvin/val/my-lam/latent_action_00000001.npz")


def write_swapped(folder: Path, shards: str) -> str:
    """Writes the episodes of ``run`` before a brighter ground."""
    rows = pq.read_table(f"{shards}/clips").to_pylist()
    clips = []
    for index, row in enumerate(sorted(rows, key=lambda r: int(Path(r["video_uri"]).stem))):
        frames, steps = moving_dot(row["num_frames"], index)
        frames[frames == 20] = 90
        clips.append(SyntheticClip(frames=frames, true_action=steps, split=row["split"]))
    return write_clips(folder, clips, clips_per_shard=4, seed=1, max_action=2.0)


def test_an_encoder_goes_through_the_whole_job(cluster, run, tmp_path):
    weights, shards = str(write_dinov2(tmp_path / "dinov2")), run.stage("shards/labeled").uri
    swapped = write_swapped(tmp_path / "swapped", shards)
    encoder = RunDir(str(tmp_path / "new"))
    cfg = EvaluateLamConfig(encoder=weights, shards=shards, swapped_shards=swapped)
    summary = execute(JOB, cfg, encoder)
    stage = encoder.stage("lam_evaluation")
    table = pq.read_table(stage.path("results.parquet")).to_pandas()
    value = table.set_index(["label", "metric"]).value
    for method in ("encoder_pair", "encoder_difference", "encoder_frame", "pixel_difference"):
        assert value[method, "background_share"] > 0 and (method, "probe_r2") in value.index
    assert ("encoder_pair", "probe_gain_over_encoder_frame") in value.index
    assert "What changes with the background?" in storage.read_text(stage.path("report.html"))
    assert "the features of both frames" in summary["findings"][0]


def lary_config(run: RunDir, folder: Path) -> EvaluateLamConfig:
    tables = tuple(write_motions(folder, split, 1, seed=0) for split in ("train", "val"))
    lam, shards = run.stage("lam").uri, run.stage("shards/labeled").uri
    return EvaluateLamConfig(lam=lam, shards=shards, lary_tables=tables, lary_probe="toy")


@pytest.mark.slow
def test_lary_s_attentive_probe_goes_through_the_whole_job(cluster, run, tmp_path):
    cfg, other = lary_config(run, tmp_path), RunDir(str(tmp_path / "new"))
    summary = execute(JOB, cfg, other)
    stage = other.stage("lam_evaluation")
    table = pq.read_table(stage.path("results.parquet")).to_pandas()
    found = table[table.metric == "lary_accuracy"].set_index("label")
    assert set(found.index) == {"lam", "embedding", "random_lam", "pixel_difference", "nothing"}
    assert (found.n == 4).all() and ((found.low <= found.value) & (found.value <= found.high)).all()
    assert found.value["nothing"] == 0.25
    (line,) = [line for line in summary["findings"] if "LARY's attentive probe" in line]
    assert "of 4 clips; the best control (" in line
    assert "Which action does a clip show?" in storage.read_text(stage.path("report.html"))
    assert stage.has("lary/latent_actions/toy/val/my-lam/latent_action_00000003.npz")


def test_a_dry_run_names_the_classes_that_lary_s_probe_learns_and_checks_their_tables(
    run, tmp_path
):
    cfg, other = lary_config(run, tmp_path), RunDir(str(tmp_path / "new"))
    assert "LARY's attentive probe: classes of toy" in "\n".join(dry_run(JOB, cfg, other))
    val = Path(cfg.lary_tables[1].table)
    val.write_text(val.read_text().replace(",action", ",text"))
    with pytest.raises(ConfigError, match=r"lary_probe: .*and action, the class of the clip"):
        dry_run(JOB, cfg, other)


def test_a_finished_evaluation_is_found_complete(evaluated, run, cfg, capsys):
    execute(JOB, cfg, run)
    assert "complete, nothing to do" in capsys.readouterr().out


def test_an_interrupted_one_keeps_what_was_measured(evaluated, run, cfg, capsys):
    stage, _ = evaluated
    before = storage.read_text(stage.path("measured", "lam.json"))
    marked = before.replace("probe_mse", "probe_mse_kept")
    storage.write_text(stage.path("measured", "lam.json"), marked)
    storage.delete(stage.path("summary.json"))
    storage.delete(stage.path("measured", "pixel_difference.json"))
    try:
        execute(JOB, cfg, run)
        table = pq.read_table(stage.path("results.parquet")).to_pandas()
        assert "probe_mse_kept" in set(table.metric) and stage.has("measured", "embedding.json")
        assert "pixel_difference" in set(table.label)
    finally:
        storage.write_text(stage.path("measured", "lam.json"), before)


def test_a_dry_run_names_what_would_be_measured_and_writes_nothing(run, tmp_path):
    elsewhere = RunDir(str(tmp_path / "new"))
    cfg = EvaluateLamConfig(
        lam=run.stage("lam").uri, shards=run.stage("shards/labeled").uri, max_memory_gb=0.5
    )
    text = "\n".join(dry_run(JOB, cfg, elsewhere))
    assert "lapo, Z = 16" in text and "pixel_difference" in text and "up to 0.5 GB" in text
    assert not list(storage.list_files(elsewhere.uri))


def test_a_dry_run_of_an_encoder_needs_no_lam(run, tmp_path):
    weights, shards = str(write_dinov2(tmp_path / "dinov2")), run.stage("shards/labeled").uri
    cfg, elsewhere = (
        EvaluateLamConfig(encoder=weights, shards=shards),
        RunDir(str(tmp_path / "new")),
    )
    text = "\n".join(dry_run(JOB, cfg, elsewhere))
    assert f"encoder: {weights}" in text and "encoder_pair, encoder_difference" in text
    assert list(JOB.reads(cfg)) == ["shards/labeled"]
    assert list(JOB.inputs(cfg, elsewhere)) == ["shards", "encoder"]
    (tmp_path / "dinov2/config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ConfigError, match="a model of type 'vit', expected 'dinov2'"):
        dry_run(JOB, cfg, elsewhere)


def test_what_a_user_gets_wrong_is_told_before_ray_starts(run, tmp_path):
    lam, other = run.stage("lam").uri, RunDir(str(tmp_path / "new"))

    def message(**changes) -> str:
        cfg = replace(EvaluateLamConfig(lam=lam), **changes)
        with pytest.raises(ConfigError) as error:
            dry_run(JOB, cfg, other)
        assert "\n" not in str(error.value)
        return str(error.value)

    unlabeled = write_shard_set(tmp_path / "unlabeled")
    assert "has no actions" in message(shards=unlabeled)
    large = write_shard_set(tmp_path / "large", size_px=32, has_labels=True, num_val_clips=4)
    assert "32x32 px" in message(shards=large)
    single = write_shard_set(tmp_path / "single", num_clips=1, has_labels=True)
    assert "1 labeled training episode and 0 held out" in message(shards=single)
    assert "there is no shard set" in message(shards=str(tmp_path / "nowhere"))
    assert "there is no finished LAM" in message(lam=str(tmp_path / "nowhere"), shards=single)
    labeled = run.stage("shards/labeled").uri
    assert "No DINOv2 at" in message(shards=labeled, dinov2=str(tmp_path))
    bare = synthetic_lam.write_lam(str(tmp_path / "bare"))
    assert "without provenance.json" in message(lam=bare, shards=labeled)
    assert "Stage 'shards/labeled' is not complete" in message()
