r"""Publishes the finished models of a run, or a shard set, on the Hugging Face Hub.

lafp push runs/mine hf://user/name --dry-run
lafp push runs/mine hf://user/name --private
lafp push runs/mine/shards/videos hf://datasets/user/name

It pushes model.json, model.safetensors and config.yaml of the latent action model, the policies and
the action decoders, and a README.md that says what they were trained on. `hf auth login` or
HF_TOKEN gives the rights. Load them with lafp.Agent.load("hf://user/name").

Of a shard set it pushes shards, tables and a dataset card; a push that broke goes on when it is
started again. Train on it with shards=hf://datasets/user/name.
"""

import argparse

from ray_jobs.core.cli import described_parser, exit_codes
from ray_jobs.core.early_checks import check_folder, check_installed, check_run_folder


def parse() -> argparse.Namespace:
    """Parses the arguments. Ends the process for ``--help`` or wrong arguments."""
    parser = described_parser("lafp push", __doc__)
    parser.add_argument("run", metavar="RUN", help="folder or URI of the run or shard set")
    parser.add_argument("uri", metavar="hf://[datasets/]USER/NAME", help="with @BRANCH if wanted")
    parser.add_argument("--private", action="store_true", help="a new repository is private")
    parser.add_argument("--dry-run", action="store_true", help="print files and card, push nothing")
    return parser.parse_args()


def main() -> None:
    """Parses the command line and pushes."""
    args = parse()
    with exit_codes():
        if _is_dataset(args.uri):
            check_installed("push", "data")  # reads tables in parquet
            check_folder(args.run, "shard set", "preprocess wrote, such as runs/mine/shards/videos")
        else:
            check_run_folder(args.run)
        push(args.run, args.uri, args.private, args.dry_run)


def push(run_dir: str, uri: str, is_private: bool, is_dry: bool) -> None:
    """Pushes a run, or prints what would be pushed.

    Raises:
        ConfigError: The run has no finished models, or the hub refuses.
    """
    # Imported only now, so that a wrong command line is answered before torch is loaded.
    from lafp import storage
    from lafp.finished import hub
    from lafp.finished.hub_card import published
    from lafp.runs.run_dir import RunDir

    if _is_dataset(uri):
        push_set(storage.uri_of(run_dir), uri, is_private, is_dry)
        return
    hub.parse_repository(uri)  # a wrong one is said before the run is read
    found = published(RunDir(storage.uri_of(run_dir)), uri)
    for name, source in found.files.items():
        print(f"{name}  {storage.num_bytes(source):,} bytes")
    for name, text in found.texts.items():
        print(f"{name}  {len(text.encode()):,} bytes")
    if is_dry:
        print(f"\n{found.texts[hub.README]}")
    else:
        print(f"pushed: {hub.publish(uri, found.files, found.texts, is_private)}")


def _is_dataset(uri: str) -> bool:
    return uri.startswith("hf://datasets/")


def push_set(folder: str, uri: str, is_private: bool, is_dry: bool) -> None:
    """Pushes a shard set, or prints what would be pushed.

    Raises:
        ConfigError: There is no finished shard set, or the hub refuses.
    """
    from lafp.finished import dataset_hub
    from lafp.runs.run_dir import StageDir

    dataset_hub.parse_dataset(uri)
    found = dataset_hub.published_set(StageDir(folder, folder.rstrip("/").rpartition("/")[2]), uri)
    num_bytes = sum(found.sizes.values())
    print(f"{len(found.shards)} shards, {num_bytes:,} bytes, with tables and card")
    print("Mind: the tables in clips/ and the clips name the path or address of their videos.")
    if is_dry:
        print(f"\n{found.card}")
    else:
        print(f"pushed: {dataset_hub.publish_set(uri, found, is_private, print)}")


if __name__ == "__main__":
    main()
