"""Defines the command line that all jobs share."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lafp import storage
from lafp.config import ConfigError, check_keys, config_to_yaml, load_config, read_config
from lafp.config.help import describe
from lafp.config.source import read_section
from lafp.runs.run_dir import RunDir, check_folder_name
from lafp.runs.wording import printable
from lafp.storage import StorageError
from lafp.storage.strict_json import DamagedError
from ray_jobs.core import home
from ray_jobs.core.cluster import RayLostError, what_was_lost
from ray_jobs.core.completion import CompletingParser, KeyCompleter
from ray_jobs.core.early_checks import (
    check_installed,
    check_no_secrets,
    check_sources,
    storage_uri,
)
from ray_jobs.core.job import Job, JobError, dry_run, execute


def described_parser(
    command: str, doc: str | None, more: str | None = None
) -> argparse.ArgumentParser:
    """Makes a parser whose help is a module's docstring as it is written, and ``more`` at its end.

    ``command`` is what a user types, such as ``lafp view``.
    """
    return CompletingParser(
        prog=command,
        description=doc,
        epilog=more,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


@dataclass(frozen=True)
class CommandLine:
    """Describes the command line of one job.

    A job's module creates it before the imports that take seconds. So help and usage errors, which
    do not need these imports, are answered at once.
    """

    job: str
    schema: str
    """The class of the job's config, as ``"package.module:Class"``."""
    doc: str | None
    accepts_changes: bool = False
    """Whether the job, or one of its stages, trains and can go on with another config."""
    has_page: bool = False
    """Whether the job can write its results into a page (``--page``)."""
    extra: Literal["data", "train"] = "train"
    """The extra of the package lafp that the job needs."""
    can_be_alone: bool = False
    """Whether the job, with some configs, does without Ray."""

    def answer_early(self) -> None:
        """Ends the process if help is wanted or the command line is wrong.

        Otherwise it prepares the process for the imports that follow.
        """
        with exit_codes():
            args = self.parse()
            check_installed(self.job, self.extra, self.can_be_alone)
            section = read_section(self.schema)
            raw = read_config(section, args.config, args.overrides)
            check_keys(section, raw)
            check_no_secrets(raw)
            _run_of(self, args)
            check_sources(raw)
        home.make_usable()

    def parse(self) -> argparse.Namespace:
        """Parses the arguments. Ends the process for ``--help`` or wrong arguments."""
        # The list of config keys is read from many source files, so it is made only when somebody
        # sees it.
        is_help = {"-h", "--help"} & set(sys.argv[1:])
        keys = f"config keys:\n{describe(self.schema)}" if is_help else None
        parser = described_parser(f"python -m ray_jobs.{self.job}", self.doc, keys)
        parser.add_argument("config", metavar="CONFIG.yaml", help="the job's config")
        overrides = parser.add_argument(
            "overrides", nargs="*", default=[], metavar="section.key=value"
        )
        overrides.completer = KeyCompleter(self.schema)  # type: ignore[attr-defined]
        parser.add_argument("--run-name", help="default: the config's file name")
        parser.add_argument(
            "--storage",
            default="runs",
            help="folder or URI (s3://, gs://, az://) of all runs (default: %(default)s)",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="print config and plan, check, write nothing"
        )
        if self.accepts_changes:
            parser.add_argument(
                "--accept-changes",
                action="store_true",
                help="go on from the last checkpoint although config or inputs have changed; "
                "provenance.json records what changed and at which step",
            )
        if self.has_page:
            parser.add_argument(
                "--page",
                help="Markdown file, e.g. docs/results.md: results go into a section of it",
            )
        # `parse_args` would refuse overrides that come after an option.
        args = parser.parse_intermixed_args()
        for option in ("run_name", "storage", "page"):
            if isinstance(getattr(args, option, None), list):  # argparse takes --x=-- for no value
                parser.error(f"argument --{option.replace('_', '-')}: expected one argument")
        return args


def main(job: Job, command_line: CommandLine) -> None:
    """Parses the command line and runs ``job``.

    The exit code is 0 when done, 1 on failure, 2 on wrong usage and 130 on Ctrl-C.
    """
    with exit_codes():
        _main(job, command_line)


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turns errors that the user can act on into one line on stderr and an exit code."""
    try:
        yield
    except ConfigError as error:
        print(f"Error: {printable(str(error))}", file=sys.stderr)
        sys.exit(2)
    except (JobError, DamagedError, RayLostError) as error:
        print(f"Error: {printable(str(error))}", file=sys.stderr)
        sys.exit(1)
    except StorageError as error:
        print(f"Error: {printable(str(error))}", file=sys.stderr)
        print("Run the same command again to resume.", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("Interrupted. Run the same command again to resume.", file=sys.stderr)
        # Shells report an interrupted command so: 128 plus the number of SIGINT.
        sys.exit(130)
    except Exception as error:
        if not (lost := what_was_lost(error)):
            raise
        print(f"Error: {lost}. Run the same command again to resume.", file=sys.stderr)
        sys.exit(1)


def _main(job: Job, command_line: CommandLine) -> None:
    args = command_line.parse()
    cfg = load_config(job.schema, args.config, args.overrides)
    run = _run_of(command_line, args)
    # Now, because a study takes days before it writes the page.
    page = _checked_page(args.page, cfg.name) if job.publish and args.page else None
    if args.dry_run:
        print(config_to_yaml(cfg))
        for line in dry_run(job, cfg, run):
            print(printable(line))
        return
    execute(job, cfg, run)
    if steps := job.next_steps(cfg, run):
        print("Next:")
        for step in steps:
            print(f"  {step}")
    if job.publish and page is not None:
        from lafp.report.markdown import Command  # with pandas

        command = Command(job=job.name, config=args.config, overrides=tuple(args.overrides))
        job.publish(cfg, run, page, command)
        print(f"results: {args.page}")


def _checked_page(page: str, section: str) -> str:
    """Returns the URI of the page that is to hold the section.

    Raises:
        ConfigError: It is not the path or URI of a file, or its markers of the section are broken.
    """
    uri = storage_uri(page, "--page")
    if not storage.is_remote(uri) and Path(uri).is_dir():
        raise ConfigError(f"--page {page!r} is a folder. Name a Markdown file, such as results.md.")
    from lafp.report.markdown import around_section  # with pandas

    around_section(uri, section)
    return uri


def _run_of(command_line: CommandLine, args: argparse.Namespace) -> RunDir:
    run_name = Path(args.config).stem if args.run_name is None else args.run_name
    check_folder_name(run_name, "--run-name")
    return RunDir(
        storage.join(storage_uri(args.storage), run_name),
        accept_changes=command_line.accepts_changes and args.accept_changes,
    )
