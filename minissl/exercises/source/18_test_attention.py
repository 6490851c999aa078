"""18. Write the test: attention

As in exercise 17, with a pair that hides its bugs better:

    y, cache = attention_forward(q, k, v, mask)        y = softmax(q kᵀ/√K) v
    dq, dk, dv = attention_backward(dy, cache)

q (…, T, K), k (…, S, K), v (…, S, K'), y (…, T, K'). The mask is None or boolean and broadcasts to
(…, T, S), True = may attend. Hidden keys get weight 0, and a query that may attend to nothing gets
y = 0. Scores of 1000 do no harm.

Write `test_attention(attention_forward, attention_backward)`: it raises AssertionError where the
pair is wrong, and returns where it is right. You pass with at least 80 % of the wrong pairs found
and no right one refused. Inputs must not be changed, and a second backward on the same cache gives
the same again.

Check it with `minissl exercise check`. It goes with lesson 4.
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


def test_attention(attention_forward, attention_backward):
    """Raise AssertionError where the pair is wrong."""
    ### TODO: compare y with a slow, plain attention and each gradient with a numerical one, with and without masks
    ### BEGIN SOLUTION
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((2, 3, 5)), rng.standard_normal((2, 4, 5)), rng.standard_normal((2, 4, 6))
    dy = rng.standard_normal((2, 3, 6))
    allowed = rng.random((2, 3, 4)) < 0.6
    allowed[1, 2] = False

    def loss(**inputs):
        return (dy * attention_forward(**inputs)[0]).sum()

    for mask in (np.ones((2, 3, 4), bool), allowed):
        for size in (1000, 1):
            inputs = {"q": size * q, "k": k, "v": v, "mask": mask}
            y, cache = attention_forward(**inputs)
            for b, t in np.ndindex(2, 3):
                seen = mask[b, t]
                scores = k[b, seen] @ inputs["q"][b, t] / np.sqrt(5)
                weights = np.exp(scores - scores.max(initial=-1e9))
                expected = weights @ v[b, seen] / weights.sum() if seen.any() else 0
                np.testing.assert_allclose(y[b, t], expected, atol=1e-9)
        upstream = dy.copy()
        for _ in range(2):
            gradients = attention_backward(upstream, cache)
            for name, gradient in zip("qkv", gradients, strict=True):
                assert gradient.shape == inputs[name].shape, name
                np.testing.assert_allclose(gradient, numerical_gradient(loss, inputs, name), atol=1e-6)
        assert (upstream == dy).all()
    ### END SOLUTION


### BEGIN HINTS
# 1. The sizes must all differ (T ≠ S, K ≠ K'), and there must be a leading axis. Test with no mask,
#    then with a mask in which rows differ and one query may attend to nothing.
# 2. For y, write the plainest attention you can: a loop over the queries, a softmax over the keys
#    that each may see. For the gradients, `numerical_gradient` of (dy * y).sum() with a random dy.
# 3. Then the rare ones: multiply q by 1000 and compare y again (overflow, and a maximum over the
#    wrong axis); call backward twice; compare dy with a copy.
### END HINTS
