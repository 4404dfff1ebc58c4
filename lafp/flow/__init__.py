"""Flow matching: path, solvers, interpolation. Pure functions; models come in as callables."""

from lafp.registry import Registry

TIME_DISTRIBUTIONS = Registry(
    "time distribution",
    {
        "beta": "lafp.flow.time_distribution:BetaTime",
        "logit_normal": "lafp.flow.time_distribution:LogitNormalTime",
        "uniform": "lafp.flow.time_distribution:UniformTime",
    },
)
