"""Compare runs: configs, versions, data, curves and results side by side, on one page.

lafp compare runs/first runs/second
lafp compare runs/first s3://bucket/runs/second runs/third --out comparison.html

It compares the stages that all runs have, prints a summary, and writes one self-contained HTML
page. It starts no Ray and changes no run.
"""

import argparse

from lafp import storage
from lafp.config import ConfigError
from lafp.runs.wording import printable
from ray_jobs.core.cli import described_parser, exit_codes
from ray_jobs.core.early_checks import check_installed, check_run_folder, storage_uri


def parse() -> argparse.Namespace:
    """Parses the command line. Ends the process if it is wrong."""
    parser = described_parser("lafp compare", __doc__)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="folder or URI (s3://, gs://, az://) of a run"
    )
    parser.add_argument(
        "--out",
        default="compare.html",
        metavar="FILE",
        help="the page, a file or URI; one that is there is replaced (default: %(default)s)",
    )
    args = parser.parse_args()
    with exit_codes():
        if len(args.runs) < 2:
            raise ConfigError(f"One run is named, {args.runs[0]}. Name at least two.")
        check_installed("compare", "train")
        for run in args.runs:
            check_run_folder(run)
        args.out = storage_uri(args.out, "--out")
    return args


def main() -> None:
    """Compares the runs."""
    args = parse()
    with exit_codes():
        from lafp.report.comparison.comparison_page import write_comparison  # takes seconds

        runs = [storage.absolute(storage.uri_of(run)) for run in args.runs]
        for line in write_comparison(runs, args.out):
            print(printable(line))
        print(f"page: {args.out}")


if __name__ == "__main__":
    main()
