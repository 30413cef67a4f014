// Implicit matrix product on tensor cores, by products of warpgroups (wgmma, compute capability 9.0 and no other).
//
// In both layouts pixels are the rows and filters the columns, since only the columns must lie in shared memory, and
// pixels are to be rounded or split on their way: a warp fetches its 16 pixels as mma.cuh does, into registers. A block
// of BN pixels has BN / 64 warpgroups, each of which has all of the tile's filters:
//
//   64 pixels × BM filters   a warpgroup's tile, one instruction wide
//
// Weights are packed as the instruction reads them in shared memory, which is 8 filters × 16 bytes in a row:
//
//   TF32     [STEPS / 8][FILTERS / 8][2][8 filters][4 steps]
//   TF32X3   [STEPS / 8][big, small][FILTERS / 8][2][8 filters][4 steps]: split when they are packed
//   BF16     [STEPS / 16][FILTERS / 8][2][8 filters][8 steps], where a register's two steps are 4 apart as those that
//            mma.cuh makes of pixels
//
// so that whatever is copied in a row is read in a row: no bytes change places (no swizzle), and there are no bank
// conflicts. Arithmetic is that of mma.cuh; the three products of TF32X3 are summed apart for a tile's 16 steps, in
// registers of their own, to which the first of them adds nothing.

// Where BM filters × 32 bytes of weights lie, in the form that the instruction reads: from bit 0 the address, from 16
// how far it is to the second 16 bytes of a filter, from 32 how far to the next 8 filters, all in 16 bytes; bits 62 and
// 63 are zero where nothing is swizzled.
CONV_INLINE uint64_t weight_matrix(const float *first) {
    constexpr uint64_t HALF = 128 / 16, EIGHT_FILTERS = 256 / 16;
    return (uint64_t)(shared_address(first) >> 4 & 0x3fff) | HALF << 16 | EIGHT_FILTERS << 32;
}

// Writes a lane's sums in NCHW: of pixels g and g + 8 the filters 2t and 2t + 1 of each 8.
template <int BM, int BN, int COLUMNS>
CONV_INLINE void store_planes(const float (&sum)[COLUMNS][4], const float *bias, float *output, float *scratch,
                              const Params &p) {
    const int thread = thread_again(), g = thread % 32 / 4, t = thread % 4;
    const Place place = Place::of_block<BM, BN>(p, block_again(), split_again());
    const Epilogue epilogue(bias, output, scratch, place, p);
    const int channel = place.group * p.filters, first = place.pixel + thread / 32 * 16 + g;
    const int at[2] = {Epilogue::pixel_offset(p, min(first, p.pixels - 1)),
                       Epilogue::pixel_offset(p, min(first + 8, p.pixels - 1))};
#pragma unroll
    for (int j = 0; j < COLUMNS; j++)
#pragma unroll
        for (int next = 0; next < 2; next++) {
            const int filter = place.filter + j * 8 + 2 * t + next;
            if (filter >= p.filters) continue;
            const float b = epilogue.bias_of(channel + filter);
            const int plane = (channel + filter) * p.out_channel;
#pragma unroll
            for (int half = 0; half < 2; half++)
                if (first + half * 8 < p.pixels) epilogue.store(plane + at[half], sum[j][half * 2 + next], b, p);
        }
}

