r"""Take a source video out of a run or a study: its clips, its near-duplicates, latents, pictures.

python -m ray_jobs.takedown output=runs/mine video_uri=s3://bucket/x.mp4 --dry-run
python -m ray_jobs.takedown output=runs/mine/shards/videos video_id=0123456789abcdef0123456789abcdef

A killed takedown goes on when it is run again. Removed videos stay out, because `preprocess` reads
takedowns.jsonl there. Reports and pictures that may show it are deleted. Models and tables of
results made before stay as they are; the output lists them.
"""

from dataclasses import replace

from data_pipelines.takedown.config import TakedownConfig
from lafp import storage
from lafp.config import ConfigError, config_from_dict
from lafp.config.help import describe
from lafp.runs.wording import printable
from ray_jobs.core.cli import described_parser, exit_codes
from ray_jobs.core.completion import KeyCompleter
from ray_jobs.core.early_checks import check_installed, storage_uri

_MADE_FROM_SHARDS = ("lam", "policy", "decoder", "evaluation", "lam_evaluation")


def parse() -> tuple[TakedownConfig, bool]:
    """Returns the config and ``--dry-run``. Ends the process if the command line is wrong.

    Values are taken as text, not as YAML: ids may look like numbers, and URIs may hold anything.
    """
    schema = "data_pipelines.takedown.config:TakedownConfig"
    keys = f"config keys:\n{describe(schema)}"
    parser = described_parser("python -m ray_jobs.takedown", __doc__, keys)
    settings = parser.add_argument("settings", nargs="+", metavar="key=value")
    settings.completer = KeyCompleter(schema)  # type: ignore[attr-defined]
    parser.add_argument("--dry-run", action="store_true", help="say what would go, write nothing")
    args = parser.parse_intermixed_args()
    with exit_codes():
        check_installed("takedown", "data")
        raw = {}
        for setting in args.settings:
            key, equals, value = setting.partition("=")
            if not equals:
                raise ConfigError(f"{setting!r} has no '='. Write it as key=value.")
            raw[key] = value
        cfg = config_from_dict(TakedownConfig, raw)
        return replace(cfg, output=storage_uri(cfg.output, "output").rstrip("/")), args.dry_run


if __name__ == "__main__":
    parse()  # a wrong command line is answered before the imports that take long

from data_pipelines.preprocess.taken_down import home_of
from data_pipelines.takedown.job import take_down
from lafp.runs.lease import InUseError
from ray_jobs.core.cluster import ray_job
from ray_jobs.core.job import JobError


def main() -> None:
    """Parses the command line and takes the video down."""
    cfg, is_dry_run = parse()
    with exit_codes():
        try:
            lines = take_down(cfg, is_dry_run, ray_job())
        except InUseError as error:
            raise JobError(str(error)) from None
        print("would take down:" if is_dry_run else "taken down:")
        for line in [*lines, *made_before(cfg.output)]:
            print(f"  {printable(line)}")


def made_before(output: str) -> list[str]:
    """Lists models and results that were made from the shards before the takedown."""
    home = home_of(output)
    folders = (home, storage.join(home, "stages"))
    made = [storage.join(folder, name) for folder in folders for name in _MADE_FROM_SHARDS]
    found = [uri for uri in made if storage.exists(uri)]
    return [f"made from the shards before, and left as it is: {uri}" for uri in found]


if __name__ == "__main__":
    main()
