// How tiles of the two matrices get into shared memory, for all kernels that multiply tiles.
//
//   weights   [STEPS][FILTERS]        a row for each step, filters side by side
//   pixels    [STEPS][PIXELS]  NCHW   neighbouring threads fetch neighbouring pixels
//             [PIXELS][STEPS + 4]     NHWC: neighbouring threads fetch neighbouring channels; rows of
//                                     20 floats keep 16-byte alignment and put 8 rows on distinct banks
//
// A thread fetches the same pixels all the time. It keeps where their windows begin and which parts of
// them lie inside the image.

enum Layout { NCHW, NHWC };

// Steps of a tile.
constexpr int STEPS = 16;

// Where the block works: blocks run through filters first, then pixels, then groups, so that neighbours
// read the same input.
struct Place {
    int group, filter, pixel;  // the first ones of the block's tile
    int split, begin, end;     // steps

    template <int FILTERS, int PIXELS> static CONV_INLINE Place of_block(const Params &p, int block, int split) {
        Place place;
        const int row = block / p.filter_tiles;
        place.filter = (block - row * p.filter_tiles) * FILTERS;
        place.group = row / p.pixel_tiles;
        place.pixel = (row - place.group * p.pixel_tiles) * PIXELS;
        place.split = split;
        place.begin = place.split * p.split_steps;
        place.end = min(place.begin + p.split_steps, p.steps);
        return place;
    }
};

// Corner of an output pixel's window: its offset from the start of the input (modulo 2^32, it may lie
// before the image), its row and column.
struct Corner {
    unsigned offset;
    int y, x;
    bool exists;

    static CONV_INLINE Corner of(const Params &p, int group, int pixel) {
        const int plane = p.out_height * p.out_width;
        const int image = pixel / plane, at = pixel - image * plane;
        const int row = at / p.out_width, column = at - row * p.out_width;
        Corner corner;
        corner.exists = pixel < p.pixels;
        corner.y = row * p.stride_y - p.pad_top;
        corner.x = column * p.stride_x - p.pad_left;
        corner.offset = (unsigned)image * p.in_image + (unsigned)group * p.channels * p.in_channel +
                        (unsigned)corner.y * p.in_row + (unsigned)corner.x * p.in_column;
        return corner;
    }
};

// Which parts of a window lie inside the image, for kernels of up to 16 × 15: a bit for each row, a bit
// for each column from 16. A step needs its two bits: one logical operation. Bit 31 is never there; steps
// that fill up the last tile ask for it.
struct MaskedWindow {
    unsigned mask;

    CONV_INLINE void set(const Params &p, const Corner &corner) {
        mask = 0;
        if (!corner.exists) return;
        // Modulo 2^32: what lies before the image is far behind it.
        unsigned y = corner.y, x = corner.x;
        for (int r = 0; r < p.kernel_height; r++, y += p.dilation_y)
            mask |= (unsigned)(y < (unsigned)p.in_height) << r;
        for (int s = 0; s < p.kernel_width; s++, x += p.dilation_x)
            mask |= (unsigned)(x < (unsigned)p.in_width) << (16 + s);
    }
    CONV_INLINE bool holds(const Params &, int part) const { return (~mask & (unsigned)part) == 0; }
};

// The same for kernels of any size: a step has its distance in rows (15 bits) and columns (16 bits);
// steps that fill up the last tile are negative.
struct WideWindow {
    int y, x;

    CONV_INLINE void set(const Params &p, const Corner &corner) {
        y = corner.exists ? corner.y : -(1 << 30);
        x = corner.x;
    }
    CONV_INLINE bool holds(const Params &p, int part) const {
        return part >= 0 && (unsigned)(y + (part >> 16)) < (unsigned)p.in_height &&
               (unsigned)(x + (part & 0xFFFF)) < (unsigned)p.in_width;
    }
};

// A copy of WIDTH floats that runs by itself from STAGES of 3, and in two halves around the arithmetic
// with 2 (compute capability 7.5 has no copies of its own): `start` fetches, `land` stores.
template <int WIDTH, int STAGES> struct Copy {
    float value[STAGES == 2 ? WIDTH : 1];

    CONV_INLINE void start(float *to, const float *from, bool inside) {
        if constexpr (STAGES > 2) {
            copy_async<WIDTH * 4>(to, from, inside);
        } else if constexpr (WIDTH == 4) {
            const float4 v = inside ? __ldg((const float4 *)from) : make_float4(0.f, 0.f, 0.f, 0.f);
            value[0] = v.x, value[1] = v.y, value[2] = v.z, value[3] = v.w;
        } else {
            value[0] = inside ? __ldg(from) : 0.f;
        }
    }
    CONV_INLINE void land(float *to) {
        if constexpr (STAGES > 2) return;
        else if constexpr (WIDTH == 4) *(float4 *)to = make_float4(value[0], value[1], value[2], value[3]);
        else *to = value[0];
    }
};

