"""Shares under, inside and over the corridor."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelis.learners.corridor import CorridorSettings
from pixelis.learners.drift import Drift

EDGES = CorridorSettings(low=0.1, high=0.2, window=3)


def read(readings: list[float]) -> Drift:
    drift = Drift(EDGES)
    for kl in readings:
        drift.add(kl)
    return drift


def test_edges_are_inside_and_nothing_is_told_of_nothing() -> None:
    assert read([]).figures() == {}
    told = read([0.1, 0.2, 0.0999, 0.2001]).figures()
    assert [told[f"kl_{name}"] for name in ("under", "inside", "over")] == [0.25, 0.5, 0.25]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_figures_are_those_of_the_definition(readings: list[float]) -> None:
    told = read(readings).figures()
    means = [np.mean(readings[max(0, i - 2) : i + 1]) for i in range(len(readings))]
    assert told["kl_under"] + told["kl_inside"] + told["kl_over"] == pytest.approx(1)
    assert told["kl_median"] == np.median(readings) and told["kl_p95"] == pytest.approx(np.quantile(readings, 0.95))
    assert told["kl_window"] == pytest.approx(means[-1], abs=1e-9)
    clear = [m for m in means if abs(m - EDGES.high) > 1e-9]
    assert len(clear) < len(means) or told["kl_window_over"] == pytest.approx(np.mean([m > EDGES.high for m in means]))


def test_restored_it_goes_on() -> None:
    other = Drift(EDGES)
    other.restore(json.loads(json.dumps(read([0.05, 0.3]).state())))
    other.add(0.15)
    assert other.figures() == read([0.05, 0.3, 0.15]).figures()
