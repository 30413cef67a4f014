// What every kernel is told about a convolution. The same fields, in the same order, as `Params` in
// params.rs; a test compares the two.
//
// A convolution is a matrix product for each group: filters × steps times steps × pixels. A step is one
// (input channel, kernel row, kernel column) of the reduction, a pixel one (image, output row, output
// column). The matrix of pixels exists nowhere in memory: `offsets` has, for each step, how far its input
// element lies from the one under the window's corner, and which part of the window it is, so that
// layout, dilation and the order of steps are data.
struct Params {
    int pixels;        // images × out_height × out_width
    int filters;       // of a group
    int groups;
    int steps;         // of a group's reduction, up to a whole number of STEPS
    int splits;        // parts that the reduction is cut into
    int split_steps;   // steps of each part but the last
    int filter_tiles;  // of a group
    int pixel_tiles;
    int weight_pitch;  // floats of a row of packed weights
    int weight_group;  // floats of a group's packed weights
    int channels;      // input channels of a group
    int in_height;
    int in_width;
    int out_height;
    int out_width;
    int kernel_height;
    int kernel_width;
    int stride_y;
    int stride_x;
    int pad_top;
    int pad_left;
    int dilation_y;
    int dilation_x;
    int in_image;      // distances in floats
    int in_channel;
    int in_row;
    int in_column;
    int out_image;
    int out_channel;
    int out_pixel;
    int out_len;       // floats of the output, and of each part in scratch
    int accumulate;    // whether the previous output is added
    float min;         // limits of the activation
    float max;
};

// The arguments of every kernel. Input, output and scratch start on 16 bytes.
#define CONV_ARGUMENTS                                                                              \
    const float *__restrict__ input, const float *__restrict__ weights,                            \
        const int2 *__restrict__ offsets, const float *__restrict__ bias, float *__restrict__ output, \
        float *__restrict__ scratch, const Params p
