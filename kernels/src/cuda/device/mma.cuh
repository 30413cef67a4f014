// Implicit matrix product on tensor cores, by mma.sync (compute capability 8.0).
//
// The contiguous axis of the output takes the side of the fragments whose sums lie in pairs:
//
//          16 rows    8 columns   a warp's tile
//   NCHW   filters    pixels      64 filters × 32 pixels, or 32 × 32
//   NHWC   pixels     filters     32 filters × 64 pixels, or 32 × 32
//
// Weights are packed in the order of fragments, [STEPS / 8][FILTERS / 16][lane][4], so that a lane reads what
// it needs of 16 filters and 8 steps as one float4, and a warp 512 bytes in a row. Pixels are read
//   NCHW  as single floats [step t][pixel g] of lane 4·g + t: rows are 8 mod 32 floats apart, so that 8·t + g
//         are 32 distinct banks;
//   NHWC  by ldmatrix, 8 rows of 16 bytes at a time: 20 floats apart, see tiles.cuh.
//
// Arithmetic. Tensor cores read 19 bits of an f32 (TF32) and truncate when they add, so that long sums drift
// towards zero.
//   TF32     operands are rounded to 11 significant bits, to nearest; weights when they are packed.
//   BF16     operands are rounded to 8 significant bits, to nearest. Which steps share a register is the same
//            for weights and pixels, and so does not matter.
//   TF32X3   x = big + small, both TF32; big·big + big·small + small·big. What is left out is at most
//            2^-22 of the product, and splitting loses at most one unit of x's last place. The three products
//            of a tile's 16 steps are summed apart and then added by the CUDA cores, which round: truncation
//            then costs as much as 6 sums long, whatever the length of the reduction.

enum Product { TF32X3, TF32, BF16 };

// To 11 significant bits, half away from zero. The hardware drops the low 13 bits, which may be all that makes a NaN
// of one, and its bits could wrap around: it becomes another one.
CONV_INLINE uint32_t rounded_to_tf32(float x) { return x == x ? __float_as_uint(x) + 0x1000 : 0x7fffffff; }

// x = big + small. The difference is exact; where x is NaN or infinite it is NaN, and so is the sum. Where `big` is
// rounded to infinity `small` is the other one, and the sum is NaN.
struct Split {
    uint32_t big, small;
    CONV_INLINE void set(float x) {
        big = (__float_as_uint(x) + 0x1000) & 0xffffe000;
        small = __float_as_uint(x - __uint_as_float(big));
    }
};

// The sums of a warp's tile; weights are the rows or the columns.
template <Product PRODUCT, bool WEIGHTS_ARE_ROWS, int ROWS, int COLUMNS> struct Sums {
    float sum[ROWS][COLUMNS][4];

    CONV_INLINE void clear() {
#pragma unroll
        for (int i = 0; i < ROWS; i++)
#pragma unroll
            for (int j = 0; j < COLUMNS; j++)
#pragma unroll
                for (int q = 0; q < 4; q++) sum[i][j][q] = 0.f;
    }

    // Adds the 16 steps of a tile. `row(i, half)` and `column(j, half)` read fragments of 8 steps.
    template <class Row, class Column> CONV_INLINE void add(Row row, Column column) {
        if constexpr (PRODUCT == TF32X3) {
            Split b[2][COLUMNS][2];
#pragma unroll
            for (int half = 0; half < 2; half++)
#pragma unroll
                for (int j = 0; j < COLUMNS; j++) {
                    float x[2];
                    column(x, j, half);
                    b[half][j][0].set(x[0]), b[half][j][1].set(x[1]);
                }
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
                float part[COLUMNS][4] = {};
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float x[4];
                    row(x, i, half);
                    uint32_t big[4], small[4];
#pragma unroll
                    for (int q = 0; q < 4; q++) {
                        Split a;
                        a.set(x[q]);
                        big[q] = a.big, small[q] = a.small;
                    }
                    // Small ones first.
#pragma unroll
                    for (int j = 0; j < COLUMNS; j++)
                        mma_tf32(part[j], small, b[half][j][0].big, b[half][j][1].big);
#pragma unroll
                    for (int j = 0; j < COLUMNS; j++)
                        mma_tf32(part[j], big, b[half][j][0].small, b[half][j][1].small);
#pragma unroll
                    for (int j = 0; j < COLUMNS; j++)
                        mma_tf32(part[j], big, b[half][j][0].big, b[half][j][1].big);
                }
#pragma unroll
                for (int j = 0; j < COLUMNS; j++)
#pragma unroll
                    for (int q = 0; q < 4; q++) sum[i][j][q] += part[j][q];
            }
        } else if constexpr (PRODUCT == TF32) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                uint32_t b[COLUMNS][2];
