"""Robot policies pretrained on video: latent action models, latent flow policies, agents.

``Agent`` and ``load_lam`` are imported on first use. Preprocessing workers import this package and
must not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lafp.agent import Agent
    from lafp.lam import load_lam

__all__ = ["Agent", "load_lam"]
_HOMES = {"Agent": "lafp.agent", "load_lam": "lafp.lam"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lafp' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
