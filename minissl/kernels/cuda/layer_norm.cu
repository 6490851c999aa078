// Layer norm, a warp to a row: its 32 lanes take columns lane, lane + 32, …, which lie side by side in memory.
//
// A row is reduced in double precision. The mean is subtracted from numbers that may be close to it, and everything
// behind a layer norm feels what that loses; the arithmetic is little beside reading and writing the row.

// y = gain n + bias, n = (x - mean)/sqrt(variance + eps). Two passes find mean and variance: E[x²] - E[x]² would lose
// the variance of a row that is far from zero.
extern "C" __global__ void layer_norm_forward(const real* x, const real* gain, const real* bias, real eps,
                                              long long rows, long long width, real* y, real* normed, real* inv_std) {
    const long long row = warp_row();
    if (row >= rows) return;
    x += row * width;
    y += row * width;
    normed += row * width;

    double sum = 0;
    for (long long i = lane(); i < width; i += WARP) sum += x[i];
    const double mean = warp_sum(sum) / width;

    double squares = 0;
    for (long long i = lane(); i < width; i += WARP) squares += (x[i] - mean) * (x[i] - mean);
    const double r = 1 / sqrt(warp_sum(squares) / width + eps);

    for (long long i = lane(); i < width; i += WARP) {
        const real n = (x[i] - mean) * r;
        normed[i] = n;
        y[i] = gain[i] * n + bias[i];
    }
    if (lane() == 0) inv_std[row] = r;
}

// dx = (g - mean(g) - n mean(g n)) / std, g = gain dy.
extern "C" __global__ void layer_norm_backward(const real* dy, const real* normed, const real* inv_std,
                                               const real* gain, long long rows, long long width, real* dx) {
    const long long row = warp_row();
    if (row >= rows) return;
    dy += row * width;
    normed += row * width;
    dx += row * width;

    double sum = 0, dot = 0;
    for (long long i = lane(); i < width; i += WARP) {
        const double g = (double)gain[i] * dy[i];
        sum += g;
        dot += g * normed[i];
    }
    const double mean_part = warp_sum(sum) / width, variance_part = warp_sum(dot) / width;

    for (long long i = lane(); i < width; i += WARP)
        dx[i] = inv_std[row] * ((double)gain[i] * dy[i] - mean_part - normed[i] * variance_part);
}
