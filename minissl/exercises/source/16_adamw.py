"""16. One step of AdamW

Adam divides a running mean of the gradient g by the root of a running mean of g²; AdamW shrinks the
weights beside it:

    m ← β₁ m + (1 - β₁) g        m̂ = m / (1 - β₁ᵗ)        t = 1, 2, … is the step
    v ← β₂ v + (1 - β₂) g²       v̂ = v / (1 - β₂ᵗ)
    w ← w - lr · λ · w - lr · m̂ / (√v̂ + eps)

m and v start at 0 and are too small at first; dividing by 1 - βᵗ repairs that (bias correction).
The decay λ acts on w itself: it never enters m or v (decoupled).

Write `adamw_step(w, g, m, v, t, lr, …)`: return the new m, v and w, arrays of the shape of w.
Change none of the old ones.

Check it with `minissl exercise check`. It goes with lesson 6.
"""

import numpy as np


def adamw_step(w, g, m, v, t, lr, beta1=0.9, beta2=0.999, eps=1e-6, decay=0.01):
    """Return the new m, v, w. `decay` is λ."""
    ### TODO: the new m and v, then the new w
    ### BEGIN SOLUTION
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
    return m, v, w - lr * decay * w - lr * m_hat / (np.sqrt(v_hat) + eps)
    ### END SOLUTION


### BEGIN HINTS
# 1. Line by line as above: first the two running means with the new g, then their corrected
#    versions, then w.
# 2. m̂ and v̂ are used in this step only. The m and v that are returned, and come back at the next
#    step, are uncorrected.
# 3. `m = beta1 * m + (1 - beta1) * g` makes a new array, where `m *= beta1` would change the
#    caller's. eps is added after the root: `np.sqrt(v_hat) + eps`.
### END HINTS
