"""What a finding can be. The names are stable: graders, exercises and the museum rely on them."""

KINDS = {
    "wrong_shape": "the gradient's shape is not its argument's",
    "unsummed_broadcast": "right but for a missing (or extra) sum over a broadcast axis",
    "not_finite": "NaN or infinity",
    "zero": "exactly zero where it should not be: nothing reaches this argument",
    "sign": "right but for the sign",
    "scale": "right but for a constant factor",
    "transposed": "right after a permutation of axes",
    "missing_term": "what is missing has a structure: constant along an axis, along the input, one path or term",
    "missing_factor": "an elementwise factor is missing: an activation's derivative, a gain, a mask",
    "ignored_positions": "gradient at positions that the mask or the loss excludes",
    "accumulation": "an argument used several times keeps only some of the uses, or a gradient is overwritten",
    "mutated": "an input, the upstream gradient or the cache was changed, so that a second call differs",
    "forward_differs": "the forward pass is wrong, not the backward (where a reference is known)",
    "nondeterministic": "two equal calls differ",
    "nonsmooth": "a note: the point sat on a kink, and the check moved off it",
    "precision": "a note: noise of float32, not an error",
    "vacuous": "this check could not have failed",
    "incorrect": "wrong, and none of the above",
}

NOTES = frozenset({"nonsmooth", "precision"})  # worth saying, but nothing is wrong
