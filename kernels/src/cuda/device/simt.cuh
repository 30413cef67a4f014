// Implicit matrix product in fp32 on the CUDA cores.
//
// A thread multiplies TM filters by TN pixels. Lanes of a warp lie 4 × 8, with the 8 along what is
// contiguous in the output; a lane's filters come in fours, and so do its pixels in NCHW:
//
//   filters of a warp   [TM / 4][LANES_F][4]
//   pixels of a warp    NCHW [TN / 4][LANES_P][4]      NHWC [TN][LANES_P]
//
// so that 8 lanes read 8 successive float4s of a row (NCHW, and filters), or 8 rows at distinct banks
// (NHWC: rows are 20 floats apart, 8 · 20 mod 32 are the 8 multiples of 4).

template <Layout LAYOUT, int BM, int BN, int TM, int TN> struct Lanes {
    static constexpr int FILTERS = LAYOUT == NCHW || BM < 32 ? 4 : 8, PIXELS = 32 / FILTERS;
    static constexpr int WARP_F = FILTERS * TM, WARP_P = PIXELS * TN;
    static_assert(BM % WARP_F == 0 && BN % WARP_P == 0 && TM % 4 == 0 && TN % 4 == 0, "whole warps");

    // The first filter and pixel of a thread. Two lanes side by side share their pixels, so that 8 lanes
    // ask for 2 vectors of filters and 4 of pixels.
    static CONV_INLINE int filter(int thread) {
        const int lane = thread % 32;
        return thread / 32 / (BN / WARP_P) * WARP_F + (lane / (2 * PIXELS) * 2 + lane % 2) * 4;
    }
    static CONV_INLINE int pixel(int thread) {
        return thread / 32 % (BN / WARP_P) * WARP_P + thread / 2 % PIXELS * (LAYOUT == NCHW ? 4 : 1);
    }
};

// Writes a thread's sums.
template <class Lanes, Layout LAYOUT, int BM, int BN, int TM, int TN>
CONV_INLINE void store(const float (&sum)[TM][TN], const float *bias, float *output, float *scratch, const Params &p) {
    constexpr int LANES_F = Lanes::FILTERS, LANES_P = Lanes::PIXELS;
    // Asked for again, so that nobody keeps it in registers all the while.
    const int thread = thread_again(), first_f = Lanes::filter(thread), first_p = Lanes::pixel(thread);
    const Place place = Place::of_block<BM, BN>(p, block_again(), split_again());
    const Epilogue epilogue(bias, output, scratch, place, p);
    const int channel = place.group * p.filters;
    if (LAYOUT == NCHW) {
        // Images of a multiple of 4 pixels: fours stay together and aligned.
        const bool fours = p.out_height * p.out_width % 4 == 0;
#pragma unroll
        for (int j = 0; j < TN; j += 4) {
            const int pixel = place.pixel + first_p + j * LANES_P;
            int at[4];
#pragma unroll
            for (int q = 0; q < 4; q++) at[q] = Epilogue::pixel_offset(p, min(pixel + q, p.pixels - 1));
#pragma unroll
            for (int i = 0; i < TM; i++) {
                const int filter = place.filter + first_f + i / 4 * 4 * LANES_F + i % 4;
                if (filter >= p.filters) continue;
                const float b = epilogue.bias_of(channel + filter);
                const int row = (channel + filter) * p.out_channel;
                if (fours) {
                    if (pixel < p.pixels)
                        epilogue.store4(at[0] + row, make_float4(sum[i][j], sum[i][j + 1], sum[i][j + 2], sum[i][j + 3]),
                                        make_float4(b, b, b, b), p);
                } else {
#pragma unroll
                    for (int q = 0; q < 4; q++)
                        if (pixel + q < p.pixels) epilogue.store(at[q] + row, sum[i][j + q], b, p);
                }
            }
        }
    } else {
        // Groups of a multiple of 4 filters, and so pixels of a multiple of 4 channels.
        const bool fours = p.filters % 4 == 0;
#pragma unroll
        for (int i = 0; i < TM; i += 4) {
            const int filter = place.filter + first_f + i * LANES_F;
            float b[4];
#pragma unroll
            for (int q = 0; q < 4; q++) b[q] = filter + q < p.filters ? epilogue.bias_of(channel + filter + q) : 0.f;
#pragma unroll
            for (int j = 0; j < TN; j++) {
                const int pixel = place.pixel + first_p + j * LANES_P;
                if (pixel >= p.pixels) continue;
                const int at = Epilogue::pixel_offset(p, pixel) + channel + filter;
                if (fours) {
                    if (filter < p.filters)
                        epilogue.store4(at, make_float4(sum[i][j], sum[i + 1][j], sum[i + 2][j], sum[i + 3][j]),
                                        make_float4(b[0], b[1], b[2], b[3]), p);
                } else {
#pragma unroll
                    for (int q = 0; q < 4; q++)
                        if (filter + q < p.filters) epilogue.store(at + q, sum[i + q][j], b[q], p);
                }
            }
        }
    }
}

