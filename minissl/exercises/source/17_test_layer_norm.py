"""17. Write the test: layer normalisation

Somebody hands you a pair of functions. Does it do what it says?

    y, cache = layer_norm_forward(x, gain, bias, eps)        y = gain · (x - μ)/√(σ² + eps) + bias over the last axis
    dx, dgain, dbias = layer_norm_backward(dy, cache)        x (…, D), gain and bias (D,), any leading axes

Write `test_layer_norm(layer_norm_forward, layer_norm_backward)`: it raises AssertionError (with
`assert` or `np.testing`) where the pair is wrong, and returns where it is right. The check runs it
on several wrong pairs, with bugs as they occur in published code, and on right pairs that were
written in other ways and differ in the last digits. You pass with at least 80 % of the wrong ones
found and no right one refused.

Inputs must not be changed, and a second backward on the same cache gives the same again.

Check it with `minissl exercise check`. It goes with lesson 3.
"""

import numpy as np


def numerical_gradient(f, inputs, name, step=1e-5):
    """Return the slopes of f(**inputs), a number, along every entry of inputs[name], good to about 1e-8."""
    x = inputs[name]
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[i] += step
        below[i] -= step
        gradient[i] = (f(**{**inputs, name: above}) - f(**{**inputs, name: below})) / (2 * step)
    return gradient


def test_layer_norm(layer_norm_forward, layer_norm_backward):
    """Raise AssertionError where the pair is wrong."""
    ### TODO: compare y with the formula and each gradient with a numerical one, on inputs where bugs show
    ### BEGIN SOLUTION
    rng = np.random.default_rng(0)
    x, dy = 2 * rng.standard_normal((2, 3, 5)) + 1, rng.standard_normal((2, 3, 5))
    inputs = {"x": x, "gain": rng.uniform(0.5, 1.5, 5), "bias": rng.standard_normal(5), "eps": 0.1}
    y, cache = layer_norm_forward(**inputs)
    normed = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 0.1)
    np.testing.assert_allclose(y, inputs["gain"] * normed + inputs["bias"], atol=1e-9)

    def loss(**inputs):
        return (dy * layer_norm_forward(**inputs)[0]).sum()

    upstream = dy.copy()
    for _ in range(2):
        gradients = layer_norm_backward(upstream, cache)
        for name, gradient in zip(("x", "gain", "bias"), gradients, strict=True):
            assert gradient.shape == inputs[name].shape, name
            np.testing.assert_allclose(gradient, numerical_gradient(loss, inputs, name), atol=1e-6)
    assert (upstream == dy).all()
    ### END SOLUTION


### BEGIN HINTS
# 1. Make inputs on which a bug shows: gain and bias random (many bugs hide at gain 1), more than
#    one leading axis, a mean that is not 0, an eps large enough to matter (0.1), and a random dy.
# 2. Two comparisons: y with the formula, and each gradient with `numerical_gradient` of the number
#    (dy * layer_norm_forward(…)[0]).sum(). Compare shapes too: arrays of other shapes may broadcast
#    and agree.
# 3. `np.testing.assert_allclose(gradient, numerical_gradient(loss, inputs, "x"), atol=1e-6)`, and
#    likewise for "gain" and "bias". Then call backward once more, and compare dy with a copy that
#    you took before.
### END HINTS
