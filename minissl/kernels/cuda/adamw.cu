// One AdamW step over the flat buffer, in one pass: it reads four arrays and writes three.
//
// m = β₁ m + (1-β₁) g, v = β₂ v + (1-β₂) g², w = shrink w - rate m/(√v/root + eps); `gradient_mean` and
// `gradient_square` are (1-β₁) and √(1-β₂) times what the gradient is scaled by.
extern "C" __global__ void adamw(real* weights, const real* gradients, real* mean, real* square, long long size,
                                 real beta1, real beta2, real gradient_mean, real gradient_square, real inverse_root,
                                 real eps, real shrink, real rate) {
    for (long long i = first_entry(); i < size; i += entry_step()) {
        const real g = gradients[i], t = gradient_square * g;
        const real m = beta1 * mean[i] + gradient_mean * g, v = beta2 * square[i] + t * t;
        mean[i] = m;
        square[i] = v;
        weights[i] = shrink * weights[i] - rate * (m / (sqrt(v) * inverse_root + eps));
    }
}
