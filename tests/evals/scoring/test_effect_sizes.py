"""The probability that one side is better."""

import numpy as np
import pytest
from scipy.stats import norm

from evals.scoring.effect_sizes import probability_better


def test_ties_count_half_for_either_side():
    differences = np.array([[0.1, 0.2, 0.0, -0.1], [0.0, 0.0, 0.0, 0.0]])
    assert probability_better(differences) == pytest.approx([2.5 / 4, 0.5])
    assert probability_better(-differences) == pytest.approx([1.5 / 4, 0.5])


def test_normal_differences_give_the_normal_probability():
    drawn = np.random.default_rng(0).normal(0.01, 0.02, 20_000)
    assert float(probability_better(drawn)) == pytest.approx(norm.cdf(0.5), abs=0.01)
