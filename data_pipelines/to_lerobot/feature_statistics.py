"""Computes the statistics that LeRobot stores, of each episode and of the whole dataset."""

# Shape suffixes in this file: N rows, or pixels of pictures; D numbers of a feature.

from collections.abc import Mapping

import numpy as np

from data_pipelines.preprocess.action_statistics import ActionStatistics, label_sums
from data_pipelines.to_lerobot.layout import CAMERA

_QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
_MAX_PIXELS = 10_000


def of_episode(values: Mapping[str, np.ndarray], num_pictures: int) -> dict[str, dict[str, object]]:
    """Computes exact statistics of one episode.

    Args:
        values: Feature -> [N, D].
        num_pictures: Number of pictures that the pixels of the camera are of.
    """
    found = {}
    for feature, rows_ND in values.items():
        rows_ND = rows_ND.astype(np.float64)
        quantiles = np.quantile(rows_ND, list(_QUANTILES.values()), axis=0)
        per_dimension = {
            "mean": rows_ND.mean(axis=0),
            "std": rows_ND.std(axis=0),
            "min": rows_ND.min(axis=0),
            "max": rows_ND.max(axis=0),
            **dict(zip(_QUANTILES, quantiles, strict=True)),
        }
        count = num_pictures if feature == CAMERA else len(rows_ND)
        found[feature] = _shaped(feature, {k: v.tolist() for k, v in per_dimension.items()}, count)
    return found


def pixels(frames: np.ndarray) -> np.ndarray:
    """Returns pixels of frames, uint8 [T, H, W, 3], as float64 [N, 3] in [0, 1].

    The pixels lie on a grid in each frame that is as fine as ``_MAX_PIXELS`` allows.
    """
    num_pixels = frames.size // 3
    step = max(1, int(np.ceil(np.sqrt(num_pixels / _MAX_PIXELS))))
    return frames[:, ::step, ::step].reshape(-1, 3) / 255.0


class DatasetStatistics:
    """Adds up episodes, in memory that does not grow with their number."""

    def __init__(self) -> None:
        self._sums: dict[str, ActionStatistics] = {}
        self._num_pictures = 0

    def add(self, values: Mapping[str, np.ndarray], num_pictures: int) -> None:
        """Adds an episode. The arguments are those of ``of_episode``."""
        self._num_pictures += num_pictures
        for feature, rows_ND in values.items():
            self._sums.setdefault(feature, ActionStatistics()).add(label_sums(rows_ND))

    def result(self) -> dict[str, dict[str, object]]:
        """Returns the content of ``meta/stats.json``. Quantiles are within 0.1 % of their value."""
        return {
            feature: _shaped(
                feature,
                sums.per_dimension(_QUANTILES),
                self._num_pictures if feature == CAMERA else sums.num_rows,
            )
            for feature, sums in self._sums.items()
        }


def _shaped(feature: str, statistics: dict[str, list[float]], count: int) -> dict[str, object]:
    if feature == CAMERA:  # one number per colour, [3, 1, 1]
        nested = {name: [[[one]] for one in values] for name, values in statistics.items()}
        return {**nested, "count": [count]}
    return {**statistics, "count": [count]}
