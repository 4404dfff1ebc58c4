"""Typed configs: YAML and overrides in, one frozen dataclass out."""

from lafp.config.errors import ConfigError
from lafp.config.keys import check_keys
from lafp.config.load import (
    config_from_dict,
    config_to_dict,
    config_to_yaml,
    load_config,
    with_overrides,
)
from lafp.config.markers import choice, may_change, may_grow
from lafp.config.read import read_config
from lafp.config.registry import Choice
from lafp.config.schema import section_of

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
