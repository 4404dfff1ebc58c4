"""Checks that numbers of a config are large enough, for ``__post_init__`` of config classes."""


def check_at_least(config: object, minimum: int, *names: str) -> None:
    """Checks that fields of a config are at least ``minimum``. A field that is None passes.

    Raises:
        ValueError: One is smaller.
    """
    expected = f"be at least {minimum}" if minimum else "not be negative"
    for name in names:
        value = getattr(config, name)
        if value is not None and value < minimum:
            raise ValueError(f"{name} must {expected}, got {value}.")


def check_positive(config: object, *names: str) -> None:
    """Checks that fields of a config are larger than 0. A field that is None passes.

    Raises:
        ValueError: One is 0 or less.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise ValueError(f"{name} must be positive, got {value}.")