#pragma unroll
                for (int j = 0; j < COLUMNS; j++) {
                    float x[2];
                    column(x, j, half);
#pragma unroll
                    for (int q = 0; q < 2; q++) b[j][q] = WEIGHTS_ARE_ROWS ? rounded_to_tf32(x[q]) : __float_as_uint(x[q]);
                }
#pragma unroll
                for (int i = 0; i < ROWS; i++) {
                    float x[4];
                    row(x, i, half);
                    uint32_t a[4];
#pragma unroll
                    for (int q = 0; q < 4; q++) a[q] = WEIGHTS_ARE_ROWS ? __float_as_uint(x[q]) : rounded_to_tf32(x[q]);
#pragma unroll
                    for (int j = 0; j < COLUMNS; j++) mma_tf32(sum[i][j], a, b[j][0], b[j][1]);
                }
            }
        } else {
            // A register has steps t and t + 4 of one half.
            uint32_t b[COLUMNS][2];
#pragma unroll
            for (int j = 0; j < COLUMNS; j++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float x[2];
                    column(x, j, half);
                    b[j][half] = pair_of_bf16(x[0], x[1]);
                }
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
                uint32_t a[4];
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float x[4];
                    row(x, i, half);
                    a[2 * half] = pair_of_bf16(x[0], x[2]);
                    a[2 * half + 1] = pair_of_bf16(x[1], x[3]);
                }
#pragma unroll
                for (int j = 0; j < COLUMNS; j++) mma_bf16(sum[i][j], a, b[j][0], b[j][1]);
            }
        }
    }
};

// Writes a lane's sums: of row g the columns 2t and 2t + 1, and the same of row g + 8.
template <Layout LAYOUT, int BM, int BN, int WM, int WN, int ROWS, int COLUMNS>
CONV_INLINE void store_fragments(const float (&sum)[ROWS][COLUMNS][4], const float *bias, float *output, float *scratch,
                                 const Params &p) {
    const int thread = thread_again(), warp = thread / 32, g = thread % 32 / 4, t = thread % 4;
    const int first_f = warp / (BN / WN) * WM, first_p = warp % (BN / WN) * WN;
    const Place place = Place::of_block<BM, BN>(p, block_again(), split_again());
    const Epilogue epilogue(bias, output, scratch, place, p);
    const int channel = place.group * p.filters;
    // Pairs that stay together and aligned.
    const bool pairs = (LAYOUT == NCHW ? p.out_height * p.out_width : p.filters) % 2 == 0;
#pragma unroll
    for (int i = 0; i < 2 * ROWS; i++) {
        const int row = i / 2 * 16 + i % 2 * 8 + g;
#pragma unroll
        for (int j = 0; j < COLUMNS; j++) {
            const float s[2] = {sum[i / 2][j][i % 2 * 2], sum[i / 2][j][i % 2 * 2 + 1]};
            const int column = j * 8 + 2 * t;
            if constexpr (LAYOUT == NCHW) {
                const int filter = place.filter + first_f + row, pixel = place.pixel + first_p + column;
                if (filter >= p.filters || pixel >= p.pixels) continue;
                const float b = epilogue.bias_of(channel + filter);
                const int at = (channel + filter) * p.out_channel;
                if (pairs) {
                    epilogue.store2(at + Epilogue::pixel_offset(p, pixel), make_float2(s[0], s[1]), make_float2(b, b), p);
                } else {
                    epilogue.store(at + Epilogue::pixel_offset(p, pixel), s[0], b, p);
                    if (pixel + 1 < p.pixels) epilogue.store(at + Epilogue::pixel_offset(p, pixel + 1), s[1], b, p);
                }
            } else {
                const int filter = place.filter + first_f + column, pixel = place.pixel + first_p + row;
                if (filter >= p.filters || pixel >= p.pixels) continue;
                const int at = Epilogue::pixel_offset(p, pixel) + channel + filter;
                const float b = epilogue.bias_of(channel + filter);
                if (pairs) {
                    const float next = epilogue.bias_of(channel + filter + 1);
                    epilogue.store2(at, make_float2(s[0], s[1]), make_float2(b, next), p);
                } else {
                    epilogue.store(at, s[0], b, p);
                    if (filter + 1 < p.filters)
                        epilogue.store(at + 1, s[1], epilogue.bias_of(channel + filter + 1), p);
                }
            }
        }
    }
}

