"""Variances, correlations and edges of chaos against known values."""

import math
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_prune_init import mean_field
from keras_prune_init.theory import quadrature

ACTIVATIONS = {
    "erf": tf.math.erf,
    "arctan": tf.math.atan,
    "sin": tf.math.sin,
    "hardtanh": lambda x: tf.clip_by_value(x, -1, 1),
}
# sigma_b, sigma_w, q by independent quadrature, split at the kinks.
EDGES = [
    ("tanh", 0.01, 1.0421, 0.0457),
    ("tanh", 1.0, 1.8556, 3.0364),
    ("elu", 0.05, 1.1319, 0.1892),
    ("elu", 0.5, 1.3061, 4.887),
    ("erf", 0.2, 1.1528, 0.466),
    ("selu", 0.1, 0.8719, 0.3089),
    ("softsign", 0.5, 2.1662, 1.177),
    ("arctan", 0.2, 1.3083, 0.617),
    ("hardtanh", 0.1, 1.0257, 0.2591),
    ("sin", 0.5, 1.3303, 1.020),
]


@pytest.fixture
def all_cells(monkeypatch):
    """As many as users have, for slopes that jump within a cell (0 is at its end)."""
    monkeypatch.setattr(quadrature, "CELLS", 200_000)


def activation(name):
    return ACTIVATIONS.get(name, name)


@pytest.mark.parametrize("name, sigma_b, sigma_w, q", EDGES)
def test_known_edges(name, sigma_b, sigma_w, q, request):
    if name == "hardtanh":
        request.getfixturevalue("all_cells")
    edge = mean_field.edge_of_chaos(activation(name), sigma_b)
    assert edge.sigma_w == pytest.approx(sigma_w, abs=3e-4)
    assert edge.q == pytest.approx(q, abs=1e-3)
    assert edge.chi == pytest.approx(1, abs=1e-6)
    assert edge.stable
    again = mean_field.variance_map(activation(name), edge.sigma_w, sigma_b, edge.q)
    assert again == pytest.approx(edge.q, rel=1e-9)
    chi = mean_field.chi(activation(name), edge.sigma_w, sigma_b)
    assert chi == pytest.approx(1, abs=1e-3)  # at the fixed point found by itself


@pytest.mark.parametrize("slope, sigma_w", [(0.0, math.sqrt(2)), (0.2, 1.3867505)])
def test_homogeneous_activations_have_one_edge(slope, sigma_w):
    function = lambda x: keras.activations.leaky_relu(x, slope)  # noqa: E731
    edge = mean_field.edge_of_chaos(function)
    assert edge.sigma_w == pytest.approx(sigma_w, abs=1e-6)
    assert (edge.sigma_b, edge.q, edge.stable) == (0, 1, True)


def test_tanh_without_biases_has_its_edge_at_no_variance():
    edge = mean_field.edge_of_chaos("tanh")
    assert edge.sigma_w == pytest.approx(1, abs=1e-6)
    assert edge.q == 0


@pytest.mark.parametrize(
    "name, sigma_b, q", [("gelu", 0.1, 0.183), ("silu", 0.2, 0.69)]
)
def test_an_edge_that_the_variance_leaves_is_a_warning(name, sigma_b, q):
    with pytest.warns(UserWarning, match=f"{name} layers does not stay at its fixed"):
        edge = mean_field.edge_of_chaos(name, sigma_b)
    assert not edge.stable
    assert edge.q == pytest.approx(q, abs=1e-3)


def test_gelu_with_larger_biases_is_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        edge = mean_field.edge_of_chaos("gelu", 0.5)
    assert edge.sigma_w == pytest.approx(1.3999, abs=3e-4)


@pytest.mark.parametrize(
    "sigma_b, sigma_w, chi",
    [(0.2, 1.2, 0.939), (0.2, 0.6, 0.325), (1.0, 0.316, 0.046), (0.2, 2.0, 1.346)],
)
def test_known_phases_of_tanh(sigma_b, sigma_w, chi):
    assert mean_field.chi("tanh", sigma_w, sigma_b) == pytest.approx(chi, abs=1e-3)


