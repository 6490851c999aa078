// GELU, y = x Φ(x), and a linear layer's bias with it. Φ(x) = erfc(-x/√2)/2 is the normal distribution function,
// φ(x) = exp(-x²/2)/√(2π) its derivative. (1 + erf(x/√2))/2 is the same, but loses digits where x is negative.
__device__ real normal_cdf(real x) { return real(0.5) * erfc(x * real(-0.70710678118654752)); }
__device__ real normal_density(real x) { return exp(real(-0.5) * x * x) * real(0.39894228040143268); }

extern "C" __global__ void gelu_forward(const real* x, long long size, real* y) {
    for (long long i = first_entry(); i < size; i += entry_step()) y[i] = x[i] * normal_cdf(x[i]);
}

// dx = dy (Φ(x) + x φ(x))
extern "C" __global__ void gelu_backward(const real* dy, const real* x, long long size, real* dx) {
    for (long long i = first_entry(); i < size; i += entry_step())
        dx[i] = dy[i] * (normal_cdf(x[i]) + x[i] * normal_density(x[i]));
}

// In place h = product + bias, which backward needs, and y = gelu(h). A thread keeps to one column.
extern "C" __global__ void bias_gelu(real* h, const real* bias, long long rows, long long width, real* y) {
    const long long column = first_entry();
    if (column >= width) return;
    for (long long row = blockIdx.y; row < rows; row += gridDim.y) {
        const long long i = row * width + column;
        const real x = h[i] + bias[column];
        h[i] = x;
        y[i] = x * normal_cdf(x);
    }
}
