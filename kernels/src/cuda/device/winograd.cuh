// F(2×2, 3×3) in fp32, fused: neither transformed pixels nor products ever lie in global memory.
//
// An output tile of 2 × 2 comes of 4 × 4 input pixels: Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A with 16 products for each
// channel where the definition has 36. So a block multiplies 16 matrices, one for each element, of
// FILTERS × channels times channels × TILES, eight channels at a time:
//
//   U [channel][element][FILTERS]   transformed weights, copied while the block works on the last ones
//   V [channel][element][TILES]     a thread fetches the 4 × 4 pixels of one tile and channel into registers
//                                   ahead, transforms and stores them; tiles are xor-ed with 4·channel, so that
//                                   neighbouring channels (NHWC) fall on distinct banks
//
// Each of the 8 warps has two elements, each lane 8 filters × 8 tiles of both. Elements then meet in shared
// memory, 16 filters at a time, for the transform of the output.

struct Winograd {
    static constexpr int FILTERS = 64, TILES = 32, CHANNELS = 8, ELEMENTS = 16, THREADS = 256;
    static constexpr int PITCH = TILES + 4;  // of products that meet
    typedef WeightCopies<CHANNELS * ELEMENTS, FILTERS, THREADS, 3> Weights;
    static constexpr int V = CHANNELS * ELEMENTS * TILES, STAGE = Weights::SIZE + V;
    static_assert(2 * STAGE >= ELEMENTS * 16 * PITCH, "room for products");
};

// Where a tile lies.
struct TilePlace {
    int image, y, x;  // of its first output
    bool exists;

    static CONV_INLINE TilePlace of(const Params &p, int tile) {
        const int across = (p.out_width + 1) / 2, plane = (p.out_height + 1) / 2 * across;
        const int images = p.pixels / (p.out_height * p.out_width);
        TilePlace place;
        place.image = tile / plane;
        place.exists = place.image < images;
        tile -= place.image * plane;
        place.y = tile / across * 2;
        place.x = tile % across * 2;
        return place;
    }
};

// The 4 × 4 pixels of a tile and channel.
struct Patch {
    const float *from;
    unsigned inside;  // a bit for each pixel
    int channel;
    float d[4][4];

    CONV_INLINE void begin(const float *input, const Place &place, int tile, int first_channel, const Params &p) {
        const TilePlace at = TilePlace::of(p, place.pixel + tile);
        const int y = at.y - p.pad_top, x = at.x - p.pad_left;
        channel = first_channel;
        from = input + (long long)at.image * p.in_image + (long long)(place.group * p.channels + channel) * p.in_channel +
               (long long)y * p.in_row + (long long)x * p.in_column;
        inside = 0;
#pragma unroll
        for (int i = 0; i < 16; i++)
            if (at.exists && (unsigned)(y + i / 4) < (unsigned)p.in_height && (unsigned)(x + i % 4) < (unsigned)p.in_width)
                inside |= 1u << i;
    }
    CONV_INLINE void fetch(const Params &p) {
        const unsigned mask = channel < p.channels ? inside : 0;
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                d[i][j] = mask >> (i * 4 + j) & 1 ? __ldg(from + (i * p.in_row + j * p.in_column)) : 0.f;
        channel += Winograd::CHANNELS;
        from += (long long)Winograd::CHANNELS * p.in_channel;
    }
    // Bᵀ d B; elements are `pitch` apart.
    CONV_INLINE void transform(float *to, int pitch) {
        float rows[4][4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            rows[0][j] = d[0][j] - d[2][j];
            rows[1][j] = d[1][j] + d[2][j];
            rows[2][j] = d[2][j] - d[1][j];
            rows[3][j] = d[3][j] - d[1][j];
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            to[(i * 4 + 0) * pitch] = rows[i][0] - rows[i][2];
            to[(i * 4 + 1) * pitch] = rows[i][1] + rows[i][2];
            to[(i * 4 + 2) * pitch] = rows[i][2] - rows[i][1];
            to[(i * 4 + 3) * pitch] = rows[i][3] - rows[i][1];
        }
    }
};

