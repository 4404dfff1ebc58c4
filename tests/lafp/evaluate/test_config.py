from pathlib import Path

import pytest

from lafp.config import ConfigError, config_from_dict, load_config
from lafp.evaluate.config import EvaluateConfig

FOLDER = Path(__file__).parents[3] / "configs/evaluate"
CONFIGS = sorted(FOLDER.glob("*.yaml"))
METHOD = {"label": "bc", "policy": "latent_bc", "action_decoder": "latent_bc"}
HELD = {"noise": "held", "noise_hold_steps": 6}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads(path):
    cfg = load_config(EvaluateConfig, path)
    # The one that looks at a LAM alone has neither.
    assert (cfg.env is None, not cfg.methods) == (path.stem == "latents",) * 2


def test_the_slalom_ablation_differs_in_nothing_but_the_anchor():
    cfg = load_config(EvaluateConfig, FOLDER / "slalom.yaml")
    fresh = [m for m in cfg.methods if m.policy == "latent_flow" and m.noise == "fresh"]
    assert {(m.policy, m.noise, m.num_solver_steps) for m in fresh} == {
        ("latent_flow", "fresh", None)
    }
    anchors = {m.action_decoder for m in fresh}
    assert anchors == {"latent_flow", "latent_flow_anchor_0", "latent_flow_anchor_1"}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"methods": [METHOD]}, "methods need an environment"),
        ({"env": {"name": "slalom"}, "methods": [METHOD, METHOD]}, r"\['bc'\] appear twice"),
        ({"env": {"name": "slalom"}, "methods": [METHOD | {"label": "a/b"}]}, "methods.0: label"),
        ({"env": {"name": "slalom"}, "methods": [METHOD | {"label": "demonstrator"}]}, "is taken"),
        ({"env": {"name": "slalom"}, "methods": [METHOD | {"num_solver_steps": 0}]}, "at least 1"),
        (
            {"env": {"name": "slalom"}, "methods": [METHOD | {"noise_hold_steps": 0}]},
            "noise_hold_steps must be at least 1",
        ),
        (
            {"env": {"name": "slalom"}, "methods": [METHOD | HELD | {"noise": "fresh"}]},
            "noise_hold_steps belongs to noise held, got noise fresh",
        ),
        ({"num_episodes": 0}, "num_episodes must be at least 1"),
        ({"save_rollouts": 101}, "save_rollouts must be at most episodes_per_task"),
        ({"latency": {"batch_sizes": []}}, "latency: batch_sizes must be positive"),
        ({"env": {"name": "chess"}}, "Choose one of: dmc, metaworld, metaworld_mt, minigrid, proc"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_measured_is_rejected(raw, message):
    with pytest.raises(ConfigError, match=message):
        config_from_dict(EvaluateConfig, raw)
