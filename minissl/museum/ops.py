"""Wrong ops that own no attention: linear maps, look-ups, layer norm, activations, losses."""

from minissl.museum.exhibit import Exhibit, Slip

PUBLIC = "seen in a public project"
LINEAR = "minissl.ops.linear.linear_backward"
EMBEDDING = "minissl.ops.embedding.embedding_backward"
TAKE = "minissl.ops.embedding.take_positions_backward"
NORM = "minissl.ops.layer_norm.layer_norm_backward"
NORM_FORWARD = "minissl.ops.layer_norm.layer_norm_forward"
GELU = "minissl.ops.activations.gelu_backward"
GELU_TANH = "minissl.ops.activations.gelu_tanh_backward"
RELU = "minissl.ops.activations.relu_backward"
TANH = "minissl.ops.activations.tanh_backward"
CROSS_ENTROPY = "minissl.ops.cross_entropy.cross_entropy_backward"
CROSS_ENTROPY_FORWARD = "minissl.ops.cross_entropy.cross_entropy_forward"
MASKED_CROSS_ENTROPY = "minissl.ops.cross_entropy.masked_cross_entropy_backward"
MSE = "minissl.ops.regression.masked_mse_backward"
MSE_FORWARD = "minissl.ops.regression.masked_mse_forward"

