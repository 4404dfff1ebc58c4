"""Typed configs: YAML and overrides in, one frozen dataclass out."""

from lafp.config.errors import ConfigError
from lafp.config.keys import check_keys
from lafp.config.load import (
    choice,
    config_from_dict,
    config_to_dict,
    config_to_yaml,
    load_config,
    may_change,
    may_grow,
    read_config,
    section_of,
    with_overrides,
)
from lafp.config.registry import Choice

__all__ = [
    "Choice",
    "ConfigError",
    "check_keys",
    "choice",
    "config_from_dict",
    "config_to_dict",
    "config_to_yaml",
    "load_config",
    "may_change",
    "may_grow",
    "read_config",
    "section_of",
    "with_overrides",
]
