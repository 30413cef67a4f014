//! A transposed convolution with a stride, cut along one axis into convolutions of stride 1.
//!
//! Input place i meets tap r at output y where `i + before = y·stride + r·dilation`. So places a stride apart meet the
//! same taps, and those of one *phase*, the residue of `i + before`, meet every tap whose reach has that residue: taps
//! `stride / gcd(stride, dilation)` apart, which meet outputs `dilation / gcd` apart.

use std::ops::Range;

use crate::spec::ConvSpec;

/// The places of a phase along one axis, the taps they meet, and the convolution of stride 1 that this is: over `rows` of
/// the gradient by the output, with its padding and dilation, the taps from last to first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Phase {
    /// The first place of the input, from which on places are a stride apart.
    pub(super) first: usize,
    /// Places.
    pub(super) count: usize,
    /// The first tap.
    pub(super) tap: usize,
    /// From one tap to the next.
    pub(super) tap_step: usize,
    /// Taps.
    pub(super) taps: usize,
    /// Of the taps on the gradient by the output.
    pub(super) dilation: usize,
    /// What of the gradient by the output they meet.
    pub(super) rows: Range<usize>,
    /// Zeros before those rows, and behind.
    pub(super) padding: [usize; 2],
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The phases of an axis (0 vertical, 1 horizontal) that meet any tap and any output, by their first place.
pub(super) fn phases(spec: &ConvSpec, axis: usize) -> Vec<Phase> {
    let size = [spec.in_height(), spec.in_width()][axis];
    let out = [spec.out_height(), spec.out_width()][axis];
    let before = [spec.padding().top, spec.padding().left][axis];
    let (kernel, stride, dilation) = (spec.kernel()[axis], spec.stride()[axis], spec.dilation()[axis]);
    let common = gcd(stride, dilation);
    let tap_step = stride / common;
    // Each of the first taps begins a phase of its own.
    let mut phases: Vec<Phase> = (0..tap_step.min(kernel))
        .filter_map(|tap| {
            // The first place >= 0 with the tap's residue.
            let reach = tap * dilation;
            let first = (reach % stride + stride - before % stride) % stride;
            if first >= size {
                return None;
            }
            let (count, taps) = ((size - first).div_ceil(stride), (kernel - tap).div_ceil(tap_step));
            let apart = dilation / common;
            // Outputs from the first place's with the last tap to the last place's with the first tap. Extents with
            // padding fit an isize.
            let last_tap = ((taps - 1) * apart) as isize;
            let meets = (first as isize + before as isize - reach as isize) / stride as isize;
            let (low, high) = (meets - last_tap, meets + count as isize);
            let rows = low.clamp(0, out as isize) as usize..high.clamp(0, out as isize) as usize;
            let padding = [(-low).max(0) as usize, (high - out as isize).max(0) as usize];
            let dilation = if taps == 1 { 1 } else { apart };
            let phase = Phase { first, count, tap, tap_step, taps, dilation, rows, padding };
            (!phase.rows.is_empty()).then_some(phase)
        })
        .collect();
    phases.sort_by_key(|phase| phase.first);
    phases
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every pair of a place and a tap that the definition has is in one phase, and no other.
    #[test]
    fn phases_have_every_place_and_tap_once() {
        for size in [1, 2, 5, 8] {
            for (kernel, stride, dilation) in [
                (1, 1, 1),
                (3, 1, 1),
                (3, 2, 1),
                (1, 2, 1),
                (3, 2, 2),
                (4, 3, 2),
                (3, 4, 6),
                (5, 6, 4),
                (2, 9, 1),
            ] {
                for before in [0, 1, 4, 9] {
                    for after in [0, 2, 20] {
                        let text = format!(
                            "c1 h{size} w1 o1 k{kernel}x1 s{stride}x1 p{before},0,{after},0 d{dilation}x1"
                        );
                        let Ok(spec) = text.parse::<ConvSpec>() else { continue };
                        let mut want = Vec::new();
                        for y in 0..spec.out_height() {
                            for tap in 0..kernel {
                                let place = (y * stride + tap * dilation).wrapping_sub(before);
                                if place < size {
                                    want.push((place, tap, y));
                                }
                            }
                        }
                        let mut got = Vec::new();
                        for phase in phases(&spec, 0) {
                            let length = phase.rows.len() + phase.padding[0] + phase.padding[1];
                            assert_eq!(length, phase.count + (phase.taps - 1) * phase.dilation, "{text}");
                            for place in 0..phase.count {
                                for tap in 0..phase.taps {
                                    let row = place + (phase.taps - 1 - tap) * phase.dilation;
                                    let y = (phase.rows.start + row).wrapping_sub(phase.padding[0]);
                                    if phase.rows.contains(&y) {
                                        let place = phase.first + place * stride;
                                        got.push((place, phase.tap + tap * phase.tap_step, y));
                                    }
                                }
                            }
                        }
                        want.sort_unstable();
                        got.sort_unstable();
                        assert_eq!(got, want, "{text}");
                    }
                }
            }
        }
    }
}
