"""What a run that measures affinities keeps in its folder, and the means of its measurements.

.lock, run.json     as of a training run, see `run_dir`
state/              adapter weights, Adam's moments and the measurements so far: one swap
affinity.json       the result
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cgclora.storage import atomic_io
from cgclora.storage.run_dir import TrainingError

FORMS = ("first_order", "lookahead")

SMALLEST_LOSS = 1e-3
"""Nats. A loss below counts as this much, since what divides by nothing says nothing."""

_STATE, _TENSORS, _MEASUREMENTS = "state", "tensors.safetensors", "measurements.json"


@dataclass
class AffinityState:
    """Where a run is."""

    measurements: list[dict[str, Any]] = field(default_factory=list)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)  # weights and moments after them
    seconds: float = 0.0
    # A provenance stamp for each process that measured, with its `first_measurement`.
    origins: list[dict[str, Any]] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Put it in the place of the last one, whole or not at all."""
        with atomic_io.replace_folder(folder / _STATE) as new:
            save_file({name: x.contiguous() for name, x in self.tensors.items()}, new / _TENSORS)
            facts = {"seconds": self.seconds, "origins": self.origins}
            text = json.dumps({**facts, "measurements": self.measurements})
            atomic_io.write_text(new / _MEASUREMENTS, text)

    @classmethod
    def read(cls, folder: Path, like: Mapping[str, Tensor]) -> Self:
        """The state that was written last, checked against the shapes of `like`; empty without one.

        Raises:
            TrainingError: It is damaged.
        """
        place = folder / _STATE
        atomic_io.recover_folder(place)
        if not place.exists():
            return cls()
        try:
            facts = json.loads((place / _MEASUREMENTS).read_text(encoding="utf-8"))
            tensors = load_file(place / _TENSORS)
            shapes = ({name: x.shape for name, x in some.items()} for some in (tensors, like))
            if next(shapes) != next(shapes):
                raise ValueError("the tensors are not those of the adapter")
            return cls(
                facts["measurements"], tensors, float(facts["seconds"]), list(facts["origins"])
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise TrainingError(
                f"{place} is damaged ({error}): remove the run folder and begin again."
            ) from error


def pooled(measurements: Sequence[Mapping[str, Any]], form: str) -> npt.NDArray[np.float64]:
    """The affinities of a form with each measurement weighted by its losses, [M, T, T].

    Their mean is 1 - sum L_j(theta + delta_i) / sum L_j(theta), summed over the measurements that
    have the form. The plain mean of the ratios would be ruled by measurements that happen to find
    next to no loss on their few records.
    """
    taken = np.array([one[form] for one in measurements if form in one])
    return np.asarray(taken * _weights(measurements, form)[:, None])


def linearised(measurements: Sequence[Mapping[str, Any]], form: str) -> npt.NDArray[np.float64]:
    """What `pooled` gives, but for the spread that losses alone bring into it, [M, T, T].

    The mean is the same. It is a ratio of sums, and what makes it uncertain is how far each
    measurement's change of loss is from its share (delta method), not how large its loss is.
    """
    values = pooled(measurements, form)
    mean = values.mean(axis=0)
    return np.asarray(values + mean * (1 - _weights(measurements, form)[:, None]))


def _weights(measurements: Sequence[Mapping[str, Any]], form: str) -> npt.NDArray[np.float64]:
    """Of each measurement that has the form: its losses, with a mean of 1, [M, T]."""
    losses = np.maximum([one["losses"] for one in measurements if form in one], SMALLEST_LOSS)
    return np.asarray(losses / losses.mean(axis=0))


def with_means(measurements: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """For each form its `pooled` mean and standard error, and the measurements themselves.

    A form that was never taken is None; the standard error of a single measurement is.
    """
    result: dict[str, Any] = {}
    for form in FORMS:
        if not any(form in one for one in measurements):
            result[form] = None
            continue
        values = linearised(measurements, form)
        error = None
        if len(values) > 1:
            error = (values.std(axis=0, ddof=1) / np.sqrt(len(values))).tolist()
        result[form] = {"mean": values.mean(axis=0).tolist(), "standard_error": error}
    result["measurements"] = list(measurements)
    return result