template <Layout LAYOUT, int WIDTH, int BM, int BN, int TM, int TN, int STAGES, class Window>
CONV_INLINE void simt(CONV_ARGUMENTS) {
    constexpr int THREADS = (BM / TM) * (BN / TN);
    typedef Lanes<LAYOUT, BM, BN, TM, TN> Lanes;
    constexpr int LANES_F = Lanes::FILTERS, LANES_P = Lanes::PIXELS;
    typedef WeightCopies<STEPS, BM, THREADS, STAGES> Weights;
    typedef PixelCopies<LAYOUT, WIDTH, BN, LAYOUT == NCHW ? 0 : 4, THREADS, STAGES, Window> Pixels;
    CONV_SHARED(shared);

    const Place place = Place::of_block<BM, BN>(p, blockIdx.x, blockIdx.z);
    Weights copy_weights;
    Pixels copy_pixels;
    copy_weights.begin(weights + (long long)place.group * p.weight_group + (long long)place.begin * p.weight_pitch,
                       p.weight_pitch, place.filter);
    copy_pixels.begin(input, offsets, place, p);

    const int first_f = Lanes::filter(threadIdx.x), first_p = Lanes::pixel(threadIdx.x);

    float sum[TM][TN];
#pragma unroll
    for (int i = 0; i < TM; i++)
#pragma unroll
        for (int j = 0; j < TN; j++) sum[i][j] = 0.f;

    auto add = [&](const float(&w)[TM], const float(&x)[TN]) {
#pragma unroll
        for (int i = 0; i < TM; i++)
#pragma unroll
            for (int j = 0; j < TN; j++) sum[i][j] = fmaf(w[i], x[j], sum[i][j]);
    };
    auto read_weights = [&](float(&w)[TM], const float *row) {
#pragma unroll
        for (int i = 0; i < TM; i += 4) {
            const float4 v = *(const float4 *)(row + first_f + i * LANES_F);
            w[i] = v.x, w[i + 1] = v.y, w[i + 2] = v.z, w[i + 3] = v.w;
        }
    };
    pipeline<STAGES>(shared, copy_weights, copy_pixels, place, p, [&](const float *a, const float *b) {
        if (LAYOUT == NCHW) {
#pragma unroll
            for (int k = 0; k < STEPS; k++) {
                float w[TM], x[TN];
                read_weights(w, a + k * BM);
#pragma unroll
                for (int j = 0; j < TN; j += 4) {
                    const float4 v = *(const float4 *)(b + k * Pixels::PITCH + first_p + j * LANES_P);
                    x[j] = v.x, x[j + 1] = v.y, x[j + 2] = v.z, x[j + 3] = v.w;
                }
                add(w, x);
            }
        } else {
            // As many steps of a row at once as ptxas keeps in registers without spilling.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 800
            constexpr int DEEP = 4;
#else
            constexpr int DEEP = TM * TN < 64 ? 4 : 2;
#endif
#pragma unroll
            for (int k = 0; k < STEPS; k += DEEP) {
                float x[DEEP][TN];
                keep_order();
#pragma unroll
                for (int j = 0; j < TN; j++) {
                    const float *row = b + (first_p + j * LANES_P) * Pixels::PITCH + k;
                    if constexpr (DEEP == 4) {
                        const float4 v = *(const float4 *)row;
                        x[0][j] = v.x, x[1][j] = v.y, x[2][j] = v.z, x[3][j] = v.w;
                    } else {
                        const float2 v = *(const float2 *)row;
                        x[0][j] = v.x, x[1][j] = v.y;
                    }
                }
#pragma unroll
                for (int l = 0; l < DEEP; l++) {
                    float w[TM];
                    read_weights(w, a + (k + l) * BM);
                    add(w, x[l]);
                }
            }
        }
    });

    store<Lanes, LAYOUT, BM, BN, TM, TN>(sum, bias, output, scratch, p);
}

// A kernel of this kind. MIN_BLOCKS is how many blocks a multiprocessor is to hold.
#define CONV_SIMT(NAME, LAYOUT, WIDTH, BM, BN, TM, TN, STAGES, WINDOW, MIN_BLOCKS)                            \
    extern "C" __global__ void __launch_bounds__((BM / TM) * (BN / TN), MIN_BLOCKS) NAME(CONV_ARGUMENTS) {    \
        simt<LAYOUT, WIDTH, BM, BN, TM, TN, STAGES, WINDOW>(input, weights, offsets, bias, output, scratch, p); \
    }                                                                                                         \
    CONV_REGISTER(NAME, (BM / TM) * (BN / TN))
