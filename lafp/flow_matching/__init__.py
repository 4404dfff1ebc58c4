"""Flow matching: path, solvers, interpolation. Pure functions that take models as callables."""

from lafp.config.registry import Registry

TIME_DISTRIBUTIONS = Registry(
    "time distribution",
    {
        "beta": "lafp.flow_matching.time_distribution:BetaTime",
        "logit_normal": "lafp.flow_matching.time_distribution:LogitNormalTime",
        "uniform": "lafp.flow_matching.time_distribution:UniformTime",
    },
)