// Rows of packed weights, LENGTH floats long in the tile and `pitch` apart in memory. A thread copies the
// same columns of several rows.
template <int ROWS, int LENGTH, int THREADS, int STAGES> struct WeightCopies {
    static constexpr int SIZE = ROWS * LENGTH, VECTORS = LENGTH / 4;
    static constexpr int ACROSS = VECTORS < THREADS ? VECTORS : THREADS, DOWN = THREADS / ACROSS;
    static constexpr int EACH_ROW = VECTORS / ACROSS, EACH = (ROWS + DOWN - 1) / DOWN;
    static_assert(THREADS % ACROSS == 0 && VECTORS % ACROSS == 0, "threads for whole rows");
    const float *from;
    int pitch, left;  // floats that the row has from here on
    Copy<4, STAGES> copies[EACH][EACH_ROW];

    CONV_INLINE int row() const { return (int)threadIdx.x / ACROSS; }
    CONV_INLINE int column() const { return (int)threadIdx.x % ACROSS * 4; }
    CONV_INLINE void begin(const float *first, int row_pitch, int first_column) {
        pitch = row_pitch;
        left = pitch - first_column - column();
        from = first + row() * pitch + first_column + column();
    }
    template <class F> CONV_INLINE void each(F f) {
#pragma unroll
        for (int i = 0; i < EACH; i++)
#pragma unroll
            for (int j = 0; j < EACH_ROW; j++)
                if (ROWS % DOWN == 0 || row() + i * DOWN < ROWS) f(copies[i][j], i * DOWN, j * ACROSS * 4);
    }
    CONV_INLINE void start(float *tile) {
        float *to = tile + row() * LENGTH + column();
        each([&](Copy<4, STAGES> &copy, int down, int across) {
            copy.start(to + down * LENGTH + across, from + down * pitch + across, across < left);
        });
        from += ROWS * pitch;
    }
    CONV_INLINE void land(float *tile) {
        float *to = tile + row() * LENGTH + column();
        each([&](Copy<4, STAGES> &copy, int down, int across) { copy.land(to + down * LENGTH + across); });
    }
};

// Pixels, by layout. WIDTH is how many floats are fetched at once; `PITCH` is the length of a row.
template <Layout LAYOUT, int WIDTH, int PIXELS, int PADDING, int THREADS, int STAGES, class Window>
struct PixelCopies;

// NCHW: a thread has one pixel and some successive steps.
template <int PIXELS, int PADDING, int THREADS, int STAGES, class Window>
struct PixelCopies<NCHW, 1, PIXELS, PADDING, THREADS, STAGES, Window> {
    static_assert(THREADS % PIXELS == 0 && STEPS * PIXELS / THREADS % 2 == 0, "threads for whole rows");
    static constexpr int PITCH = PIXELS + PADDING, SIZE = STEPS * PITCH, EACH = STEPS * PIXELS / THREADS;
    const float *input;
    const int4 *steps;  // two at once
    unsigned offset;
    Window window;
    Copy<1, STAGES> copies[EACH];

    CONV_INLINE int first_row() const { return (int)threadIdx.x / PIXELS * EACH; }
    CONV_INLINE int column() const { return threadIdx.x % PIXELS; }
    CONV_INLINE void begin(const float *all, const int2 *offsets, const Place &place, const Params &p) {
        const Corner corner = Corner::of(p, place.group, place.pixel + column());
        input = all;
        offset = corner.offset;
        window.set(p, corner);
        steps = (const int4 *)(offsets + place.begin + first_row());
    }
    CONV_INLINE void start(float *tile, const Params &p) {
        float *to = tile + first_row() * PITCH + column();
#pragma unroll
        for (int i = 0; i < EACH; i += 2) {
            const int4 two = __ldg(steps + i / 2);
            copies[i].start(to + i * PITCH, input + (unsigned)(offset + two.x), window.holds(p, two.y));
            copies[i + 1].start(to + (i + 1) * PITCH, input + (unsigned)(offset + two.z), window.holds(p, two.w));
        }
        steps += STEPS / 2;
    }
    CONV_INLINE void land(float *tile) {
        float *to = tile + first_row() * PITCH + column();
#pragma unroll
        for (int i = 0; i < EACH; i++) copies[i].land(to + i * PITCH);
    }
};

// NCHW, kernels of 1 × 1 without stride and padding on planes of a multiple of 4 pixels: a thread has four
// successive pixels and some steps. All four exist, or none.
template <int PIXELS, int PADDING, int THREADS, int STAGES, class Window>
struct PixelCopies<NCHW, 4, PIXELS, PADDING, THREADS, STAGES, Window> {
    static constexpr int ACROSS = PIXELS / 4, DOWN = THREADS / ACROSS;
    static_assert(THREADS % ACROSS == 0 && STEPS % DOWN == 0 && PADDING % 4 == 0, "threads for whole rows, aligned");
    static constexpr int PITCH = PIXELS + PADDING, SIZE = STEPS * PITCH, EACH = STEPS / DOWN;
    const float *input;
    const int2 *steps;
    unsigned offset;
    Window window;
    Copy<4, STAGES> copies[EACH];