template <Product PRODUCT, Layout LAYOUT, int WIDTH, int BM, int BN, int STAGES>
CONV_INLINE void warpgroups(CONV_ARGUMENTS) {
    constexpr int THREADS = BN * 2, COLUMNS = BM / 8;
    // Rows of packed weights in a tile.
    constexpr int ROWS = PRODUCT == TF32X3 ? 4 : PRODUCT == TF32 ? 2 : 1, ROW = 8 * BM;
    typedef WeightCopies<ROWS, ROW, THREADS, STAGES> Weights;
    typedef PixelCopies<LAYOUT, WIDTH, BN, LAYOUT == NCHW ? 8 : 4, THREADS, STAGES, MaskedWindow> Pixels;
    CONV_SHARED(shared);

    const Place place = Place::of_block<BM, BN>(p, blockIdx.x, blockIdx.z);
    Weights copy_weights;
    Pixels copy_pixels;
    copy_weights.begin(
        weights + (long long)place.group * p.weight_group + (long long)(place.begin / STEPS * ROWS) * p.weight_pitch,
        p.weight_pitch, place.filter * 8);
    copy_pixels.begin(input, offsets, place, p);

    const int lane = threadIdx.x % 32, first_p = threadIdx.x / 32 * 16;
    // Steps t and t + 4 of a half, of pixels g and g + 8.
    auto fetch = [&](float(&v)[4], const float *tile, int half) {
        if constexpr (LAYOUT == NCHW) {
            const float *x = tile + (half * 8 + lane % 4) * Pixels::PITCH + first_p + lane / 4;
            v[0] = x[0], v[1] = x[8], v[2] = x[4 * Pixels::PITCH], v[3] = x[4 * Pixels::PITCH + 8];
        } else {
            load_matrices(v, tile + (first_p + lane % 16) * Pixels::PITCH + lane / 16 * 4 + half * 8);
        }
    };

    float sum[1][COLUMNS][4];
#pragma unroll
    for (int j = 0; j < COLUMNS; j++)
#pragma unroll
        for (int q = 0; q < 4; q++) sum[0][j][q] = 0.f;

    pipeline<STAGES, true>(shared, copy_weights, copy_pixels, place, p, [&](const float *a, const float *b) {
        float x[2][4];
        fetch(x[0], b, 0), fetch(x[1], b, 1);
        if constexpr (PRODUCT == TF32X3) {
            uint32_t big[2][4], small[2][4];
#pragma unroll
            for (int half = 0; half < 2; half++)
#pragma unroll
                for (int q = 0; q < 4; q++) {
                    Split split;
                    split.set(x[half][q]);
                    big[half][q] = split.big, small[half][q] = split.small;
                }
            float part[COLUMNS][4];
            fence_registers();
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const float *w = a + half * 2 * ROW;
                // Small ones first.
                wgmma_tf32(part, small[half], weight_matrix(w), half > 0);
                wgmma_tf32(part, big[half], weight_matrix(w + ROW), true);
                wgmma_tf32(part, big[half], weight_matrix(w), true);
            }
            finish_products(part);
#pragma unroll
            for (int j = 0; j < COLUMNS; j++)
#pragma unroll
                for (int q = 0; q < 4; q++) sum[0][j][q] += part[j][q];
        } else if constexpr (PRODUCT == TF32) {
            uint32_t rounded[2][4];
#pragma unroll
            for (int half = 0; half < 2; half++)
#pragma unroll
                for (int q = 0; q < 4; q++) rounded[half][q] = rounded_to_tf32(x[half][q]);
            fence_registers();
#pragma unroll
            for (int half = 0; half < 2; half++) wgmma_tf32(sum[0], rounded[half], weight_matrix(a + half * ROW), true);
            finish_products(sum[0]);
        } else {
            uint32_t pairs[4];
#pragma unroll
            for (int half = 0; half < 2; half++) {
                pairs[2 * half] = pair_of_bf16(x[half][0], x[half][2]);
                pairs[2 * half + 1] = pair_of_bf16(x[half][1], x[half][3]);
            }
            fence_registers();
            wgmma_bf16(sum[0], pairs, weight_matrix(a), true);
            finish_products(sum[0]);
        }
    });

    if constexpr (LAYOUT == NCHW) {
        store_planes<BM, BN>(sum[0], bias, output, scratch, p);
    } else {
        store_fragments<LAYOUT, BM, BN, BM, 16>(sum, bias, output, scratch, p);
    }
}

#define CONV_WARPGROUPS(NAME, PRODUCT, LAYOUT, WIDTH, BM, BN, STAGES, MIN_BLOCKS)                          \
    extern "C" __global__ void __launch_bounds__(BN * 2, MIN_BLOCKS) NAME(CONV_ARGUMENTS) {                \
        warpgroups<PRODUCT, LAYOUT, WIDTH, BM, BN, STAGES>(input, weights, offsets, bias, output, scratch, p); \
    }                                                                                                      \
    CONV_REGISTER(NAME, BN * 2)
