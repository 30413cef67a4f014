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

template <Layout LAYOUT, int WIDTH, int BM, int BN, int TM, int TN, int STAGES, class Window>
CONV_INLINE void simt(CONV_ARGUMENTS) {
    constexpr int THREADS = (BM / TM) * (BN / TN);
    constexpr int LANES_F = LAYOUT == NCHW ? 4 : 8, LANES_P = 32 / LANES_F;
    constexpr int WARP_F = LANES_F * TM, WARP_P = LANES_P * TN;
    static_assert(BM % WARP_F == 0 && BN % WARP_P == 0 && TM % 4 == 0 && TN % 4 == 0, "whole warps");
    typedef WeightCopies<STEPS, BM, THREADS, STAGES> Weights;
    typedef PixelCopies<LAYOUT, WIDTH, BN, LAYOUT == NCHW ? 0 : 4, THREADS, STAGES, Window> Pixels;
    CONV_SHARED(shared);

    const Place place = Place::of_block<BM, BN>(p);
    Weights copy_weights;
    Pixels copy_pixels;
    copy_weights.begin(weights + (long long)place.group * p.weight_group + (long long)place.begin * p.weight_pitch,
                       p.weight_pitch, place.filter);
    copy_pixels.begin(input, offsets, place, p);

    // Two lanes side by side share their pixels, so that 8 lanes ask for 2 and 4 vectors.
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int lane_f = lane / (2 * LANES_P) * 2 + lane % 2, lane_p = lane / 2 % LANES_P;
    const int first_f = warp / (BN / WARP_P) * WARP_F + lane_f * 4;
    const int first_p = warp % (BN / WARP_P) * WARP_P + lane_p * (LAYOUT == NCHW ? 4 : 1);

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
#pragma unroll
            for (int k = 0; k < STEPS; k += 4) {
                float x[4][TN];
#pragma unroll
                for (int j = 0; j < TN; j++) {
                    const float4 v = *(const float4 *)(b + (first_p + j * LANES_P) * Pixels::PITCH + k);
                    x[0][j] = v.x, x[1][j] = v.y, x[2][j] = v.z, x[3][j] = v.w;
                }
#pragma unroll
                for (int l = 0; l < 4; l++) {
                    float w[TM];
                    read_weights(w, a + (k + l) * BM);
                    add(w, x[l]);
                }
            }
        }
    });

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

// A kernel of this kind. MIN_BLOCKS is how many blocks a multiprocessor is to hold.
#define CONV_SIMT(NAME, LAYOUT, WIDTH, BM, BN, TM, TN, STAGES, WINDOW, MIN_BLOCKS)                            \
    extern "C" __global__ void __launch_bounds__((BM / TM) * (BN / TN), MIN_BLOCKS) NAME(CONV_ARGUMENTS) {    \
        simt<LAYOUT, WIDTH, BM, BN, TM, TN, STAGES, WINDOW>(input, weights, offsets, bias, output, scratch, p); \
    }                                                                                                         \
    CONV_REGISTER(NAME, (BM / TM) * (BN / TN))