def test_fixed_variances_of_relu():
    assert mean_field.fixed_variance("relu", 1.0, 1.0) == pytest.approx(2)
    assert mean_field.fixed_variance("relu", 1.0, 0.0) == 0
    assert mean_field.fixed_variance("relu", 2.0, 0.1) == math.inf
    assert mean_field.fixed_variance("relu", math.sqrt(2), 0.0) == 1


def arc_cosine(c):
    return (math.sqrt(1 - c**2) + c * (math.pi - math.acos(c))) / math.pi


@pytest.mark.parametrize("c", [-1.0, -0.3, 0.0, 0.5, 0.99, 1.0])
def test_the_correlation_map_of_relu_is_the_arc_cosine_kernel(c):
    got = mean_field.correlation_map("relu", math.sqrt(2), 0.0, c)
    assert got == pytest.approx(arc_cosine(c), abs=2e-5)


def test_the_slope_of_the_correlation_map_at_one_is_chi():
    edge = mean_field.edge_of_chaos("tanh", 0.2)
    near = mean_field.correlation_map("tanh", edge.sigma_w, 0.2, 1 - 1e-6, edge.q)
    assert (1 - near) / 1e-6 == pytest.approx(1, abs=1e-4)


def test_depth_scales():
    scales = mean_field.depth_scales("tanh", 1.0, 0.2)
    assert scales.correlation == pytest.approx(-1 / math.log(0.779), rel=1e-2)
    assert scales.variance < scales.correlation
    edge = mean_field.edge_of_chaos("tanh", 0.2)
    assert mean_field.depth_scales("tanh", edge.sigma_w, 0.2).correlation == math.inf


@pytest.mark.parametrize(
    "chi, bound", [(0.325, 0.853), (0.147, 0.527), (0.046, 0.344), (0.779, 1), (1, 1)]
)
def test_the_bound_of_theorem_1(chi, bound):
    got = mean_field.critical_sparsity_bound(chi, depth=100, width=100)
    assert got == pytest.approx(bound, abs=3e-3)


def test_a_wide_random_network_has_these_variances():
    rng = np.random.default_rng(0)
    edge = mean_field.edge_of_chaos("tanh", 0.2)
    y = math.sqrt(edge.q) * rng.normal(size=(1000, 50))
    for _ in range(3):
        w = rng.normal(size=(1000, 1000)) * edge.sigma_w / math.sqrt(1000)
        y = w @ np.tanh(y) + 0.2 * rng.normal(size=(1000, 1))
    assert np.mean(y**2) == pytest.approx(edge.q, rel=0.1)


def test_signals_that_die_out_or_grow():
    assert mean_field.chi("tanh", 0.5, 0.0) == pytest.approx(0.25)
    assert mean_field.correlation_map("tanh", 0.5, 0.0, 0.3) == pytest.approx(0.3)
    with pytest.raises(ValueError, match="finite.*Received: q=inf.*sigma_w=2.0"):
        mean_field.chi("relu", 2.0, 0.1)


def test_the_number_of_cells_is_enough_for_a_slope_that_jumps(all_cells):
    assert mean_field.chi("relu", 1.0, 0.0, 1.0) == pytest.approx(0.5, abs=1e-9)
    hard = ACTIVATIONS["hardtanh"]
    inside = math.erf(1 / math.sqrt(2))  # of the mass, where the slope is 1
    assert mean_field.chi(hard, 1.0, 0.0, 1.0) == pytest.approx(inside, abs=3e-5)


def test_refusals():
    with pytest.raises(ValueError, match="`sigma_b` is a standard deviation.*-0.1"):
        mean_field.edge_of_chaos("tanh", -0.1)
    with pytest.raises(ValueError, match="`c` is a correlation.*1.5"):
        mean_field.correlation_map("tanh", 1.0, 0.1, 1.5)
    with pytest.raises(ValueError, match="`chi` must be a positive number.*0"):
        mean_field.critical_sparsity_bound(0, 10, 10)
    with pytest.raises(ValueError, match="variance that its layers do not change"):
        mean_field.edge_of_chaos("relu", 0.1)
