// Adds up the parts of sums that were split, in the order of the parts whatever the order in which they
// were computed, and finishes them. One thread for each output.
CONV_INLINE void reduce(CONV_ARGUMENTS) {
    const int i = blockIdx.x * 256 + threadIdx.x;
    if (i >= p.out_len) return;
    float sum = 0.f;
    for (int split = 0; split < p.splits; split++) sum += __ldg(scratch + (long long)split * p.out_len + i);
    // `out_channel` is 1 in NHWC and the size of a plane in NCHW.
    const int channel = i / p.out_channel % (p.groups * p.filters);
    output[i] = finished(sum, bias ? __ldg(bias + channel) : 0.f, output + i, p);
}

#define CONV_REDUCE(NAME)                                                   \
    extern "C" __global__ void __launch_bounds__(256) NAME(CONV_ARGUMENTS) { \
        reduce(input, weights, offsets, bias, output, scratch, p);          \
    }                                                                       \
    CONV_REGISTER(NAME, 256)
