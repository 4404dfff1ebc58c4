"""About the run itself: one paragraph, versions, where time went, configs, outputs."""

from collections.abc import Sequence

from lafp.data.shards.sets import open_shard_set
from lafp.evaluate.grouped import Results
from lafp.evaluate.run_record import RunRecord, StageRecord
from lafp.report import distributions
from lafp.report.blocks import TIMES, Listing, Section, Table, chart
from lafp.runs.progress import duration
from lafp.runs.wording import byte_size, counted


def facts(run: RunRecord) -> list[tuple[str, str]]:
    """Name and value pairs for the report's head."""
    if not run.stages:
        return []
    first, last = run.stages[0].provenance, run.stages[-1].provenance
    revisions = {_short(s.provenance.get("git_revision") or "unknown") for s in run.stages}
    packages = last.get("packages", {})
    shown = ("lafp", "torch", "ray", "deepspeed", "av")
    wall_s = sum((stage.summary or {}).get("wall_s", 0.0) for stage in run.stages)
    return [
        ("Begun", str(first.get("begun_at", "unknown")).replace("T", " ")[:16]),
        ("Time in stages", duration(wall_s)),
        ("Git revision", _at_most(sorted(revisions), 2)),
        ("Machine", f"{last.get('num_cpus')} cores, {last.get('platform')}"),
        ("Python", str(last.get("python"))),
        ("Packages", ", ".join(f"{name} {packages[name]}" for name in shown if packages.get(name))),
    ]


def in_words(run: RunRecord, results: Results) -> str:
    """Says what was run, in one paragraph, from the stages that are complete."""
    sentences = []
    if shards := run.complete_below("shards"):
        sentences.append(f"Preprocessed {_list([_shards_in_words(stage) for stage in shards])}.")
    if lam := run.complete("lam"):
        sentences.append(_lam_in_words(lam))
    trained = run.complete_below("policy")
    # Policies of true actions know no LAM.
    policies = [f"`{_last(s.name)}`" for s in trained if "label_fraction" not in s.config]
    decoders = run.complete_below("decoder")
    if policies:
        text = f"Trained the policies {_list(policies)} on its latent actions"
        if decoders:
            text += f", and {counted(len(decoders), 'action decoder')} on the labeled episodes"
        sentences.append(text + ".")
    if (evaluation := run.complete("evaluation")) and (env := evaluation.config.get("env")):
        is_distracted = any(row.distractors for row in results.rows)
        distractors = " with distractors" if is_distracted else ""
        sentences.append(
            f"Rolled out {counted(len(evaluation.config['methods']), 'way')} to act in "
            f"{env['name']}{distractors}, {evaluation.config['num_episodes']} episodes each."
        )
    unfinished = [stage.name for stage in run.stages if stage.summary is None]
    if unfinished:
        sentences.append(f"Not finished: {_list(unfinished)}.")
    return " ".join(sentences)


def _shards_in_words(stage: StageRecord) -> str:
    spec = open_shard_set(stage.uri)
    rate = f", {spec.fps:g} frames/s" if spec.fps else ""
    return (
        f"`{_last(stage.name)}`{_from(stage)} ({counted(sum(spec.num_clips.values()), 'clip')}, "
        f"{duration(3600 * spec.num_hours)}, {spec.width_px}{TIMES}{spec.height_px} px{rate})"
    )


def _from(stage: StageRecord) -> str:
    source = stage.config.get("source")
    return f" from `{source}`" if source else ""


def _lam_in_words(stage: StageRecord) -> str:
    config = stage.config
    weight = (config.get("supervision") or {}).get("weight")
    labels = f"with action supervision of weight {weight:g}" if weight else "without labels"
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


def time_section(run: RunRecord) -> Section | None:
    """Wall-clock time per complete stage."""
    timed = [
        (stage.name, float(stage.summary["wall_s"]))
        for stage in run.stages
        if stage.summary and "wall_s" in stage.summary
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


def files_section(run: RunRecord) -> Section:
    """Paths of the outputs and the resolved configs."""
    rows = []
    for stage in run.stages:
        size = (stage.summary or {}).get("num_bytes")
        state = "complete" if stage.summary is not None else "not finished"
        rows.append([stage.name, stage.uri, state, byte_size(size) if size else ""])
    listings = [
        Listing(title=f"{stage.name}/config.yaml", body=stage.config_yaml) for stage in run.stages
    ]
    table = Table(head=["Stage", "Folder", "State", "Size"], rows=rows, num_text_columns=3)
    return Section(
        id="files",
        short="Files and configs",
        title="Outputs and configs",
        blocks=[table, *listings],
    )
