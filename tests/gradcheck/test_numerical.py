import math

import numpy as np

from minissl.gradcheck.numerical import choose_probes, derivative, probe


def test_the_stencil_is_exact_up_to_degree_four():
    for power in range(5):
        slope = derivative(lambda t, power=power: np.asarray((2 + t) ** power), 0.5)
        np.testing.assert_allclose(slope, power * 2 ** (power - 1) if power else 0, rtol=1e-13, atol=1e-13)
    assert abs(derivative(lambda t: np.asarray((2 + t) ** 5), 0.5) - 80) > 0.1


def test_its_error_falls_with_the_fourth_power_of_the_step():
    coarse, fine = (abs(derivative(lambda t: np.asarray(math.exp(t)), h) - 1) for h in (0.1, 0.05))
    assert 14 < coarse / fine < 18


def test_probes_differentiate_entries_and_directions_and_put_x_back():
    rng = np.random.default_rng(0)
    x, upstream = 1e3 * rng.standard_normal((3, 4)), rng.standard_normal((3, 4))
    before = x.copy()
    u = rng.standard_normal((3, 4))
    gradient = upstream * np.cos(x)
    probes = probe(lambda: np.sin(x), upstream, x, gradient, np.array([1, 7]), [u])
    np.testing.assert_allclose(probes.expected, [gradient[0, 1], gradient[1, 3], (gradient * u).sum()], rtol=1e-8)
    np.testing.assert_allclose(probes.of(gradient), probes.expected, rtol=1e-8)
    np.testing.assert_array_equal(x, before)


def test_beside_a_kink_a_smaller_step_is_tried():
    x = np.array([2e-5, -2e-5])

    def expected(gradient):
        return probe(lambda: np.maximum(x, 0), np.ones(2), x, gradient, np.arange(2), []).expected

    np.testing.assert_allclose(expected(np.array([1.0, 0.0])), [1, 0], atol=1e-9)
    wrong = np.array([0.9, 0.2])
    assert np.abs(expected(wrong) - wrong).min() > 0.05  # it agrees at no step


def test_the_steepest_entries_are_always_among_the_chosen():
    gradient = np.zeros((50, 20))
    gradient[31, 4], gradient[2, 19] = -7, 5
    entries, directions = choose_probes(np.ones((50, 20)), gradient, 6, 3, np.random.default_rng(0))
    assert {31 * 20 + 4, 2 * 20 + 19} <= set(entries.tolist())
    assert len(np.unique(entries)) == len(entries) <= 6
    assert [u.shape for u in directions] == [(50, 20)] * 3
