// Cross-entropy, a block to a row of logits, since there may be tens of thousands of classes.

// In place: logits (+ bias, where `biased` is 1) become softmax(logits) - onehot(target), the gradient but for a factor.
// losses[row] = -log p(target); it stays NaN where no class is the target.
extern "C" __global__ void cross_entropy(real* logits, const real* bias, long long biased, const long long* targets,
                                         long long classes, double* losses) {
    const long long target = targets[blockIdx.x];
    logits += blockIdx.x * classes;
    if (threadIdx.x == 0) losses[blockIdx.x] = NAN;

    real highest = -INFINITY;
    for (long long c = threadIdx.x; c < classes; c += blockDim.x) {
        if (biased) logits[c] += bias[c];
        highest = fmax(highest, logits[c]);
    }
    highest = block_max(highest);

    real sum = 0;
    for (long long c = threadIdx.x; c < classes; c += blockDim.x) sum += exp(logits[c] - highest);
    const double total = block_sum(sum);

    const real inverse = 1 / total;
    for (long long c = threadIdx.x; c < classes; c += blockDim.x) {
        const real shifted = logits[c] - highest, p = exp(shifted) * inverse;
        if (c == target) losses[blockIdx.x] = log(total) - shifted;
        logits[c] = c == target ? p - 1 : p;
    }
}
