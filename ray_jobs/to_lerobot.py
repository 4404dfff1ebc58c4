r"""Write clips and their latent actions as a LeRobot v3.0 dataset, to train other policies on.

lafp to-lerobot runs/mine datasets/mine
lafp to-lerobot runs/mine datasets/mine --latent-key action --task "pick up the cup"

It needs the run's latent actions, which `lafp label-latents` stores, and neither Ray nor lerobot.
Videos are copied, not encoded anew. After a kill, the same command writes the dataset anew.
"""

import argparse
import re

from lafp.config import ConfigError
from ray_jobs.core.cli import described_parser, exit_codes
from ray_jobs.core.early_checks import check_installed, storage_uri

_TAKEN = ("timestamp", "frame_index", "episode_index", "index", "task_index", "observation.state")


def parse() -> argparse.Namespace:
    """Parses the arguments. Ends the process for ``--help`` or wrong arguments."""
    parser = described_parser("lafp to-lerobot", __doc__)
    parser.add_argument("run", metavar="RUN", help="folder or URI (s3://, gs://, az://) of the run")
    parser.add_argument("out", metavar="OUT", help="new folder or URI of the dataset")
    parser.add_argument("--latents", metavar="NAME", help="latent set, if the run has several")
    parser.add_argument(
        "--shards", metavar="URI", help="their shard set, if it is not below the run"
    )
    parser.add_argument(
        "--latent-key",
        default="latent_action",
        metavar="KEY",
        help="feature of the latent actions; `action` lets LeRobot's policies learn them, and true "
        "actions are named true_action (default: %(default)s)",
    )
    parser.add_argument(
        "--task", metavar="TEXT", help="task of every episode (default: the name of its source)"
    )
    args = parser.parse_args()
    with exit_codes():
        check_installed("to_lerobot", "data")
        _check_key(args.latent_key)
        args.run, args.out = storage_uri(args.run, "RUN"), storage_uri(args.out, "OUT")
        if args.shards:
            args.shards = storage_uri(args.shards, "--shards")
    return args


def _check_key(key: str) -> None:
    # LeRobot joins names of features and files by slashes.
    if not re.fullmatch(r"[A-Za-z]\w*(\.\w+)*", key) or key in _TAKEN:
        raise ConfigError(
            f"--latent-key is {key!r}. Take letters, digits, '_' and '.', and none of "
            f"{', '.join(_TAKEN)}."
        )


if __name__ == "__main__":
    parse()  # a wrong command line is answered before the imports that take long

from data_pipelines.to_lerobot.job import Written, reasons_in_words, to_lerobot
from lafp.data.shards.sets import shards_sha256
from lafp.data.stored_latents import open_latent_set
from lafp.runs.lease import InUseError
from lafp.runs.run_dir import RunDir
from lafp.runs.wording import counted
from ray_jobs.core.job import JobError


def main() -> None:
    """Parses the command line and writes the dataset."""
    args = parse()
    with exit_codes():
        run, out = RunDir(args.run), args.out
        latents = latents_of(run, args.latents)
        shards = args.shards or shards_of(run, latents)
        try:
            made = to_lerobot(shards, latents, out, args.latent_key, args.task, print)
        except InUseError as error:
            raise JobError(str(error)) from None
        for line in outcome(made, out):
            print(line)


def latents_of(run: RunDir, name: str | None) -> str:
    """Returns the URI of the run's latent set.

    Raises:
        ConfigError: There is none, none of this name, or one must be chosen.
    """
    found = {stage.name.rpartition("/")[2]: stage.uri for stage in run.complete_below("latents")}
    if not found:
        raise ConfigError(
            f"{run.uri} has no latent actions. Store them first: lafp label-latents "
            f"configs/label_latents/videos.yaml --run-name {run.name}"
        )
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if name not in found:
        which = "several latent sets" if name is None else f"no latent set {name!r}"
        raise ConfigError(f"{run.uri} has {which}. Take --latents {' or '.join(found)}.")
    return found[name]


def shards_of(run: RunDir, latents: str) -> str:
    """Returns the URI of the run's shard set that a latent set was made from.

    Raises:
        ConfigError: The run has none.
    """
    wanted = open_latent_set(latents).shards_sha256
    for stage in run.stages_below("shards"):
        if stage.has("shard_set.json") and shards_sha256(stage.uri) == wanted:
            return stage.uri
    raise ConfigError(
        f"{latents} was made from shards that do not lie below {run.uri}. Name them: --shards URI"
    )


def outcome(made: Written | None, out: str) -> list[str]:
    """Returns lines that say what the dataset holds."""
    if made is None:
        return [f"complete already: {out}"]
    lines = [f"{counted(made.num_episodes, 'episode')}, {counted(made.num_frames, 'frame')}: {out}"]
    if made.rejects:
        num = counted(sum(made.rejects.values()), "clip")
        lines.append(f"left out: {num} ({reasons_in_words(made.rejects)}), see rejects.parquet")
    return lines


if __name__ == "__main__":
    main()
