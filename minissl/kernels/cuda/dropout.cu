// Random numbers made where they are used: Philox 4x64-10 (Salmon et al. 2011), the generator of NumPy's `Philox`.
//
// It has no state that moves on. Block n of four 64-bit words is a function of a key and of the number n, so every
// thread makes its own, and backward makes forward's again instead of keeping them.

struct Stream { unsigned long long key0, key1, counter0, counter1, counter2, counter3; };

// The four words of block n behind the stream's counter, a number of 256 bits.
__device__ void philox(Stream s, unsigned long long n, unsigned long long* words) {
    unsigned long long c0 = s.counter0 + n, c1 = s.counter1, c2 = s.counter2, c3 = s.counter3;
    if (c0 < n && ++c1 == 0 && ++c2 == 0) ++c3;  // carry
    for (int round = 0; round < 10; round++) {
        const unsigned long long a = 0xD2E7470EE14C6C93ull, b = 0xCA5A826395121157ull;
        const unsigned long long high0 = __umul64hi(a, c0), high1 = __umul64hi(b, c2), low0 = a * c0, low1 = b * c2;
        c0 = high1 ^ c1 ^ s.key0;
        c1 = low1;
        c2 = high0 ^ c3 ^ s.key1;
        c3 = low0;
        s.key0 += 0x9E3779B97F4A7C15ull;  // the golden ratio
        s.key1 += 0xBB67AE8584CAA73Bull;  // √3 - 1
    }
    words[0] = c0;
    words[1] = c1;
    words[2] = c2;
    words[3] = c3;
}

// Entries take 16 bits each, 16 entries to a block. A warp draws for up to 512 entries at a time, which may begin
// within a block: 33 blocks at most.
#define DRAWN 512
#define WORDS (4 * (DRAWN / 16 + 1))

// Draw the bits of `n` entries from entry `first` on into the warp's `words`. The stream begins `offset` entries into
// its first block. Returns where in `words` the first entry is.
__device__ int draw(Stream s, long long offset, long long first, int n, unsigned long long* words) {
    const long long begin = offset + first;
    const int within = begin % 16, blocks = (within + n + 15) / 16;
    __syncwarp();  // nobody still reads what was drawn before
    for (int i = lane(); i < blocks; i += WARP) philox(s, begin / 16 + i, words + 4 * i);
    __syncwarp();
    return within;
}

// 1 for an entry that is kept, 0 for one that is dropped.
__device__ real keep(const unsigned long long* words, int entry, long long dropped) {
    return (long long)(words[entry / 4] >> (16 * (entry % 4)) & 0xffff) >= dropped;
}

// y = x keep/(1 - rate), and where `add` is 1 the residual plus that; scale is 1/(1 - rate).
extern "C" __global__ void dropout(const real* x, const real* residual, long long add, long long size,
                                   unsigned long long key0, unsigned long long key1, unsigned long long counter0,
                                   unsigned long long counter1, unsigned long long counter2,
                                   unsigned long long counter3, long long offset, long long dropped, real scale,
                                   real* y) {
    __shared__ unsigned long long words[WARPS][WORDS];
    const Stream stream = {key0, key1, counter0, counter1, counter2, counter3};
    const long long first = warp_row() * DRAWN;
    if (first >= size) return;
    const int n = min(size - first, (long long)DRAWN);
    const int at = draw(stream, offset, first, n, words[warp()]);
    for (int i = lane(); i < n; i += WARP) {
        const real kept = x[first + i] * keep(words[warp()], at + i, dropped) * scale;
        y[first + i] = add ? residual[first + i] + kept : kept;
    }
}