    CONV_INLINE int row() const { return (int)threadIdx.x / ACROSS; }
    CONV_INLINE int column() const { return (int)threadIdx.x % ACROSS * 4; }
    CONV_INLINE void begin(const float *all, const int2 *offsets, const Place &place, const Params &p) {
        const Corner corner = Corner::of(p, place.group, place.pixel + column());
        input = all;
        offset = corner.offset;
        window.set(p, corner);
        steps = offsets + place.begin + row();
    }
    CONV_INLINE void start(float *tile, const Params &p) {
        float *to = tile + row() * PITCH + column();
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int2 step = __ldg(steps + i * DOWN);
            copies[i].start(to + i * DOWN * PITCH, input + (unsigned)(offset + step.x), window.holds(p, step.y));
        }
        steps += STEPS;
    }
    CONV_INLINE void land(float *tile) {
        float *to = tile + row() * PITCH + column();
#pragma unroll
        for (int i = 0; i < EACH; i++) copies[i].land(to + i * DOWN * PITCH);
    }
};

// NHWC: a thread has one step, or four successive channels of one part of the window, and some pixels.
template <int WIDTH, int PIXELS, int PADDING, int THREADS, int STAGES, class Window>
struct PixelCopies<NHWC, WIDTH, PIXELS, PADDING, THREADS, STAGES, Window> {
    static constexpr int ACROSS = STEPS / WIDTH, DOWN = THREADS / ACROSS;
    static_assert(PIXELS % DOWN == 0 && PADDING % 4 == 0, "threads for whole rows, aligned");
    static constexpr int PITCH = STEPS + PADDING, SIZE = PIXELS * PITCH, EACH = PIXELS / DOWN;
    const float *input;
    const int2 *steps;
    unsigned offset[EACH];
    Window window[EACH];
    Copy<WIDTH, STAGES> copies[EACH];

    CONV_INLINE int row(int i) const { return (int)threadIdx.x / ACROSS + i * DOWN; }
    CONV_INLINE int column() const { return (int)threadIdx.x % ACROSS * WIDTH; }
    CONV_INLINE void begin(const float *all, const int2 *offsets, const Place &place, const Params &p) {
        input = all;
        steps = offsets + place.begin + column();
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const Corner corner = Corner::of(p, place.group, place.pixel + row(i));
            offset[i] = corner.offset;
            window[i].set(p, corner);
        }
    }
    CONV_INLINE void start(float *tile, const Params &p) {
        const int2 step = __ldg(steps);
#pragma unroll
        for (int i = 0; i < EACH; i++)
            copies[i].start(tile + row(i) * PITCH + column(), input + (unsigned)(offset[i] + step.x),
                            window[i].holds(p, step.y));
        steps += STEPS;
    }
    CONV_INLINE void land(float *tile) {
#pragma unroll
        for (int i = 0; i < EACH; i++) copies[i].land(tile + row(i) * PITCH + column());
    }
};

// Runs `multiply(weights, pixels)` on each tile of the steps, while later tiles are on their way. FENCED if that is by
// products of warpgroups.
template <int STAGES, bool FENCED = false, class Weights, class Pixels, class Multiply>
CONV_INLINE void pipeline(float *shared, Weights &weights, Pixels &pixels, const Place &place, const Params &p,
                          Multiply multiply) {
    constexpr int SIZE = Weights::SIZE + Pixels::SIZE;
    const int tiles = (place.end - place.begin) / STEPS;
    auto start = [&](int stage) {
        weights.start(shared + stage * SIZE);
        pixels.start(shared + stage * SIZE + Weights::SIZE, p);
    };
    auto run = [&](int stage) { multiply(shared + stage * SIZE, shared + stage * SIZE + Weights::SIZE); };
    if constexpr (STAGES > 2) {
#pragma unroll
        for (int stage = 0; stage < STAGES - 1; stage++) {
            if (stage < tiles) start(stage);
            copy_commit();
        }
        int reading = 0;
        for (int tile = 0; tile < tiles; tile++) {
            // This tile has landed, for every thread; and every thread has left the one before, whose
            // place the next copies take.
            copy_wait<STAGES - 2>();
            if constexpr (FENCED) fence_shared();
            __syncthreads();
            const int filling = reading == 0 ? STAGES - 1 : reading - 1;
            if (tile + STAGES - 1 < tiles) start(filling);
            copy_commit();
            run(reading);
            reading = reading + 1 == STAGES ? 0 : reading + 1;
        }
        copy_wait<0>();
    } else {
        auto land = [&](int stage) {
            weights.land(shared + stage * SIZE);
            pixels.land(shared + stage * SIZE + Weights::SIZE);
        };
        start(0);
        land(0);
        __syncthreads();
        for (int tile = 0; tile < tiles; tile++) {
            if (tile + 1 < tiles) start((tile + 1) & 1);
            run(tile & 1);
            if (tile + 1 < tiles) land((tile + 1) & 1);
            __syncthreads();
        }
    }
}
