"""Defines the error for mistakes that the user must correct, and reads those of parsers."""


class ConfigError(ValueError):
    """A mistake that the user must correct, in a config or in what it names.

    The message says where the mistake is, what was found, and what was expected.
    """


PARSER_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""Besides errors of their own, PyYAML and OmegaConf raise these for text that has no value."""


def first_line(error: Exception) -> str:
    """Returns an error's first line, or the name of its kind if it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
