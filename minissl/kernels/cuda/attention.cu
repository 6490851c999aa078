// Attention's softmax with its mask and its dropout, between the two products; a warp to each query's row of scores.

// In place: weights = softmax(scores) over the keys that the query may attend to, all zero where there is none.
// dropped = weights keep/(1 - rate), where `drops` is 1. A mask is read through its steps from one sequence, head,
// query and key to the next; a step of 0 is an axis over which it is broadcast.
extern "C" __global__ void masked_softmax_forward(real* scores, long long rows, long long keys, const bool* mask,
                                                  long long masked, long long heads, long long queries,
                                                  long long batch_step, long long head_step, long long query_step,
                                                  long long key_step, long long drops, unsigned long long key0,
                                                  unsigned long long key1, unsigned long long counter0,
                                                  unsigned long long counter1, unsigned long long counter2,
                                                  unsigned long long counter3, long long offset, long long threshold,
                                                  real scale, real* dropped) {
    __shared__ unsigned long long words[WARPS][WORDS];
    const Stream stream = {key0, key1, counter0, counter1, counter2, counter3};
    const long long row = warp_row();
    if (row >= rows) return;
    scores += row * keys;
    if (masked)
        mask += row % queries * query_step + row / queries % heads * head_step + row / queries / heads * batch_step;

    real highest = -INFINITY;
    for (long long i = lane(); i < keys; i += WARP) {
        if (masked && !mask[i * key_step]) scores[i] = -INFINITY;
        highest = fmax(highest, scores[i]);
    }
    highest = warp_max(highest);
    if (highest == -INFINITY) highest = 0;  // not -∞ - -∞ in a row that sees nothing

    real total = 0;
    for (long long i = lane(); i < keys; i += WARP) {
        scores[i] = exp(scores[i] - highest);
        total += scores[i];
    }
    total = warp_sum(total);
    const real inverse = total > 0 ? 1 / total : total;  // 0 stays 0, and what is not a number shows

    for (long long start = 0; start < keys; start += DRAWN) {
        const int n = min(keys - start, (long long)DRAWN);
        const int at = drops ? draw(stream, offset, row * keys + start, n, words[warp()]) : 0;
        for (int i = lane(); i < n; i += WARP) {
            const real weight = scores[start + i] * inverse;
            scores[start + i] = weight;
            if (drops) dropped[row * keys + start + i] = weight * keep(words[warp()], at + i, threshold) * scale;
        }
    }
}

// In place: dscores = w (dw - Σ w dw), dw = dweights keep/(1 - rate). Where `drops` is 1, forward's `dropped` again.
extern "C" __global__ void masked_softmax_backward(real* dweights, const real* weights, long long rows, long long keys,
                                                   long long drops, unsigned long long key0, unsigned long long key1,
                                                   unsigned long long counter0, unsigned long long counter1,
                                                   unsigned long long counter2, unsigned long long counter3,
                                                   long long offset, long long threshold, real scale, real* dropped) {
    __shared__ unsigned long long words[WARPS][WORDS];
    const Stream stream = {key0, key1, counter0, counter1, counter2, counter3};
    const long long row = warp_row();
    if (row >= rows) return;
    dweights += row * keys;
    weights += row * keys;

    real sum = 0;
    for (long long start = 0; start < keys; start += DRAWN) {
        const int n = min(keys - start, (long long)DRAWN);
        const int at = drops ? draw(stream, offset, row * keys + start, n, words[warp()]) : 0;
        for (int i = lane(); i < n; i += WARP) {
            const real weight = weights[start + i];
            if (drops) {
                const real factor = keep(words[warp()], at + i, threshold) * scale;
                dweights[start + i] *= factor;
                dropped[row * keys + start + i] = weight * factor;
            }
            sum += weight * dweights[start + i];
        }
    }
    sum = warp_sum(sum);
    for (long long i = lane(); i < keys; i += WARP) dweights[i] = weights[i] * (dweights[i] - sum);
}
