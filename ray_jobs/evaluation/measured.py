"""Names what an evaluation measures: the latent action model, shard sets and ways to act."""

from dataclasses import replace

from lafp import storage
from lafp.config import Choice, ConfigError
from lafp.envs import ENVS
from lafp.envs.base import VectorEnv
from lafp.evaluate.config import EvaluateConfig
from lafp.evaluate.rows.results import DEMONSTRATOR, RANDOM, Subject
from lafp.evaluate.rows.subjects import demonstrator_subject, lam_subject, method_subject
from lafp.finished.load import LAM_HEAD
from lafp.runs.run_dir import RunDir


def lam_uri(cfg: EvaluateConfig, run: RunDir) -> str:
    """Returns the folder of the latent action model."""
    return cfg.lam or run.stage("lam").uri


def stages_of_methods(cfg: EvaluateConfig) -> list[str]:
    """Names the run's policies and action decoders that the methods use."""
    decoders = (method.action_decoder for method in cfg.methods)
    return [
        *(f"policy/{method.policy}" for method in cfg.methods),
        *(f"decoder/{name}" for name in decoders if name not in (None, LAM_HEAD)),
    ]


def environment(cfg: EvaluateConfig) -> VectorEnv:
    """Builds the environment of the rollouts, which the config must name.

    Raises:
        ConfigError: Its simulator is missing, or its tasks would get different numbers of episodes.
    """
    assert cfg.env is not None
    return build_environment(cfg.env, cfg.num_episodes)


def build_environment(cfg: Choice, num_episodes: int) -> VectorEnv:
    """Like ``environment``, for a number of episodes."""
    env = ENVS.build(cfg)
    if env.tasks and num_episodes % len(env.tasks):
        raise ConfigError(
            f"num_episodes must be a multiple of the {len(env.tasks)} tasks of {env.task}, so that "
            f"all get the same number, got {num_episodes}."
        )
    return env


def subjects(cfg: EvaluateConfig, run: RunDir, env: VectorEnv) -> dict[str, Subject]:
    """Describes the demonstrators, random actions where returns count, and every method, by label.

    Raises:
        ConfigError: A model is missing, or the environment's frames differ in size or rate from
            those that a policy was trained on.
    """
    lam = latent_action_model(cfg, run)
    demonstrator = demonstrator_subject(env, cfg.study, cfg.variant)
    found = {DEMONSTRATOR: demonstrator}
    if env.has_return:
        found[RANDOM] = replace(demonstrator, label=RANDOM, method=RANDOM)
    for method in cfg.methods:
        found[method.label] = method_subject(run.uri, method, lam, env)
    return found


def latent_action_model(cfg: EvaluateConfig, run: RunDir) -> Subject:
    """Describes the latent action model."""
    shards = labeled_shards(cfg, run) if has_labeled_shards(cfg, run) else None
    return lam_subject(lam_uri(cfg, run), shards, cfg.study, cfg.variant)


def labeled_shards(cfg: EvaluateConfig, run: RunDir) -> str:
    """Returns the shard set with held-out labeled clips."""
    return cfg.labeled_shards or run.stage("shards/labeled").uri


def has_labeled_shards(cfg: EvaluateConfig, run: RunDir) -> bool:
    """Says whether there is a shard set with labeled clips."""
    own = run.stage("shards/labeled").path("summary.json")
    return cfg.labeled_shards is not None or storage.is_file(own)


def viewed_shards(cfg: EvaluateConfig, run: RunDir) -> dict[str, float]:
    """Maps the shard sets for latent views to their weights: see ``EvaluateConfig.shards``."""
    if cfg.shards is not None:
        return {cfg.shards: 1.0}
    own, lam = run.stage(own_shards(run)).uri, run.stage("lam")
    if cfg.lam is not None or not lam.is_begun():
        return {own: 1.0}
    trained = lam.config()
    data = trained.get("data") or [{"shards": trained.get("shards"), "weight": 1.0}]
    uris = [storage.absolute(item["shards"]) if item["shards"] else own for item in data]
    return {uri: item["weight"] for uri, item in zip(uris, data, strict=True)}


def own_shards(run: RunDir) -> str:
    """Names the run's own videos, or its labeled episodes if it has no videos."""
    has_labeled_only = run.complete("shards/labeled") and not run.complete("shards/videos")
    return "shards/labeled" if has_labeled_only else "shards/videos"