template <Product PRODUCT, Layout LAYOUT, int WIDTH, int BM, int BN, int WM, int WN, int STAGES>
CONV_INLINE void mma(CONV_ARGUMENTS) {
    constexpr int THREADS = (BM / WM) * (BN / WN) * 32;
    constexpr int ROWS = (LAYOUT == NCHW ? WM : WN) / 16, COLUMNS = (LAYOUT == NCHW ? WN : WM) / 8;
    static_assert(BM % WM == 0 && BN % WN == 0 && WM % 16 == 0 && WN % 16 == 0, "whole warps");
    typedef WeightCopies<STEPS / 8, 8 * BM, THREADS, STAGES> Weights;
    typedef PixelCopies<LAYOUT, WIDTH, BN, LAYOUT == NCHW ? 8 : 4, THREADS, STAGES, MaskedWindow> Pixels;
    CONV_SHARED(shared);

    const Place place = Place::of_block<BM, BN>(p, blockIdx.x, blockIdx.z);
    Weights copy_weights;
    Pixels copy_pixels;
    copy_weights.begin(weights + (long long)place.group * p.weight_group + (long long)(place.begin / 8) * p.weight_pitch,
                       p.weight_pitch, place.filter * 8);
    copy_pixels.begin(input, offsets, place, p);

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int first_f = warp / (BN / WN) * WM, first_p = warp % (BN / WN) * WN;

    Sums<PRODUCT, LAYOUT == NCHW, ROWS, COLUMNS> sums;
    sums.clear();
    pipeline<STAGES>(shared, copy_weights, copy_pixels, place, p, [&](const float *a, const float *b) {
        const float *w = a + (first_f / 16 * 32 + lane) * 4;
        if constexpr (LAYOUT == NCHW) {
            const float *x = b + lane % 4 * Pixels::PITCH + first_p + lane / 4;
            sums.add(
                [&](float(&v)[4], int i, int half) {
                    const float4 four = *(const float4 *)(w + half * 8 * BM + i * 128);
                    v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
                },
                [&](float(&v)[2], int j, int half) {
                    v[0] = x[half * 8 * Pixels::PITCH + j * 8];
                    v[1] = x[(half * 8 + 4) * Pixels::PITCH + j * 8];
                });
        } else {
            const float *x = b + (first_p + lane % 16) * Pixels::PITCH + lane / 16 * 4;
            sums.add(
                [&](float(&v)[4], int i, int half) { load_matrices(v, x + i * 16 * Pixels::PITCH + half * 8); },
                [&](float(&v)[2], int j, int half) {
                    const float2 two = *(const float2 *)(w + half * 8 * BM + j / 2 * 128 + j % 2 * 2);
                    v[0] = two.x, v[1] = two.y;
                });
        }
    });

    store_fragments<LAYOUT, BM, BN, WM, WN>(sums.sum, bias, output, scratch, p);
}

#define CONV_MMA(NAME, PRODUCT, LAYOUT, WIDTH, BM, BN, WM, WN, STAGES, MIN_BLOCKS)                                \
    extern "C" __global__ void __launch_bounds__((BM / WM) * (BN / WN) * 32, MIN_BLOCKS) NAME(CONV_ARGUMENTS) {   \
        mma<PRODUCT, LAYOUT, WIDTH, BM, BN, WM, WN, STAGES>(input, weights, offsets, bias, output, scratch, p);   \
    }                                                                                                             \
    CONV_REGISTER(NAME, (BM / WM) * (BN / WN) * 32)
