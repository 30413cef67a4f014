// Convolution of each channel by itself (groups = input channels), direct: memory is what it waits for.
//
// A thread has one column of one output channel, and ROWS successive rows of it, so that it reads the rows
// of input between them once. Threads run along what is contiguous in the output: columns in NCHW, channels in
// NHWC. Weights are packed [kernel row][kernel column][output channel].
//
// KERNEL and STRIDE are known for the usual ones, without dilation; 0 takes them from the parameters.

template <int KERNEL, int STRIDE, int ROWS> CONV_INLINE void depthwise(CONV_ARGUMENTS) {
    const int channels = p.groups * p.filters, bands = (p.out_height + ROWS - 1) / ROWS;
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    int channel, column, band;
    if (p.out_channel == 1) {
        channel = i % channels, i /= channels;
        column = i % p.out_width, i /= p.out_width;
        band = i % bands, i /= bands;
    } else {
        column = i % p.out_width, i /= p.out_width;
        band = i % bands, i /= bands;
        channel = i % channels, i /= channels;
    }
    const int image = i;
    if (image >= p.pixels / (p.out_height * p.out_width)) return;

    const float *plane = input + (image * p.in_image + channel / p.filters * p.in_channel);
    const float *weight = weights + channel;
    const int first = band * ROWS;
    float sum[ROWS] = {};
    if constexpr (KERNEL > 0) {
        float w[KERNEL][KERNEL];
#pragma unroll
        for (int r = 0; r < KERNEL; r++)
#pragma unroll
            for (int s = 0; s < KERNEL; s++) w[r][s] = __ldg(weight + (r * KERNEL + s) * channels);
        const int top = first * STRIDE - p.pad_top, left = column * STRIDE - p.pad_left;
#pragma unroll
        for (int row = 0; row < (ROWS - 1) * STRIDE + KERNEL; row++) {
            const int y = top + row;
            const bool inside = (unsigned)y < (unsigned)p.in_height;
#pragma unroll
            for (int s = 0; s < KERNEL; s++) {
                const int x = left + s;
                const float value = inside && (unsigned)x < (unsigned)p.in_width
                                        ? __ldg(plane + (y * p.in_row + x * p.in_column))
                                        : 0.f;
#pragma unroll
                for (int j = 0; j < ROWS; j++) {
                    const int r = row - j * STRIDE;
                    if (r >= 0 && r < KERNEL) sum[j] = fmaf(w[r][s], value, sum[j]);
                }
            }
        }
    } else {
        for (int r = 0; r < p.kernel_height; r++)
            for (int s = 0; s < p.kernel_width; s++) {
                const int x = column * p.stride_x - p.pad_left + s * p.dilation_x;
                if ((unsigned)x >= (unsigned)p.in_width) continue;
                const float w = __ldg(weight + (r * p.kernel_width + s) * channels);
#pragma unroll
                for (int j = 0; j < ROWS; j++) {
                    if (first + j >= p.out_height) break;
                    const int y = (first + j) * p.stride_y - p.pad_top + r * p.dilation_y;
                    if ((unsigned)y < (unsigned)p.in_height)
                        sum[j] = fmaf(w, __ldg(plane + (y * p.in_row + x * p.in_column)), sum[j]);
                }
            }
    }

    const float b = bias ? __ldg(bias + channel) : 0.f;
    float *to = output + (image * p.out_image + channel * p.out_channel);
#pragma unroll
    for (int j = 0; j < ROWS; j++) {
        if (first + j >= p.out_height) break;
        float *at = to + ((first + j) * p.out_width + column) * p.out_pixel;
        *at = finished(sum[j], b, at, p);
    }
}

// Six blocks a multiprocessor, and four where weights take more registers: many loads at once, and none spilled.
#define CONV_DEPTHWISE(NAME, KERNEL, STRIDE, ROWS, THREADS)                                          \
    extern "C" __global__ void __launch_bounds__(THREADS, KERNEL < 5 ? 6 : 4) NAME(CONV_ARGUMENTS) { \
        depthwise<KERNEL, STRIDE, ROWS>(input, weights, offsets, bias, output, scratch, p);          \
    }                                                                                                \
    CONV_REGISTER(NAME, THREADS)
