"""The LAM task, through the real loop and real shards."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lafp.config import ConfigError, config_from_dict, config_to_dict, load_config
from lafp.data.labels import action_spec
from lafp.data.order.micro_batches import MicroBatchLayout, MicroBatchReader
from lafp.envs.slalom import Slalom, SlalomConfig
from lafp.evaluate.probes.lam_probe import LamProbe, untrained
from lafp.finished.lam_action_decoder import load_lam_action_decoder
from lafp.lam import load_lam
from lafp.objectives.base import MaskConfig
from lafp.train.context import LocalContext, to_clip_batches
from lafp.train.loop import train
from lafp.train.tasks.lam import LamTask, TrainLamConfig
from lafp.train.tasks.lam_sections import DataConfig, ProbeConfig
from lafp.train.tasks.lam_shards import obs_spec
from tests.synthetic_shards import SyntheticClip, write_clips, write_shard_set


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("videos")
    return write_shard_set(folder, num_clips=40, num_val_clips=4, frames=(8, 12))


@pytest.fixture(scope="module")
def labeled(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("labeled")
    return write_shard_set(
        folder, num_clips=24, num_val_clips=8, frames=(8, 12), has_labels=True, seed=1
    )


def lam_config(objective: str = "lapo", num_steps: int = 3, **supervision) -> TrainLamConfig:
    objectives = {
        "lapo": {
            "name": "lapo",
            "latent_action_dim": 8,
            "encoder": {"name": "small_cnn", "channels": [8, 16], "embed_dim": 32},
            "idm_input": "difference",
            "fdm": {"channels": [8, 16]},
            "target": "residual",
            "bottleneck": {"name": "vq", "num_codes": 8},
        },
        "laom": {
            "name": "laom",
            "latent_action_dim": 8,
            "encoder": {"name": "strided_resnet", "channels": [8, 8], "scale": 1},
            "idm": {"hidden_dim": 16},
            "fdm": {"hidden_dim": 16},
        },
    }
    raw = {
        "objective": objectives[objective],
        "window": {"windows_per_clip": 2, "max_offset_steps": 3 if objective == "laom" else 1},
        "supervision": {"batch_size": 8} | supervision,
        "train": {
            "num_steps": num_steps,
            "global_batch_size": 8,
            "optim": {"lr": 2e-3},
            "report_every_steps": 1000,
            "evaluate_every_steps": 1000,
            "checkpoint_every_steps": 1000,
        },
    }
    return config_from_dict(TrainLamConfig, raw)


def run(
    cfg: TrainLamConfig, shards: str | tuple[str, ...], labeled: str | None, folder
) -> dict[str, float]:
    task = LamTask(cfg, shards, labeled, make_probe=LamProbe)
    return train(cfg.train, task, LocalContext(str(folder)))


@pytest.mark.parametrize("objective", ["lapo", "laom"])
def test_readers_send_all_frames_that_a_lam_is_trained_on(tmp_path, objective):
    videos = write_shard_set(tmp_path / "videos", 8, frames=(20, 30))
    labeled = write_shard_set(tmp_path / "labeled", 8, frames=(20, 30), has_labels=True)
    task = LamTask(lam_config(objective, weight=0.5), videos, labeled)
    windows = []
    for demands in (
        task.demands(),
        {name: replace(demand, draws=None) for name, demand in task.demands().items()},
    ):
        layout = MicroBatchLayout(demands=demands, rank=0, world_size=1, num_rounds=1)
        clips = to_clip_batches(next(MicroBatchReader(layout).read_from(0)))
        assert all(
            (of.frame_rows is None) == (demands["train"].draws is None) for of in clips.values()
        )
        torch.manual_seed(0)  # of the augmentation
        inputs = task.inputs(clips)
        windows.append((inputs.window, inputs.labeled))
    for sent, whole in zip(*windows, strict=True):
        for name in ("obs", "next_obs", "future_obs"):
            torch.testing.assert_close(getattr(sent, name), getattr(whole, name), rtol=0, atol=0)


@pytest.mark.parametrize("objective", ["lapo", "laom"])
@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_every_objective_trains_with_and_without_supervision(
    objective, weight, shards, labeled, tmp_path
):
    metrics = run(lam_config(objective, weight=weight), shards, labeled, tmp_path)
    assert metrics["step"] == 3
    assert {"loss", "fdm_loss", "val/loss", "probe/r2", "probe/r2_random_lam"} <= set(metrics)
    assert ("supervision_loss" in metrics) == (weight > 0)


@pytest.fixture(scope="module")
def masked(tmp_path_factory) -> str:
    """Dots, of which every second clip tells where they are."""
    folder = tmp_path_factory.mktemp("masked")
    return write_shard_set(folder, num_clips=20, num_val_clips=3, has_masks=True, seed=3)


def with_mask(cfg: TrainLamConfig, **mask) -> TrainLamConfig:
    return replace(cfg, objective=replace(cfg.objective, mask=MaskConfig(**mask)))


@pytest.mark.parametrize("objective", ["lapo", "laom"])
def test_masks_of_some_of_the_clips_and_sets_weigh_the_loss(objective, masked, shards, tmp_path):
    cfg = with_mask(lam_config(objective))
    assert run(cfg, masked, None, tmp_path / "one")["val/loss"] > 0
    mixed = replace(cfg, data=(DataConfig(shards=masked), DataConfig(shards=shards)))
    metrics = run(mixed, (masked, shards), None, tmp_path / "mixed")
    assert metrics["step"] == 3 and np.isfinite(metrics["val/fdm_explained"])
    assert load_lam(str(tmp_path / "mixed")).objective.mask == MaskConfig()


def test_only_the_share_of_the_clips_keeps_its_masks(masked):
    num_weighed = []
    for fraction in (1.0, 0.8, 0.5):
        task = LamTask(with_mask(lam_config("lapo"), fraction=fraction), masked, None)
        layout = MicroBatchLayout(demands=task.demands(), rank=0, world_size=1, num_rounds=1)
        read = MicroBatchReader(layout).read_from(0)
        masks = [task.inputs(to_clip_batches(next(read))).window.next_mask for _ in range(20)]
        num_weighed.append(int((torch.cat(masks) == 0).flatten(1).any(1).sum()))
    assert 160 > num_weighed[0] > num_weighed[1] > num_weighed[2] > 0


def test_without_labeled_shards_there_is_no_probe(shards, tmp_path):
    metrics = run(lam_config(), shards, None, tmp_path)
    assert "val/loss" in metrics
    assert not any(name.startswith("probe/") for name in metrics)


@pytest.mark.parametrize("objective", ["lapo", "laom"])
def test_a_loaded_lam_labels_as_the_trained_one_did(objective, shards, labeled, tmp_path):
    cfg = lam_config(objective, weight=0.1)
    task = LamTask(cfg, shards, labeled)
    train(cfg.train, task, LocalContext(str(tmp_path)))
    lam = load_lam(str(tmp_path))
    assert lam.obs == obs_spec(shards, 1)
    obs, next_obs = torch.rand(2, 4, 3, 16, 16) * 2 - 1
    trained = task.module.objective.eval()
    with torch.no_grad():
        expected = trained.infer_latent_action(obs, next_obs)
        torch.testing.assert_close(lam.embed(obs), trained.embed(obs))
    latent = lam.infer_latent_action(obs, next_obs)
    torch.testing.assert_close(latent, expected)
    assert latent.shape == (4, lam.latent_action_dim) and not latent.requires_grad


def test_the_export_holds_no_label_made_weights(shards, labeled, tmp_path):
    run(lam_config(weight=0.1), shards, labeled, tmp_path)
    names = load_lam(str(tmp_path)).objective.state_dict()
    assert not any("action_head" in name for name in names)


def test_the_card_says_what_was_measured_beside_its_controls(shards, labeled, tmp_path):
    metrics = run(lam_config(weight=0.1, label_fraction=0.25), shards, labeled, tmp_path)
    card = (tmp_path / "model_card.md").read_text()
    interval = f"[{metrics['probe/r2_low']:.3f}, {metrics['probe/r2_high']:.3f}]"
    assert f"| latent action z | {metrics['probe/r2']:.3f} | {interval} |" in card
    assert f"observation embedding | {metrics['probe/r2_obs_embedding']:.3f} |" in card
    assert f"untrained LAM's z | {metrics['probe/r2_random_lam']:.3f} |" in card
    assert f"| `{shards}` | synthetic | 36 (held out: 4) |" in card
    assert f"| `{labeled}` | synthetic | 16 (held out: 8) |" in card
    assert re.search(r"actions of \d+ labeled transitions \(4 episodes\), and the probe", card)
    assert "## Intended use and limits" in card and "label_fraction: 0.25" in card
    lam = load_lam(str(tmp_path))
    num_parameters = sum(p.numel() for p in lam.objective.parameters())
    assert f"| Parameters | {num_parameters:,} |" in card


def test_the_card_of_an_unmeasured_lam_says_so(shards, tmp_path):
    run(lam_config(), shards, None, tmp_path)
    card = (tmp_path / "model_card.md").read_text()
    assert "information of z about actions was not measured" in card and "| Probed |" not in card


def test_supervision_sees_only_the_chosen_share_of_the_labels(shards, labeled):
    task = LamTask(lam_config(weight=0.1, label_fraction=0.25), shards, labeled)
    demand = task.demands()["labeled"]
    assert demand.order.num_clips == 4
    assert demand.clips_per_step == 4


def slalom_clips(num_episodes: int) -> list[SyntheticClip]:
    """Demonstrations with actions; every fourth is held out."""
    env = Slalom(SlalomConfig())
    frames, actions = [env.reset(np.arange(num_episodes))], []
    for _ in range(env.max_steps):
        actions.append(env.expert())
        result = env.step(actions[-1])
        frames.append(result.obs)
        if result.done.all():
            break
    actions.append(np.zeros_like(actions[0]))
    # Shorter than any episode, so that no agent stands still at its goal.
    frames_NTHWC, actions_NTA = np.stack(frames, 1)[:, :18], np.stack(actions, 1)[:, :18]
    return [
        SyntheticClip(frames=f, true_action=a, split="val" if i % 4 == 0 else "train")
        for i, (f, a) in enumerate(zip(frames_NTHWC, actions_NTA, strict=True))
    ]


@pytest.mark.usefixtures("one_thread")
def test_supervised_latents_predict_actions_of_held_out_episodes_beyond_the_controls(tmp_path):
    uri = write_clips(tmp_path / "slalom", slalom_clips(40), 100, seed=0, max_action=1.0)
    path = Path(__file__).parents[4] / "configs" / "train_lam" / "slalom.yaml"
    small = ["train.num_steps=100", "train.global_batch_size=16", "supervision.batch_size=32"]
    cfg = load_config(
        TrainLamConfig, path, [*small, "train.num_workers=1", "train.engine.name=ddp"]
    )
    metrics = run(cfg, uri, uri, tmp_path / "lam")
    assert metrics["probe/r2"] > 0.9
    assert metrics["probe/r2_low"] > metrics["probe/r2_obs_embedding"] + 0.1
    assert metrics["probe/r2_low"] > metrics["probe/r2_random_lam"] + 0.1


@pytest.mark.usefixtures("one_thread")
def test_labels_alone_train_an_inverse_dynamics_model(tmp_path):
    uri = write_clips(tmp_path / "slalom", slalom_clips(40), 100, seed=0, max_action=1.0)
    path = Path(__file__).parents[4] / "configs" / "train_lam" / "slalom.yaml"
    small = ["train.num_steps=60", "train.global_batch_size=16", "supervision.batch_size=16"]
    small += ["train.num_workers=1", "train.engine.name=ddp"]
    cfg = load_config(TrainLamConfig, path, ["fdm_weight=0", *small, "supervision.weight=1"])
    task = LamTask(cfg, uri, uri)
    before = {n: p.detach().clone() for n, p in task.module.objective.named_parameters()}
    metrics = run(cfg, uri, uri, tmp_path / "lam")
    assert metrics["probe/r2_low"] > metrics["probe/r2_random_lam"] + 0.1
    after = dict(load_lam(str(tmp_path / "lam")).objective.named_parameters())
    assert all(torch.equal(after[n], p) for n, p in before.items() if n.startswith("fdm."))
    assert any(not torch.equal(after[n], p) for n, p in before.items() if n.startswith("idm."))
    # Nothing trains the prediction of frames, so nothing is said of it.
    assert not {"fdm_explained", "val/fdm_explained", "supervision_share"} & metrics.keys()
    with pytest.raises(ConfigError, match="both 0, so nothing would be trained"):
        load_config(TrainLamConfig, path, ["fdm_weight=0", "supervision.weight=0"])


def test_the_supervisions_share_of_the_loss_is_measured(shards, labeled, tmp_path):
    metrics = run(lam_config(num_steps=1, weight=0.5), shards, labeled, tmp_path)
    share = 0.5 * metrics["supervision_loss"] / metrics["loss"]
    assert metrics["supervision_share"] == pytest.approx(share, rel=1e-4)


def test_the_initial_weights_depend_on_the_seed_alone(shards):
    cfg = lam_config()
    torch.manual_seed(1)
    first = LamTask(cfg, shards, None).module.state_dict()
    torch.manual_seed(2)
    second = LamTask(cfg, shards, None).module.state_dict()
    other = LamTask(
        replace(cfg, train=replace(cfg.train, seed=5)), shards, None
    ).module.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["objective.idm.head.weight"], other["objective.idm.head.weight"])


def test_labeled_windows_are_pairs_as_far_apart_as_those_without_labels(shards, labeled, tmp_path):
    task = LamTask(lam_config("laom", weight=0.1), shards, labeled)
    batches = LocalContext(str(tmp_path)).clips(task.demands(), 1, 0)
    inputs = task.inputs(next(batches))
    assert inputs.labeled.offset_steps.max() > 1
    assert inputs.window.offset_steps.max() > 1
    assert inputs.labeled.true_action.shape == (8, 2)
    assert inputs.window.true_action is None


def test_the_probe_gives_the_same_numbers_twice(shards, labeled):
    objective = LamTask(lam_config(), shards, labeled).module.objective
    probe = LamProbe(labeled, ProbeConfig(), seed=0)
    assert probe.skipped is None
    assert probe.measure(objective) == probe.measure(objective)
    assert objective.training


def test_the_probe_takes_every_transition_or_a_thinned_out_share(labeled, shards):
    objective = LamTask(lam_config(), shards, labeled).module.objective
    everything = LamProbe(labeled, ProbeConfig(), seed=0).measure(objective)
    thinned = LamProbe(labeled, ProbeConfig(max_transitions=16), seed=0).measure(objective)
    assert everything["probe/n"] > 50
    assert thinned["probe/n"] == 16
    assert everything["probe/num_episodes"] == thinned["probe/num_episodes"] == 8


def test_the_probe_is_skipped_with_a_reason_where_nothing_is_held_out(shards, tmp_path):
    uri = write_shard_set(tmp_path, num_clips=4, frames=(3, 4), has_labels=True)
    probe = LamProbe(uri, ProbeConfig(), seed=0)
    assert "4 labeled training episodes and 0 held out" in probe.skipped
    assert probe.measure(LamTask(lam_config(), shards, None).module.objective) == {}


def test_supervision_without_labels_is_refused(shards):
    with pytest.raises(ConfigError, match="no labeled shards"):
        LamTask(lam_config(weight=0.1), shards, None)


def test_videos_as_labeled_shards_are_refused(shards):
    with pytest.raises(ConfigError, match="no actions"):
        LamTask(lam_config(), shards, shards)


def test_labeled_frames_of_another_size_are_refused(shards, tmp_path):
    other = write_shard_set(tmp_path, num_clips=4, frames=(3, 4), size_px=32, has_labels=True)
    with pytest.raises(ConfigError, match=r"32x32 px at 10 per second.*16x16"):
        LamTask(lam_config(), shards, other)


def test_an_objective_that_does_not_fit_its_latent_size_is_a_config_error():
    raw = config_to_dict(lam_config())
    raw["objective"]["latent_action_dim"] = 7
    with pytest.raises(ConfigError, match="latent_action_dim must be a multiple"):
        config_from_dict(TrainLamConfig, raw)


def test_how_much_the_data_moves_travels_with_the_lam_and_its_untrained_control(
    shards, labeled, tmp_path
):
    task = LamTask(lam_config(), shards, labeled)
    train(task.cfg.train, task, LocalContext(str(tmp_path)))
    objective = task.module.objective
    typical = objective.idm.change_scale.typical
    assert 0 < typical < 1
    assert torch.equal(load_lam(str(tmp_path)).objective.idm.change_scale.typical, typical)
    random_lam = untrained(objective, seed=0)
    assert torch.equal(random_lam.idm.change_scale.typical, typical)
    assert not torch.equal(random_lam.idm.head.weight, objective.idm.head.weight)


def test_a_resumed_lam_keeps_the_scale_of_its_checkpoint(shards, tmp_path):
    cfg = lam_config(num_steps=2)
    first = LamTask(cfg, shards, None)
    train(cfg.train, first, LocalContext(str(tmp_path)))
    longer = replace(cfg, train=replace(cfg.train, num_steps=3))
    resumed = LamTask(longer, shards, None)
    resumed.prepare = None  # a resumed run must not measure again
    train(longer.train, resumed, LocalContext(str(tmp_path)))
    scales = [task.module.objective.idm.change_scale.typical for task in (first, resumed)]
    assert torch.equal(*scales) and scales[0] != 1


def test_a_lam_of_other_videos_measures_their_motion_anew(shards, tmp_path):
    run(lam_config(), shards, None, tmp_path)
    task = started_from(lam_config(), shards, None, str(tmp_path))
    scale = task.module.objective.idm.change_scale
    measured = scale.typical.clone()
    scale.typical.fill_(9.0)
    task.prepare(torch.device("cpu"))
    torch.testing.assert_close(scale.typical, measured)


def started_from(cfg: TrainLamConfig, shards: str, labeled: str | None, uri: str) -> LamTask:
    return LamTask(cfg, shards, labeled, init_from=uri)


@pytest.mark.parametrize("objective", ["lapo", "laom"])
def test_a_lam_starts_from_a_finished_one_with_a_fresh_head(objective, shards, labeled, tmp_path):
    run(lam_config(objective, weight=0.5), shards, labeled, tmp_path)
    finished = load_lam(str(tmp_path)).objective.state_dict()
    cfg = lam_config(objective, weight=0.5)
    cfg = replace(cfg, train=replace(cfg.train, seed=9))
    started = started_from(cfg, shards, labeled, str(tmp_path)).module
    fresh = LamTask(cfg, shards, labeled).module
    for name, value in started.objective.state_dict().items():
        assert torch.equal(value, finished[name]), name
    assert torch.equal(started.action_head.layers[0].weight, fresh.action_head.layers[0].weight)
    metrics = train(
        cfg.train,
        started_from(cfg, shards, labeled, str(tmp_path)),
        LocalContext(str(tmp_path / "second")),
    )
    assert metrics["step"] == 3


def test_a_lam_that_does_not_fit_is_refused_with_what_differs(shards, tmp_path):
    run(lam_config(), shards, None, tmp_path)
    wider = lam_config()
    wider = replace(wider, objective=replace(wider.objective, latent_action_dim=16))
    with pytest.raises(
        ConfigError, match=r"idm.head.weight: \(8, 32\) in the LAM, \(16, 32\) here"
    ):
        started_from(wider, shards, None, str(tmp_path))
    stacked = lam_config()
    stacked = replace(stacked, window=replace(stacked.window, frame_stack=2))
    with pytest.raises(ConfigError, match="sees 1 frames of 16x16 px, this model 2 of 16x16"):
        started_from(stacked, shards, None, str(tmp_path))
    with pytest.raises(ConfigError, match="LAM of objective lapo, this run trains laom"):
        started_from(lam_config("laom"), shards, None, str(tmp_path))
    with pytest.raises(ConfigError, match=r"No finished lam at .*nowhere"):
        started_from(lam_config(), shards, None, str(tmp_path / "nowhere"))


def test_a_lam_trains_on_a_mixture_of_shard_sets(shards, tmp_path):
    other = write_shard_set(tmp_path / "other", num_clips=12, frames=(6, 7), seed=5)
    data = (DataConfig(weight=3.0, motion_power=0.5), DataConfig(shards=other))
    cfg = replace(lam_config(), data=data)
    task = LamTask(cfg, (shards, other), None)
    metrics = train(cfg.train, task, LocalContext(str(tmp_path)))
    assert metrics["step"] == 3 and "val/loss" in metrics
    assert "| frames, weight 3 |" in (tmp_path / "model_card.md").read_text()
    large = write_shard_set(tmp_path / "large", num_clips=4, size_px=32)
    with pytest.raises(ConfigError, match=r"large holds frames of 32x32 px .* both alike"):
        LamTask(cfg, (shards, large), None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shards": "a", "data": [{"shards": "b"}]}, "Set shards or data, not both"),
        ({"data": [{"shards": "b"}, {"shards": "b"}]}, "lists a shard set twice"),
        ({"data": [{"weight": 0.0}]}, "data.0: weight must be positive, got 0.0"),
        ({"data": [{"motion_power": -1.0}]}, "motion_power must not be negative"),
    ],
)
def test_impossible_mixtures_are_refused(settings, message):
    raw = config_to_dict(lam_config()) | settings
    with pytest.raises(ConfigError, match=message):
        config_from_dict(TrainLamConfig, raw)


@pytest.mark.parametrize("head", [{}, {"hidden_dims": [16], "reads": "quantized"}])
def test_the_action_head_is_stored_with_the_lam_and_acts_as_it_was_trained(
    head, shards, labeled, tmp_path
):
    task = LamTask(cfg := lam_config(weight=0.5, head=head), shards, labeled)
    train(cfg.train, task, LocalContext(str(tmp_path)))
    decoder = load_lam_action_decoder(str(tmp_path))
    z = torch.randn(16, 8)
    with torch.no_grad():
        trained = task.module.eval()
        read = trained.objective.quantize(z) if head else z
        torch.testing.assert_close(decoder.decode(z, z), trained.action_head.decode(read))
        assert head == {} or not torch.equal(read, z)
    assert decoder.action == action_spec(labeled)


def test_a_lam_without_supervision_has_no_action_head(shards, tmp_path):
    run(lam_config(), shards, None, tmp_path)
    with pytest.raises(ConfigError, match=r"no action head.*supervision\.weight above 0"):
        load_lam_action_decoder(str(tmp_path))
