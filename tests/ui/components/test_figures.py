"""Figures of a task's gates."""

from dataclasses import replace

import numpy as np

from ui.components.figures import gate_heat_map, share_bar
from ui.engine.task_gates import TaskGates

GATES = TaskGates(
    "NER",
    ("model.layers.0.q_proj", "model.layers.1.q_proj"),
    np.array([[0.5, 0.2, 0.3], [0.1, 0.6, 0.3]]),
    common=2,
)


def test_equal_gates_are_drawn_once_and_others_anew() -> None:
    same = replace(GATES, weights=GATES.weights.copy())
    assert share_bar(same, "en") is share_bar(GATES, "en")
    assert share_bar(GATES, "zh") is not share_bar(GATES, "en")
    other = share_bar(replace(GATES, weights=GATES.weights[::-1].copy() * [1, 2, 1]), "en")
    shares = np.array([0.6, 1.6, 0.6]) / 2.8
    np.testing.assert_allclose([trace.x[0] for trace in other.data], shares)
    drawn = gate_heat_map(GATES, language="en", measure="effect")
    assert drawn is gate_heat_map(GATES, language="en", measure="effect")
    assert drawn is not gate_heat_map(GATES, language="en")
