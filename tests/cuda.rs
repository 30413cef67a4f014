//! The CUDA kernels and what drives them, on a machine without a GPU: the device sources run on the CPU behind
//! stand-ins for the CUDA driver and NVRTC, which these tests build with g++. See `cuda/emulator.h` for what that
//! proves and what it cannot.
//!
//! Where there is no g++ nothing is tested, and the tests say so; CONV_REQUIRE_CUDA_EMULATOR=1 makes that a failure.
//! With CONV_NVRTC_REAL, the path of a real NVRTC, all functions are compiled for real GPUs, see `cuda/resources.rs`.

mod cuda {
    mod cache;
    mod device;
    mod faults;
    mod properties;
    mod resources;
    mod standin;
    mod values;
}
