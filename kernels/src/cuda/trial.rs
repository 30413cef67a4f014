//! A trial of a function on the GPU at hand: a small convolution of whole numbers, whose result is exact or wrong.

use cudarc::driver::{CudaFunction, DevicePtr, DevicePtrMut};

use super::device::Device;
use super::pack;
use super::plan::launch_on;
use super::schedule::{self, Method, Settled, Team, window_of};
use super::tiling::Tiling;
use super::variant::Variant;
use crate::error::ConvError;
use crate::kernel::PlanOptions;
use crate::spec::{ConvSpec, Layout};
use crate::workspace::Workspace;

/// More filters and pixels than a tile has, more steps than there are tiles on their way at once, and padding.
fn spec(variant: &Variant) -> Result<ConvSpec, ConvError> {
    let layout = match variant.layout {
        Layout::Nchw => "",
        Layout::Nhwc => " nhwc",
    };
    Ok(format!("c12 h11 w12 o{} k3 p1{layout}", variant.tile[0] + 8).parse()?)
}

/// From −4 to 4, as if by chance; so much more that TF32 has not enough digits, if it is to be `large`.
fn number(i: usize, large: bool) -> f32 {
    let mixed = (i as u32).wrapping_mul(0x9e37_79b1);
    let mixed = (mixed ^ mixed >> 15).wrapping_mul(0x85eb_ca77) >> 16;
    let small = (mixed % 9) as f32 - 4.0;
    if large { small * 4097.0 } else { small }
}

/// Input and weights, whose sums of products stay below 2²⁴. Where operands are split, the inputs of every other channel
/// need both parts, and the weights of those between.
fn numbers(spec: &ConvSpec, split: bool) -> [Vec<f32>; 2] {
    let (channels, pixels) = (spec.in_channels(), spec.in_height() * spec.in_width());
    let taps = spec.kernel()[0] * spec.kernel()[1];
    let input = (0..spec.input_len()).map(|i| {
        let channel = match spec.layout() {
            Layout::Nchw => i / pixels,
            Layout::Nhwc => i % channels,
        };
        number(i, split && channel % 2 == 0)
    });
    let weights =
        (0..spec.weights_len()).map(|i| number(spec.input_len() + i, split && i / taps % channels % 2 == 1));
    [input.collect(), weights.collect()]
}

/// Whether a function that multiplies by warpgroups gives the exact result.
///
/// # Errors
/// What the GPU may lack or fail at.
pub(super) fn is_right(
    device: &Device,
    variant: &'static Variant,
    function: &CudaFunction,
) -> Result<bool, ConvError> {
    let spec = spec(variant)?;
    let [input, weights] = numbers(&spec, variant.method == Method::Tf32x3);
    let options = PlanOptions::default();
    let mut want = vec![0.0; spec.output_len()];
    let definition = crate::kernel("naive")?.plan(&spec, &weights, &options)?;
    definition.run(&input, None, &mut want, &mut Workspace::default())?;

    let settled = Settled { method: variant.method, team: Team::Warpgroup };
    let (launches, _) = Tiling { variant, splits: 1 }.launches(schedule::params(settled, &spec, &options));
    let input = device.upload(&input)?;
    let weights = device.upload(&pack::weights(settled, &spec, &weights)?)?;
    let offsets = device.upload(&pack::offsets(&spec, window_of(&spec))?)?;
    let stream = device.stream();
    let mut output = device.zeros::<f32>(stream, want.len())?;
    device.check("cuCtxSetCurrent", device.context().bind_to_thread())?;
    for launch in &launches {
        let (input, _input_read) = input.device_ptr(stream);
        let (weights, _weights_read) = weights.device_ptr(stream);
        let (offsets, _offsets_read) = offsets.device_ptr(stream);
        let (output, _output_written) = output.device_ptr_mut(stream);
        // SAFETY: the buffers are those of the convolution that the launch was made for, without bias and scratch memory;
        // they are freed when the GPU is idle or in the order of the stream.
        unsafe { launch_on(device, stream, function, launch, [input, weights, offsets, 0, output, 0]) }?;
    }
    let mut got = vec![f32::NAN; want.len()];
    let copied = device.check("cuMemcpyDtoHAsync", stream.memcpy_dtoh(&output, &mut got));
    // The copy may be going on even if an error came back.
    let done = device.wait(stream);
    copied.and(done)?;
    Ok(got == want)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::cuda::variant::VARIANTS;

    /// No two filters, channels of the input or steps are alike, so that none can stand in another's place unnoticed; and
    /// every sum is exact.
    #[test]
    fn numbers_tell_places_apart() {
        let all: Vec<_> = VARIANTS.iter().filter(|variant| variant.warpgroups).collect();
        assert!(!all.is_empty());
        for variant in all {
            let spec = spec(variant).unwrap();
            assert!(
                spec.out_channels() > variant.tile[0]
                    && spec.out_height() * spec.out_width() > variant.tile[1]
            );
            let [input, weights] = numbers(&spec, variant.method == Method::Tf32x3);
            let bits =
                |values: &mut dyn Iterator<Item = &f32>| values.map(|x| x.to_bits()).collect::<Vec<_>>();
            let steps = weights.len() / spec.out_channels();
            let filters: BTreeSet<_> = weights.chunks_exact(steps).map(|row| bits(&mut row.iter())).collect();
            assert_eq!(filters.len(), spec.out_channels());
            let columns: BTreeSet<_> =
                (0..steps).map(|step| bits(&mut weights[step..].iter().step_by(steps))).collect();
            assert_eq!(columns.len(), steps);
            let pixels: BTreeSet<_> =
                input.chunks_exact(spec.in_channels()).map(|pixel| bits(&mut pixel.iter())).collect();
            assert_eq!(pixels.len(), input.len() / spec.in_channels());
            let [x, w] = [&input, &weights].map(|all| all.iter().fold(0.0_f32, |most, x| most.max(x.abs())));
            let large = x.max(w);
            assert!(
                large * 4.0 * steps as f32 <= 16_777_216.0
                    && (variant.method == Method::Tf32x3) == (large > 4.0)
            );
        }
    }
}
