"""Checks what the user typed: packages, folders, sources and addresses, before anything starts."""

import os
import re
from importlib.util import find_spec
from pathlib import Path

from lafp import storage
from lafp.config import ConfigError
from lafp.storage.secrets import text_without_secrets, without_secrets

_DATA = ("av", "PIL", "pyarrow", "ray")
_PACKAGES = {
    "data": _DATA,
    "train": (*_DATA, "deepspeed", "jinja2", "matplotlib", "pandas", "scipy", "wandb"),
}
"""Extra of the package lafp -> packages that it brings."""
_NOT_NEEDED_ALONE = {"deepspeed", "ray", "wandb"}
"""Packages without which a training can do that starts no Ray."""


def check_installed(job: str, extra: str, can_be_alone: bool = False) -> None:
    """Raises ConfigError if a package of the extra is not installed.

    It looks for a few packages of each extra only.

    Args:
        job: The job's name.
        extra: The extra of the package lafp.
        can_be_alone: Whether the job may do without Ray, DeepSpeed and wandb.
    """
    needed = set(_PACKAGES[extra]) - (_NOT_NEEDED_ALONE if can_be_alone else set())
    missing = [name for name in _PACKAGES[extra] if name in needed and find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{job} needs packages that are not installed: {', '.join(missing)}. Install them "
            f"with: pip install 'lafp[{extra}]'"
        )


def check_run_folder(run: str) -> None:
    """Checks that the folder of a run exists; see ``check_folder``."""
    check_folder(run, "run folder", "training wrote, such as runs/mine")


def check_folder(folder: str, kind: str, who_wrote: str) -> None:
    """Checks that a folder exists, for commands that would load torch to find out.

    Args:
        folder: A path, or a URI, which is left to the command.
        kind: The name of such a folder in the message.
        who_wrote: Continues the sentence "Give the path that ...".

    Raises:
        ConfigError: It does not exist.
    """
    if not re.match(r"[a-zA-Z0-9+.-]+:/", folder) and not os.path.isdir(os.path.expanduser(folder)):
        raise ConfigError(f"No {kind} at {folder!r}. Give the path that {who_wrote}.")


def check_no_secrets(raw: object, where: str = "") -> None:
    """Checks that no value of a config is a URI with a secret, because runs store their config.

    Raises:
        ConfigError: One is.
    """
    items = (
        raw.items() if isinstance(raw, dict) else enumerate(raw) if isinstance(raw, list) else ()
    )
    for name, value in items:
        if isinstance(value, str) and text_without_secrets(value) != value:
            raise ConfigError(
                f"{where}{name}: the URI holds a password, token or signature, and configs are "
                "stored with the run. Give keys by environment variables; name signed web "
                "addresses in a list, where they are not stored."
            )
        check_no_secrets(value, f"{where}{name}.")


def check_sources(raw: object, where: str = "") -> None:
    """Checks that the local folders and files that ``source`` keys name exist.

    Globs and URIs are left to the job.

    Raises:
        ConfigError: One is missing.
    """
    if isinstance(raw, list):
        for index, item in enumerate(raw):
            check_sources(item, f"{where}{index}.")
    for name, value in raw.items() if isinstance(raw, dict) else ():
        if name not in ("source", "val_source") or not isinstance(value, str):
            check_sources(value, f"{where}{name}.")
        elif not re.match(r"[a-zA-Z0-9+.-]+:/", value) and not set("*?[") & set(value):
            try:
                os.stat(os.path.expanduser(value))
            except (FileNotFoundError, NotADirectoryError):
                raise ConfigError(
                    f"{where}{name}: No such file or folder: {value}. A source is a folder, a "
                    "glob, a file or s3://bucket/prefix (or gs://, az://, hf://datasets/...)."
                ) from None
            except (OSError, ValueError):
                pass  # the job itself says what is wrong


def storage_uri(uri: str, argument: str = "--storage") -> str:
    """Returns the absolute URI of an output.

    Args:
        uri: What the user wrote.
        argument: Where the user wrote it, for messages.

    Raises:
        ConfigError: It is neither a folder nor a URI of a store; or it is a relative path in a
            submitted job, which would lie in a temporary folder of one node that Ray deletes.
    """
    if (public := without_secrets(uri)) != uri:
        raise ConfigError(
            f"{argument} {public}: the URI also holds a password or token. Give keys by "
            "environment variables (AWS_ACCESS_KEY_ID, AZURE_STORAGE_ACCOUNT_KEY ...)."
        )
    scheme = re.match(r"\s*([a-zA-Z][a-zA-Z0-9+.-]*):/", uri)
    if uri.startswith("hf:"):
        raise ConfigError(
            f"{argument} {uri!r}: hf:// is read only, because each write would be a commit. Write "
            "to a folder, s3://, gs:// or az://, then publish with `lafp push`."
        )
    if not uri.strip() or (scheme and not re.match(r"(s3|gs|az)://[^/]", uri)):
        raise ConfigError(
            f"{argument} {uri!r} is neither a folder nor s3://BUCKET/PREFIX (or gs://, az://). "
            "Files go to a path, without file://, or to an object store: S3 and what speaks like "
            "it (AWS_ENDPOINT_URL), Google Cloud Storage or Azure."
        )
    if re.match(r"~(/|$)", uri) and not Path(os.path.expanduser("~")).is_dir():
        raise ConfigError(
            f"{argument} {uri!r}: '~' is no folder here (HOME={os.environ.get('HOME', '')}). Write "
            "the path in full."
        )
    is_submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    if is_submitted and not storage.is_remote(uri) and not os.path.isabs(os.path.expanduser(uri)):
        raise ConfigError(
            f"{argument} {uri!r} is a relative path. A submitted job needs storage that every node "
            "sees: an s3://, gs:// or az:// URI, or the absolute path of a shared folder."
        )
    return storage.absolute(uri)
