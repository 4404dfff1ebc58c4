"""Describes the run itself: one paragraph, versions, where time went, configs, outputs."""

from collections.abc import Sequence

from lafp.data.shards.sets import open_shard_set
from lafp.evaluate.rows.grouped import Results
from lafp.report import distributions
from lafp.report.blocks import TIMES, Listing, Section, Table, chart
from lafp.runs.progress import duration
from lafp.runs.run_dir import RunDir, StageDir
from lafp.runs.wording import byte_size, counted


def facts(stages: Sequence[StageDir]) -> list[tuple[str, str]]:
    """Returns names and values for the report's head."""
    found = [stage.provenance() for stage in stages]
    first, last = found[0], found[-1]
    revisions = {_short(each.get("git_revision") or "unknown") for each in found}
    packages = last.get("packages", {})
    shown = ("lafp", "torch", "ray", "deepspeed", "av")
    wall_s = sum(stage.summary().get("wall_s", 0.0) for stage in stages if stage.is_complete())
    return [
        ("Begun", str(first.get("begun_at", "unknown")).replace("T", " ")[:16]),
        ("Time in stages", duration(wall_s)),
        ("Git revision", _at_most(sorted(revisions), 2)),
        ("Machine", f"{last.get('num_cpus')} cores, {last.get('platform')}"),
        ("Python", str(last.get("python"))),
        ("Packages", ", ".join(f"{name} {packages[name]}" for name in shown if packages.get(name))),
    ]


def in_words(run: RunDir, stages: Sequence[StageDir], results: Results) -> str:
    """Says what was run, in one paragraph, and which of the begun stages are not complete."""
    sentences = []
    if shards := run.complete_below("shards"):
        sentences.append(f"Preprocessed {_list([_shards_in_words(stage) for stage in shards])}.")
    if lam := run.complete("lam"):
        sentences.append(_lam_in_words(lam))
    trained = run.complete_below("policy")
    # Policies of true actions know no LAM.
    policies = [f"`{_last(s.name)}`" for s in trained if "label_fraction" not in s.config()]
    decoders = run.complete_below("decoder")
    if policies:
        text = f"Trained the policies {_list(policies)} on its latent actions"
        if decoders:
            text += f", and {counted(len(decoders), 'action decoder')} on the labeled episodes"
        sentences.append(text + ".")
    evaluation = run.complete("evaluation")
    if evaluation and (env := (config := evaluation.config()).get("env")):
        is_distracted = any(row.distractors for row in results.rows)
        distractors = " with distractors" if is_distracted else ""
        sentences.append(
            f"Rolled out {counted(len(config['methods']), 'way')} to act in "
            f"{env['name']}{distractors}, {config['num_episodes']} episodes each."
        )
    unfinished = [stage.name for stage in stages if not stage.is_complete()]
    if unfinished:
        sentences.append(f"Not finished: {_list(unfinished)}.")
    return " ".join(sentences)


def _shards_in_words(stage: StageDir) -> str:
    spec = open_shard_set(stage.uri)
    rate = f", {spec.fps:g} frames/s" if spec.fps else ""
    return (
        f"`{_last(stage.name)}`{_from(stage)} ({counted(sum(spec.num_clips.values()), 'clip')}, "
        f"{duration(3600 * spec.num_hours)}, {spec.width_px}{TIMES}{spec.height_px} px{rate})"
    )


def _from(stage: StageDir) -> str:
    source = stage.config().get("source")
    return f" from `{source}`" if source else ""


def _lam_in_words(stage: StageDir) -> str:
    config = stage.config()
    weight = (config.get("supervision") or {}).get("weight")
    labels = f"with action supervision of weight {weight:g}" if weight else "without labels"
    if config.get("fdm_weight") == 0:
        labels = "on labels alone"
    train = config["train"]
    engine = train["engine"]["name"]
    if engine == "deepspeed":
        engine += f" ZeRO-{train['engine']['zero_stage']}"
    workers = counted(train["num_workers"], "worker")
    return (
        f"Pretrained a latent action model (`{config['objective']['name']}`, "
        f"{train['num_steps']:,} steps of {train['global_batch_size']} windows, {labels}; {engine}"
        f" on {workers})."
    )


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _at_most(names: list[str], count: int) -> str:
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + rest


def _short(revision: str) -> str:
    commit, plus, rest = revision.partition("+")
    return commit[:10] + plus + rest


def time_section(stages: Sequence[StageDir]) -> Section | None:
    """Shows the wall-clock time of each complete stage."""
    timed = [
        (stage.name, float(summary["wall_s"]))
        for stage in stages
        if stage.is_complete() and "wall_s" in (summary := stage.summary())
    ]
    if not timed:
        return None
    names, seconds = zip(*timed, strict=True)
    figure = chart(
        distributions.bars(names, seconds, "seconds", notes=[duration(s) for s in seconds]),
        alt="Wall-clock time per stage.",
        caption="Wall-clock time of each stage's last run; a stage resumed after an interruption "
        "counts from its resumption.",
    )
    return Section(id="time", short="Time", title="Where the time went", blocks=[figure])


def files_section(stages: Sequence[StageDir]) -> Section:
    """Shows the paths of the outputs, and the resolved configs."""
    rows = []
    for stage in stages:
        is_complete = stage.is_complete()
        size = stage.summary().get("num_bytes") if is_complete else None
        state = "complete" if is_complete else "not finished"
        rows.append([stage.name, stage.uri, state, byte_size(size) if size else ""])
    listings = [
        Listing(title=f"{stage.name}/config.yaml", body=stage.config_yaml()) for stage in stages
    ]
    table = Table(head=["Stage", "Folder", "State", "Size"], rows=rows, num_text_columns=3)
    return Section(
        id="files",
        short="Files and configs",
        title="Outputs and configs",
        blocks=[table, *listings],
    )
