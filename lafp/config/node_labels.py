"""Which nodes of a cluster some work may run on, by their labels. The config's part: no Ray."""

import re

_LABEL = re.compile(r"[A-Za-z0-9./_-]+=[A-Za-z0-9._-]+")


def label_selector(node_labels: tuple[str, ...]) -> dict[str, str]:
    """``("role=decode",)`` as Ray takes it: ``{"role": "decode"}``. A node must have all.

    Raises:
        ValueError: An entry is no ``key=value``, or a key comes twice.
    """
    if wrong := [label for label in node_labels if not _LABEL.fullmatch(label)]:
        raise ValueError(f"node_labels are written key=value, got {wrong[0]!r}.")
    pairs = [label.split("=") for label in node_labels]
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError(f"node_labels names a key twice: {', '.join(node_labels)}.")
    return {key: value for key, value in pairs}
