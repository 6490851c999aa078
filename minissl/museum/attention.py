"""Wrong softmax, attention and dropout."""

from minissl.museum.exhibit import Exhibit, Slip
from minissl.museum.ops import PUBLIC

SOFTMAX = "minissl.ops.softmax.softmax_backward"
BACK = "minissl.ops.attention.attention_backward"
FORWARD = "minissl.ops.attention.attention_forward"
DROPOUT = "minissl.ops.dropout.dropout_backward"
DROPOUT_FORWARD = "minissl.ops.dropout.dropout_forward"
DROP = {"dropout": 0.1}

# fmt: off
EXHIBITS = (
    # ---- softmax
    Exhibit("softmax-sum-dropped", SOFTMAX,
            "y * (dy - (y * dy).sum(axis=-1, keepdims=True))", "y * dy", "missing_term",
            "the weights' sum is fixed: raising one score lowers all others, and this forgets it",
            "Stops at 3.52 nats for 2.67, little below guessing by word frequency (3.74)."),
    Exhibit("softmax-diagonal", SOFTMAX,
            "y * (dy - (y * dy).sum(axis=-1, keepdims=True))", "y * (1 - y) * dy", "missing_term",
            "the sigmoid's derivative: the Jacobian's diagonal alone",
            "Stops at 3.60 nats for 2.67, little below guessing by word frequency (3.74)."),
    Exhibit("softmax-no-outer-factor", SOFTMAX, "return y * (dy", "return (dy", "missing_factor",
            "the sum is subtracted, the factor y in front is lost",
            "Restless, and never below guessing by word frequency (4.04 nats)."),

    # ---- attention, backward
    Exhibit("attention-key-transposed", BACK,
            "dscores.swapaxes(-1, -2) @ q", "q.swapaxes(-1, -2) @ dscores", "transposed",
            "the gradient of kᵀ, never transposed back; nothing crashes where a head is as wide as there are keys",
            "Where a head is as wide as there are keys: 2.78 for 2.67 nats, nobody would notice. Else it crashes.",
            PUBLIC),
    Exhibit("attention-key-reshaped", BACK,
            "dscores.swapaxes(-1, -2) @ q", "(q.swapaxes(-1, -2) @ dscores).reshape(k.shape)", "transposed",
            "a reshape where a transpose is meant: the shape is right, the numbers are shuffled",
            "Seems to work: 2.78 for 2.67 nats."),
    Exhibit("attention-product-swapped", BACK,
            "return dscores @ k, dscores.swapaxes(-1, -2) @ q, dv",
            "return dscores.swapaxes(-1, -2) @ q, dscores @ k, dv", "wrong_shape",
            "the product q kᵀ sends each operand's gradient to the other one",
            "Falls to 3.42 and climbs again to 3.49 nats, where the right one reaches 2.67.", PUBLIC),
    Exhibit("attention-key-value-swapped", BACK,
            "return dscores @ k, dscores.swapaxes(-1, -2) @ q, dv",
            "return dscores @ k, dv, dscores.swapaxes(-1, -2) @ q", "wrong_shape",
            "returned in the order q, v, k",
            "Learns slowly: 2.95 for 2.67 nats."),
    Exhibit("attention-query-lost", BACK, "return dscores @ k,", "return 0 * q,", "zero",
            "the queries are taken for constants, as after a detach",
            "Nothing shows, 2.68 for 2.67 nats: the keys learn for both."),
    Exhibit("attention-no-root-k", BACK, " * (1 / math.sqrt(q.shape[-1]))", "", "scale",
            "1/√K is applied to the scores and forgotten on the way back",
            "Seems to work: 2.80 for 2.67 nats; queries and keys move too much beside the rest."),
    Exhibit("attention-over-k", BACK, "math.sqrt(q.shape[-1])", "q.shape[-1]", "scale",
            "1/K for 1/√K",
            "Nothing shows: AdamW divides the factor out again."),
    Exhibit("attention-value-before-dropout", BACK,
            "dv = _drop(weights, kept).swapaxes(-1, -2) @ dy", "dv = weights.swapaxes(-1, -2) @ dy", "missing_factor",
            "the value gradient uses the attention weights before dropout; right again as soon as dropout is off",
            "Nothing shows, 2.68 for 2.68 nats at 10 % dropout; tests in evaluation mode pass.", PUBLIC, setting=DROP),
    Exhibit("attention-dropout-not-undone", BACK,
            "_drop(dy @ v.swapaxes(-1, -2), kept)", "dy @ v.swapaxes(-1, -2)", "missing_factor",
            "gradient flows into the weights that dropout had removed",
            "Nothing shows: 2.69 for 2.68 nats at 10 % dropout.", setting=DROP),
    Exhibit("attention-mask-forgotten-back", BACK,
            "q, k, v, weights, kept = cache",
            "q, k, v, weights, kept = cache\n"
            "    scores = q @ k.swapaxes(-1, -2) * (1 / math.sqrt(q.shape[-1]))\n"
            "    e = array_module(q).exp(scores - scores.max(axis=-1, keepdims=True))\n"
            "    weights = e / e.sum(axis=-1, keepdims=True)", "ignored_positions",
            "backward computes the weights anew to save memory, and forgets the mask",
            "Nothing shows: 2.66 for 2.67 nats."),

    # ---- attention, forward
    Exhibit("attention-mask-inverted", FORWARD,
            "xp.where(mask, scores, -math.inf)", "xp.where(mask, -math.inf, scores)", "forward_differs",
            "True taken for hidden: one library's masks mean the opposite of another's",
            "3.58 nats for 2.67: a text sees its padding alone. Without padding there is no mask, and tests pass.",
            PUBLIC),
    Exhibit("attention-mask-ignored", FORWARD, "if mask is not None", "if False", "forward_differs",
            "the mask is accepted and never used",
            "Nothing shows, 2.66 for 2.67 nats; but a text's result depends on how far it was padded."),
    Exhibit("attention-mask-times", FORWARD,
            "xp.where(mask, scores, -math.inf)", "scores * mask", "forward_differs",
            "a score of 0 is not hidden: exp(0) = 1",
            "Nothing shows, 2.66 for 2.67 nats; but a text's result depends on how far it was padded."),
    Exhibit("attention-mask-tiny", FORWARD,
            "xp.where(mask, scores, -math.inf)", "xp.where(mask, scores, -1e-9)", "forward_differs",
            "-1e-9 typed for -1e9: hidden scores become zeros, which are not hidden",
            "Nothing shows, 2.66 for 2.67 nats; but a text's result depends on how far it was padded."),
    Exhibit("attention-mask-after-softmax", FORWARD,
            "if mask is not None:\n        scores = xp.where(mask, scores, -math.inf)\n    ", "", "forward_differs",
            "the mask is applied to the finished weights, which then no longer sum to 1",
            "Nothing shows, 2.68 for 2.67 nats; but a text's result depends on how far it was padded.",
            more=(Slip(FORWARD, "e / xp.where(total > 0, total, 1)", "e / total * (1 if mask is None else mask)"),)),
    Exhibit("attention-not-scaled", FORWARD, " * (1 / math.sqrt(q.shape[-1]))", "", "forward_differs",
            "1/√K is left out: scores grow with the width, and the softmax saturates",
            "Seems to work: 2.72 for 2.67 nats at heads of width 32."),
    Exhibit("attention-over-queries", FORWARD, "e.sum(axis=-1", "e.sum(axis=-2", "forward_differs",
            "each key's weights sum to 1, where each query's should",
            "Never gets below guessing by word frequency (3.75 nats)."),
    Exhibit("attention-softmax-maximum-axis", FORWARD, "scores.max(axis=-1", "scores.max(axis=-2", "forward_differs",
            "the softmax's maximum over the wrong axis: no longer one shift for a whole row, so the weights change",
            "Learns to 3.15 nats for 2.67, along a smooth curve.", PUBLIC),
    Exhibit("attention-one-maximum", FORWARD, "scores.max(axis=-1, keepdims=True)", "scores.max()", "forward_differs",
            "one maximum for the whole array: a row far below it underflows to zeros",
            "Nothing shows while scores are small; where one row's are far above another's, that other sees nothing."),

    # ---- dropout
    Exhibit("dropout-not-scaled", DROPOUT_FORWARD,
            "return x * cache.keep * cache.scale", "return x * cache.keep", "forward_differs",
            "what survives is not scaled up, so evaluation sees larger numbers than training did",
            "Nothing shows: 2.83 for 2.81 nats at 30 % dropout.", setting={"dropout": 0.3}),
    Exhibit("dropout-scale-forgotten-back", DROPOUT, " * cache.scale", "", "scale",
            "the keep rate is forgotten on the way back",
            "Nothing shows: 2.68 for 2.68 nats.", setting=DROP),
    Exhibit("dropout-mask-forgotten-back", DROPOUT, " * cache.keep", "", "missing_factor",
            "gradient for what was dropped",
            "Nothing shows: 2.71 for 2.68 nats.", setting=DROP),
    Exhibit("dropout-new-mask-back", DROPOUT,
            "return dy * cache.keep * cache.scale",
            "keep = np.random.default_rng().random(dy.shape) < 1 / cache.scale\n    return dy * keep * cache.scale",
            "nondeterministic", "backward draws its own mask, which is not forward's",
            "Nothing shows: 2.70 for 2.68 nats.", setting=DROP),
    Exhibit("dropout-in-place", DROPOUT,
            "return dy * cache.keep * cache.scale", "dy *= cache.keep * cache.scale\n    return dy", "mutated",
            "the upstream gradient is overwritten, and a residual branch still needs it",
            "Nothing shows: 2.69 for 2.68 nats.", setting=DROP),
)
# fmt: on
