"""Flow matching: path, solvers, interpolation. Pure functions that take models as callables."""

from typing import TYPE_CHECKING

from lafp.config.registry import Registry

if TYPE_CHECKING:
    from lafp.flow_matching.time_distribution import TimeDistribution

TIME_DISTRIBUTIONS: Registry["TimeDistribution"] = Registry(
    "time distribution",
    {
        "beta": "lafp.flow_matching.time_distribution:BetaTime",
        "logit_normal": "lafp.flow_matching.time_distribution:LogitNormalTime",
        "uniform": "lafp.flow_matching.time_distribution:UniformTime",
    },
)
