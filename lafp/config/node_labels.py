"""Parses the node labels in configs, which choose the nodes that work may run on. No Ray here."""

import re

_LABEL = re.compile(r"[A-Za-z0-9./_-]+=[A-Za-z0-9._-]+")


def label_selector(node_labels: tuple[str, ...]) -> dict[str, str]:
    """Turns ``("role=decode",)`` into Ray's form, ``{"role": "decode"}``. A node must have all.

    Raises:
        ValueError: An entry is not ``key=value``, or a key occurs twice.
    """
    if wrong := [label for label in node_labels if not _LABEL.fullmatch(label)]:
        raise ValueError(f"node_labels are written key=value, got {wrong[0]!r}.")
    pairs = [label.split("=") for label in node_labels]
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError(
            f"node_labels names a key twice: {', '.join(node_labels)}. Name each key once."
        )
    return {key: value for key, value in pairs}