template <Layout LAYOUT> CONV_INLINE void winograd(CONV_ARGUMENTS) {
    typedef Winograd W;
    CONV_SHARED(shared);
    const Place place = Place::of_block<W::FILTERS, W::TILES>(p, blockIdx.x, 0);
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;

    W::Weights copies;
    copies.begin(weights + (long long)place.group * p.weight_group, p.weight_pitch, place.filter);
    // Neighbouring threads fetch what is contiguous.
    const int tile = LAYOUT == NCHW ? thread % W::TILES : thread / W::CHANNELS;
    const int channel = LAYOUT == NCHW ? thread / W::TILES : thread % W::CHANNELS;
    Patch patch;
    patch.begin(input, place, tile, channel, p);

    const int first_f = lane / 8 * 2 + lane % 2, first_t = lane / 2 % 4;  // in fours
    float sum[2][8][8];
#pragma unroll
    for (int e = 0; e < 2; e++)
#pragma unroll
        for (int i = 0; i < 8; i++)
#pragma unroll
            for (int j = 0; j < 8; j++) sum[e][i][j] = 0.f;

    const int chunks = (p.channels + W::CHANNELS - 1) / W::CHANNELS;
    copies.start(shared);
    copy_commit();
    patch.fetch(p);
    for (int chunk = 0; chunk < chunks; chunk++) {
        float *u = shared + chunk % 2 * W::STAGE, *v = u + W::Weights::SIZE;
        // The other stage's readers have not all gone, this one's have since the last barrier.
        patch.transform(v + channel * W::ELEMENTS * W::TILES + (tile ^ 4 * channel), W::TILES);
        copy_wait<0>();
        __syncthreads();
        if (chunk + 1 < chunks) {
            copies.start(shared + (chunk + 1) % 2 * W::STAGE);
            patch.fetch(p);
        }
        copy_commit();
#pragma unroll
        for (int c = 0; c < W::CHANNELS; c++) {
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int row = c * W::ELEMENTS + warp * 2 + e;
                float w[8], x[8];
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const float4 a = *(const float4 *)(u + row * W::FILTERS + i * 32 + first_f * 4);
                    w[i * 4] = a.x, w[i * 4 + 1] = a.y, w[i * 4 + 2] = a.z, w[i * 4 + 3] = a.w;
                    const float4 b = *(const float4 *)(v + row * W::TILES + ((i * 16 + first_t * 4) ^ 4 * c));
                    x[i * 4] = b.x, x[i * 4 + 1] = b.y, x[i * 4 + 2] = b.z, x[i * 4 + 3] = b.w;
                }
#pragma unroll
                for (int i = 0; i < 8; i++)
#pragma unroll
                    for (int j = 0; j < 8; j++) sum[e][i][j] = fmaf(w[i], x[j], sum[e][i][j]);
            }
        }
    }
    copy_wait<0>();

    // Two of each lane's eight filters at a time: M [element][16 filters][PITCH].
    const Epilogue epilogue(bias, output, scratch, place, p);
    const bool pairs = p.out_pixel == 1 && p.out_width % 2 == 0;
#pragma unroll
    for (int turn = 0; turn < 4; turn++) {
        __syncthreads();
#pragma unroll
        for (int e = 0; e < 2; e++)
#pragma unroll
            for (int f = 0; f < 2; f++)
#pragma unroll
                for (int j = 0; j < 8; j += 4) {
                    const float(&s)[8] = sum[e][turn * 2 + f];
                    float *to = shared + ((warp * 2 + e) * 16 + first_f * 2 + f) * W::PITCH + j * 4 + first_t * 4;
                    *(float4 *)to = make_float4(s[j], s[j + 1], s[j + 2], s[j + 3]);
                }
        __syncthreads();
#pragma unroll
        for (int i = thread; i < 16 * W::TILES; i += W::THREADS) {
            const int f = LAYOUT == NCHW ? i / W::TILES : i % 16, t = LAYOUT == NCHW ? i % W::TILES : i / 16;
            const float *m = shared + f * W::PITCH + t;
            float rows[2][4];  // Aᵀ m
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float column[4];
#pragma unroll
                for (int k = 0; k < 4; k++) column[k] = m[(k * 4 + j) * 16 * W::PITCH];
                rows[0][j] = column[0] + column[1] + column[2];
                rows[1][j] = column[1] - column[2] + column[3];
            }
            // Lane filters come in fours, 32 apart.
            const int filter = place.filter + turn / 2 * 32 + f / 2 * 4 + turn % 2 * 2 + f % 2;
            const TilePlace at = TilePlace::of(p, place.pixel + t);
            if (filter >= p.filters || !at.exists) continue;
            const int output_channel = place.group * p.filters + filter;
            const float b = epilogue.bias_of(output_channel);
#pragma unroll
            for (int y = 0; y < 2; y++) {
                if (at.y + y >= p.out_height) break;
                const float left = rows[y][0] + rows[y][1] + rows[y][2];
                const float right = rows[y][1] - rows[y][2] + rows[y][3];
                const int offset = at.image * p.out_image + output_channel * p.out_channel +
                                   ((at.y + y) * p.out_width + at.x) * p.out_pixel;
                if (pairs) {
                    epilogue.store2(offset, make_float2(left, right), make_float2(b, b), p);
                } else {
                    epilogue.store(offset, left, b, p);
                    if (at.x + 1 < p.out_width) epilogue.store(offset + p.out_pixel, right, b, p);
                }
            }
        }
    }
}

#define CONV_WINOGRAD(NAME, LAYOUT)                                                  \
    extern "C" __global__ void __launch_bounds__(256, 1) NAME(CONV_ARGUMENTS) {      \
        winograd<LAYOUT>(input, weights, offsets, bias, output, scratch, p);         \
    }                                                                                \
    CONV_REGISTER(NAME, 256)
