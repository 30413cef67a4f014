//! Holds convolution kernels to account.
