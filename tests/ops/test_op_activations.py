import math

import numpy as np

GRID = np.linspace(-9, 9, 721)


def values(op, x=GRID):
    y, _ = op.forward(x)
    assert y.shape == x.shape
    return y


def slopes(op, x=GRID):
    """dy/dx, by an upstream gradient that is not all ones."""
    _, cache = op.forward(x)
    return op.backward(np.full_like(x, 2.0), cache) / 2


def close(got, formula, x=GRID, atol=2e-15):
    np.testing.assert_allclose(got, [formula(float(v)) for v in x], rtol=1e-12, atol=atol)


def test_gelu_is_x_times_the_normal_distribution_function(gelu):
    close(values(gelu), lambda x: x / 2 * (1 + math.erf(x / math.sqrt(2))), atol=5e-15)
    density = lambda x: math.exp(-x * x / 2) / math.sqrt(2 * math.pi)  # noqa: E731
    close(slopes(gelu), lambda x: (1 + math.erf(x / math.sqrt(2))) / 2 + x * density(x), atol=5e-15)


def test_gelu_tanh_is_berts_approximation(gelu_tanh):
    close(
        values(gelu_tanh),
        lambda x: x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        atol=5e-15,
    )
    exact = [x / 2 * (1 + math.erf(x / math.sqrt(2))) for x in GRID]
    assert 4e-4 < np.abs(values(gelu_tanh) - exact).max() < 4.8e-4


def test_quick_gelu_is_x_times_a_sigmoid(quick_gelu):
    close(values(quick_gelu), lambda x: x / (1 + math.exp(-1.702 * x)), atol=5e-15)


def test_silu_is_x_times_the_sigmoid(silu):
    close(values(silu), lambda x: x / (1 + math.exp(-x)), atol=5e-15)


def test_relu_keeps_what_is_positive(relu):
    close(values(relu), lambda x: max(x, 0.0))
    close(slopes(relu), lambda x: 1.0 if x > 0 else 0.0)  # the grid holds 0, where the slope is 0


def test_tanh(tanh):
    close(values(tanh), math.tanh)
    close(slopes(tanh), lambda x: 1 / math.cosh(x) ** 2)


def approaches_relu(op):
    x = np.array([-1e4, -60.0, 0.0, 60.0, 1e4])
    np.testing.assert_allclose(values(op, x), [0, 0, 0, 60, 1e4], atol=1e-30)
    np.testing.assert_allclose(slopes(op, x), [0, 0, 0.5, 1, 1], atol=1e-30)


def test_gelu_far_out(gelu):
    approaches_relu(gelu)


def test_gelu_tanh_far_out(gelu_tanh):
    approaches_relu(gelu_tanh)


def test_quick_gelu_far_out(quick_gelu):
    approaches_relu(quick_gelu)


def test_silu_far_out(silu):
    approaches_relu(silu)


def test_tanh_far_out(tanh):
    assert values(tanh, np.array([-1e4, 1e4])).tolist() == [-1, 1]
    assert slopes(tanh, np.array([-1e4, 1e4])).tolist() == [0, 0]
