"""Defines the error for mistakes that the user must correct."""


class ConfigError(ValueError):
    """A mistake that the user must correct, in a config or in what it names.

    The message says where the mistake is, what was found, and what was expected.
    """
