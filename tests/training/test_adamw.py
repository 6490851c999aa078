import numpy as np
import pytest

from minissl.training import AdamW, adamw_update
from minissl.training.adamw import BLOCK


def textbook(w, g, m, v, s, lr, step, decay, scale):
    """Loshchilov & Hutter 2019, algorithm 2, line by line, with BERT's eps outside the root."""
    g = scale * g
    m = s.beta1 * m + (1 - s.beta1) * g
    v = s.beta2 * v + (1 - s.beta2) * g**2
    m_hat, v_hat = (m / (1 - s.beta1**step), v / (1 - s.beta2**step)) if s.bias_correction else (m, v)
    shrink = lr * s.weight_decay * w if decay else 0.0
    return w - shrink - lr * m_hat / (np.sqrt(v_hat) + s.eps), m, v


@pytest.mark.parametrize("size", [1, BLOCK - 1, 2 * BLOCK + 17])
@pytest.mark.parametrize("bias_correction", [True, False])
@pytest.mark.parametrize("decay", [True, False])
def test_several_steps_follow_the_textbook(size, bias_correction, decay):
    rng = np.random.default_rng(size)
    settings = AdamW(beta1=0.8, beta2=0.95, eps=1e-3, weight_decay=0.3, bias_correction=bias_correction)
    w, m, v = rng.standard_normal(size), np.zeros(size), np.zeros(size)
    expected = w.copy(), m.copy(), v.copy()
    for step in range(1, 6):
        g = rng.standard_normal(size) * 10.0 ** rng.integers(-6, 3, size)
        untouched = g.copy()
        lr, scale = 0.1 / step, 1.0 if step == 1 else 0.37
        adamw_update(w, g, m, v, settings, lr=lr, step=step, decay=decay, scale=scale)
        expected = textbook(expected[0], g, expected[1], expected[2], settings, lr, step, decay, scale)
        np.testing.assert_array_equal(g, untouched)
        for got, right in zip((w, m, v), expected, strict=True):
            np.testing.assert_allclose(got, right, rtol=1e-12, atol=1e-14)


def test_float32_stays_float32_and_close():
    rng = np.random.default_rng(0)
    w, g = (rng.standard_normal(BLOCK + 5).astype(np.float32) for _ in range(2))
    m, v = np.zeros_like(w), np.zeros_like(w)
    expected, *_ = textbook(w.astype(float), g.astype(float), 0.0, 0.0, AdamW(), 1e-2, 1, True, 0.5)
    adamw_update(w, g, m, v, AdamW(), lr=1e-2, step=1, decay=True, scale=0.5)
    assert w.dtype == m.dtype == v.dtype == np.float32
    np.testing.assert_allclose(w, expected, rtol=1e-6, atol=1e-7)


def test_the_block_is_of_no_consequence():
    """Splitting the buffer, as the threads do, gives the same bits."""
    rng = np.random.default_rng(1)
    w, g, m = (rng.standard_normal(3 * BLOCK + 1).astype(np.float32) for _ in range(3))
    v = rng.random(w.size).astype(np.float32)
    arrays = [a.copy() for a in (w, g, m, v)]
    adamw_update(w, g, m, v, AdamW(), lr=1e-2, step=3, decay=True, scale=0.7)
    for part in (slice(0, 1000), slice(1000, BLOCK + 3), slice(BLOCK + 3, None)):
        adamw_update(*(a[part] for a in arrays), AdamW(), lr=1e-2, step=3, decay=True, scale=0.7)
    for whole, pieces in zip((w, g, m, v), arrays, strict=True):
        np.testing.assert_array_equal(whole, pieces)
