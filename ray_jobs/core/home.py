"""Gives libraries that need a writable home folder a temporary one if there is none.

Ray keeps a token below HOME and reads it at import; Triton, wandb and others keep caches there. In
containers HOME is often missing or read-only, and the user has no name.
"""

import atexit
import os
import shutil
import sys
import tempfile
import uuid
from pathlib import Path

_CACHES = {
    "MPLCONFIGDIR": "matplotlib",
    "TORCH_EXTENSIONS_DIR": "torch_extensions",
    "TRITON_CACHE_DIR": "triton",
    "TRITON_HOME": "triton_home",
    "WANDB_CACHE_DIR": "wandb_cache",
    "WANDB_CONFIG_DIR": "wandb_config",
    "WANDB_DATA_DIR": "wandb_data",
}
_RAY_TOKENS = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS")


def make_usable() -> None:
    """Sets missing environment variables of this process and of the processes that it starts.

    It must be called before Ray is imported. Files in a read-only home (S3 credentials, a token)
    stay in use.
    """
    if not any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        # Otherwise libraries look the name up among the system's users, and fail.
        os.environ["USER"] = f"uid-{os.getuid()}"
    home = os.path.expanduser("~")
    if _is_writable(home):
        return
    scratch = tempfile.mkdtemp(prefix="lafp-home-")
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    if Path(home).is_dir():
        for name, folder in _CACHES.items():
            os.environ.setdefault(name, os.path.join(scratch, folder))
        has_token = Path(home, ".ray/auth_token").is_file()
        if not has_token and not any(os.environ.get(name) for name in _RAY_TOKENS):
            os.environ["RAY_AUTH_TOKEN"] = uuid.uuid4().hex
    else:
        os.environ["HOME"] = scratch
    print(f"The home folder {home} cannot be written: caches go to {scratch}.", file=sys.stderr)


def _is_writable(folder: str) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return os.path.isabs(folder)
    except OSError:
        return False