# fmt: off
EXHIBITS = (
    # ---- linear
    Exhibit("linear-bias-mean", LINEAR, "drows.sum(axis=0)", "drows.mean(axis=0)", "scale",
            "a mean where the broadcast over all rows calls for a sum",
            "Nothing shows: AdamW divides a gradient by its own size. Plain gradient descent would crawl."),
    Exhibit("linear-bias-one-axis", LINEAR, "drows.sum(axis=0)", "dy.sum(axis=0)", "unsummed_broadcast",
            "summed over the batch but not over the positions: written for 2-D inputs, used for 3-D ones",
            "Stops at the first step: `Grads.add` refuses the shape, where NumPy's `+=` may broadcast in silence."),
    Exhibit("linear-weight-transposed", LINEAR, "drows.T @ rows", "rows.T @ drows", "transposed",
            "the derivation had the weight inputs × outputs, the code stores it outputs × inputs",
            "Stops at the first weight that is not square; a model of square ones would train on."),
    Exhibit("linear-weight-mean", LINEAR, "drows.T @ rows", "drows.T @ rows / len(rows)", "scale",
            "averaged over the batch here, and again in the loss",
            "Seems to work, 2.74 for 2.67 nats: AdamW hides the factor, the clipping and its eps do not."),
    Exhibit("linear-input-sign", LINEAR, "dx = (drows @ weight)", "dx = (-drows @ weight)", "sign",
            "a minus taken along from a loss written as true less predicted",
            "Falls to guessing by word frequency and climbs from there: the layers below walk uphill."),
    Exhibit("linear-input-lost", LINEAR, "dx = (drows @ weight)", "dx = (0 * drows @ weight)", "zero",
            "a detach, or a copy made for debugging, cuts the path to the layers below",
            "The loss falls to 3.64, a little below guessing by frequency: only what is near the output learns."),

    # ---- look-ups
    Exhibit("embedding-assigned", EMBEDDING, "xp.add.at(dweight, ids, dy)", "dweight[ids] = dy", "accumulation",
            "`=` for `+=`: a word that occurs twice keeps the gradient of one place",
            "Nothing shows, 2.67 for 2.67 nats: one of many gradients of a row still points the right way."),
    Exhibit("embedding-index-added", EMBEDDING, "xp.add.at(dweight, ids, dy)", "dweight[ids] += dy", "accumulation",
            "NumPy's `+=` through an index array adds repeated ids once only: np.add.at is needed",
            "Nothing shows, 2.67 for 2.67 nats, and the check of a text without repeated words passes too."),
    Exhibit("embedding-averaged", EMBEDDING, "ids, dy)", "ids, dy / ids.size)", "scale",
            "averaged over the positions, though the loss has its mean already",
            "Nothing shows: AdamW divides the factor out again."),
    Exhibit("take-positions-repeated", TAKE,
            "return embedding_backward(dy, rows).reshape(shape)",
            "dx = array_module(dy).zeros(rows.shape, dy.dtype)\n    dx[positions] = dy\n    return dx.reshape(shape)",
            "accumulation",
            "assigned, not added: a position that is asked about twice keeps one gradient",
            "Nothing can show: masked language modelling asks about no position twice."),
    Exhibit("take-positions-reordered", TAKE, "LookupCache(positions,", "LookupCache(positions[::-1],", "incorrect",
            "the positions are reordered between the passes, and gradients go to one another's places",
            "Never gets below guessing by word frequency (3.75 nats)."),
    Exhibit("take-positions-time-first", "minissl.ops.embedding.take_positions_forward",
            "x.reshape(", "x.swapaxes(0, -2).reshape(", "forward_differs",
            "flat positions counted time first, in an array that is batch first",
            "Falls to 3.67 and stays: each word is predicted from another word's place."),

    # ---- layer norm
    Exhibit("layer-norm-mean-term", NORM, " - mean_part", "", "missing_term",
            "the mean term is computed and never added",
            "Nothing shows: 2.67 for 2.67 nats.", PUBLIC),
    Exhibit("layer-norm-variance-term", NORM, " - variance_part", "", "missing_term",
            "σ is taken for a constant, though every input moves it",
            "Trains to 3.26 nats for 2.67, without a spike: it looks like a model that is too small."),
    Exhibit("layer-norm-gain-outside", NORM,
            "dx = inv_std * (dnormed - mean_part - variance_part)",
            "mean_part = dy.mean(axis=-1, keepdims=True)\n"
            "    variance_part = normed * (dy * normed).mean(axis=-1, keepdims=True)\n"
            "    dx = gain * inv_std * (dy - mean_part - variance_part)",
            "missing_factor",
            "the gain is pulled outside the two sums; at gain 1, where every model begins, nothing shows",
            "Nothing shows, 2.67 for 2.67 nats: in a short run the gains stay near 1 (0.9 to 1.3).", PUBLIC),
    Exhibit("layer-norm-no-gain", NORM, "dnormed = dy * gain", "dnormed = dy", "missing_factor",
            "the gain is forgotten on the way back; invisible at gain 1",
            "Nothing shows: 2.66 for 2.67 nats."),
    Exhibit("layer-norm-no-sigma", NORM, "dx = inv_std * (", "dx = (", "missing_factor",
            "the division by σ is forgotten on the way back",
            "Seems to work, 2.69 for 2.67 nats: σ is a positive number, so the direction stays about right."),
    Exhibit("layer-norm-gain-gets-sum", NORM, "(dy * normed).sum(", "dy.sum(", "missing_factor",
            "the bias's gradient copied for the gain: the factor n is lost",
            "Nothing shows: 2.68 for 2.67 nats."),
    Exhibit("layer-norm-gain-bias-swapped", NORM,
            "(dy * normed).sum(axis=leading), dy.sum(axis=leading)",
            "dy.sum(axis=leading), (dy * normed).sum(axis=leading)", "incorrect",
            "two gradients of one shape, returned in the other order",
            "Nothing shows: 2.68 for 2.67 nats."),
    Exhibit("layer-norm-one-axis", NORM, "tuple(range(dy.ndim - 1))", "0", "unsummed_broadcast",
            "gain and bias summed over the batch but not over the positions",
            "Stops at the first step: `Grads.add` refuses the shape."),
    Exhibit("layer-norm-over-batch", NORM_FORWARD,
            "x - x.mean(axis=-1, keepdims=True)", "x - x.mean(axis=0, keepdims=True)", "forward_differs",
            "batch norm's axis: each row is centred by what else is in the batch",
            "Never gets below guessing by word frequency, and a row's result depends on its neighbours."),
    Exhibit("layer-norm-sample-variance", NORM_FORWARD,
            "(centred * centred).mean(axis=-1, keepdims=True)",
            "(centred * centred).sum(axis=-1, keepdims=True) / (x.shape[-1] - 1)", "forward_differs",
            "a library's std divides by D - 1 unless told otherwise",
            "Nothing shows, but a published checkpoint gives slightly other numbers."),
    Exhibit("layer-norm-eps-outside", NORM_FORWARD, "1 / xp.sqrt(variance + eps)", "1 / (xp.sqrt(variance) + eps)",
            "forward_differs", "eps added to σ, not to σ²: harmless until eps is large or a row is constant",
            "Nothing shows at BERT's eps of 1e-12; at 1e-2 it would."),

    # ---- activations
    Exhibit("gelu-gate-constant", GELU, "gate + x * density", "gate", "missing_term",
            "the product rule loses its second half: the gate Φ(x) is taken for a constant",
            "Nothing shows: 2.67 for 2.67 nats."),
    Exhibit("gelu-without-root-2", "minissl.ops.activations.gelu_forward", "erf(x * math.sqrt(0.5))", "erf(x)",
            "forward_differs", "erf(x) where Φ(x) needs erf(x/√2)",
            "Nothing shows: another smooth gate learns as well. A published checkpoint would come out wrong."),
    Exhibit("gelu-tanh-digit", "minissl.ops.activations.gelu_tanh_forward", "PI * (x + 0.044715", "PI * (x + 0.44715",
            "forward_differs", "a zero lost while copying the constant",
            "Nothing shows: another smooth gate learns as well. A published checkpoint would come out wrong.",
            setting={"hidden_act": "gelu_new"}),
    Exhibit("gelu-tanh-inner-derivative", GELU_TANH, "(2 * gate * (1 - gate) * du)", "(2 * gate * (1 - gate))",
            "missing_factor", "the chain rule stops at the tanh: the derivative of its argument is lost",
            "Nothing shows: 2.67 for 2.67 nats.", setting={"hidden_act": "gelu_new"}),
    Exhibit("relu-passes-all", RELU, "dy * (cache > 0)", "dy", "missing_factor",
            "the derivative is forgotten: gradient flows through units that are off",
            "Seems to work: 2.78 for 2.68 nats.", setting={"hidden_act": "relu"}),
    Exhibit("tanh-no-derivative", TANH, "dy * (1 - cache * cache)", "dy", "missing_factor",
            "the derivative is forgotten",
            "Nothing shows in the next-sentence loss: 0.03 for 0.05 nats; the gradient's sign is right.",
            setting={"task": "pairs"}),
    Exhibit("tanh-of-input", "minissl.ops.activations.tanh_forward", "return y, y", "return y, x", "incorrect",
            "1 - y² wants the output, and the cache holds the input",
            "Nothing shows in the next-sentence loss: 0.07 for 0.05 nats.", setting={"task": "pairs"}),

    # ---- losses
    Exhibit("cross-entropy-no-onehot", CROSS_ENTROPY,
            "dlogits[xp.arange(len(targets)), targets] -= 1", "pass", "missing_term",
            "p is pushed down everywhere, what was true is never pulled up",
            "Stays at chance, 4.82 nats: the only force is to make everything equally likely."),
    Exhibit("cross-entropy-sum", CROSS_ENTROPY, "(dy / divisor)", "dy", "scale",
            "the gradient of a sum for a loss that is a mean",
            "Nothing shows: clipping and AdamW divide the factor out again."),
    Exhibit("cross-entropy-own-count", CROSS_ENTROPY, "(dy / divisor)", "(dy / len(targets))", "scale",
            "a share of the batch divides by its own number of targets",
            "Nothing shows: two threads double the gradient, and AdamW divides it out again.", setting={"threads": 2}),
    Exhibit("cross-entropy-twice-softmax", CROSS_ENTROPY_FORWARD,
            "shifted = logits",
            "p = xp.exp(logits - logits.max(axis=-1, keepdims=True))\n"
            "    logits = p / p.sum(axis=-1, keepdims=True)\n"
            "    shifted = logits", "forward_differs",
            "the model ends in a softmax and the loss applies another",
            "The loss sticks at 4.70, just below chance: a softmax of numbers from 0 to 1 is never sure."),
    Exhibit("cross-entropy-no-maximum", CROSS_ENTROPY_FORWARD,
            "logits - logits.max(axis=-1, keepdims=True)", "logits", "not_finite",
            "exp overflows for a score above 88 in float32",
            "Nothing shows until a score passes 88, perhaps after days; then the loss is NaN."),
    Exhibit("cross-entropy-shared-ignore", CROSS_ENTROPY_FORWARD,
            "-log_probs[xp.arange(len(targets)), targets].sum()",
            "-(log_probs[xp.arange(len(targets)), targets] * (targets != 0)).sum()", "forward_differs",
            "one loss object with ignore_index=0 for words and for pairs: there label 0 means \"is next\"",
            "Its own loss goes to 0.00: it answers \"not next\" to everything, and nobody looks at accuracy.", PUBLIC,
            more=(Slip(CROSS_ENTROPY, "return dlogits * (dy / divisor)",
                       "return dlogits * (targets != 0)[:, None] * (dy / divisor)"),),
            setting={"task": "pairs"}),
    Exhibit("masked-cross-entropy-bias", MASKED_CROSS_ENTROPY,
            "return linear_backward(cross_entropy_backward(dy, cache.cross_entropy), cache.linear)",
            "dlogits = cross_entropy_backward(dy, cache.cross_entropy)\n"
            "    dh, dweight, dbias = linear_backward(dlogits, cache.linear)\n"
            "    return dh, dweight, 0 * dbias", "zero",
            "the decoder's own bias is left out of the backward pass",
            "Nothing shows: 2.67 for 2.67 nats."),
    Exhibit("masked-cross-entropy-sign", MASKED_CROSS_ENTROPY,
            "linear_backward(cross_entropy_backward", "linear_backward(-cross_entropy_backward", "sign",
            "true less predicted, where the loss falls along predicted less true",
            "The loss climbs without end: 164 nats after 400 steps."),
    Exhibit("masked-mse-no-2", MSE, "2 * dy", "dy", "scale",
            "the 2 of the square's derivative is forgotten",
            "Nothing shows: AdamW divides the factor out again.", setting={"task": "patches"}),
    Exhibit("masked-mse-sum", MSE, "2 * dy / cache.size", "2 * dy", "scale",
            "the gradient of a sum for a loss that is a mean",
            "Nothing shows: AdamW divides the factor out again.", setting={"task": "patches"}),
    Exhibit("masked-mse-visible-too", MSE_FORWARD,
            "cache = _chosen_difference(prediction, target, positions, count)",
            "count = prediction.size // prediction.shape[-1]\n"
            "    cache = _chosen_difference(prediction, target, array_module(prediction).arange(count), None)",
            "forward_differs", "the error over all patches: most of it is copying what can be seen",
            "Its own loss is the better one, 0.19 for 0.25; what is hidden is restored worse, 0.30 for 0.28.",
            setting={"task": "patches"}),
)
# fmt: on
