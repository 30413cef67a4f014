//! The windows of a [pooling](super) along one axis.

use std::ops::Range;

use crate::error::{ConvError, SpecError};

/// The windows along one axis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    pub(super) size: usize,
    pub(super) before: usize,
    pub(super) after: usize,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) dilation: usize,
}

/// What of a window lies in the input.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// The first tap's place in the input; 0 where there is none.
    pub(super) place: usize,
    /// Which of the window's taps that is.
    pub(super) first: usize,
    /// How many taps lie there.
    pub(super) taps: usize,
    /// What an average counts, 1 at least: a window of which nothing counts has the sum 0.
    pub(super) counted: f32,
}

impl Axis {
    /// How many windows there are.
    pub(super) fn outputs(
        &self,
        ceil_mode: bool,
        axis: &'static str,
        (first, last): (&'static str, &'static str),
    ) -> Result<usize, SpecError> {
        const OVERFLOW: SpecError = SpecError::Overflow { what: "the padded input" };
        let kernel = (self.kernel - 1)
            .checked_mul(self.dilation)
            .and_then(|reach| reach.checked_add(1))
            .ok_or(SpecError::Overflow { what: "the dilated window" })?;
        for (side, padding) in [(first, self.before), (last, self.after)] {
            if padding >= kernel {
                return Err(SpecError::PoolPadding { side, padding, kernel });
            }
        }
        let padded_input = [self.before, self.after]
            .iter()
            .try_fold(self.size, |sum, &padding| sum.checked_add(padding))
            .ok_or(OVERFLOW)?;
        let rounding = if ceil_mode { self.stride - 1 } else { 0 };
        let room = padded_input.checked_add(rounding).ok_or(OVERFLOW)?;
        let room =
            room.checked_sub(kernel).ok_or(SpecError::KernelTooLarge { axis, kernel, padded_input })?;
        let outputs = room / self.stride + 1;
        // A last window that would start in the padding behind the input: rounding up alone makes one.
        let beyond = ceil_mode && (outputs - 1) * self.stride >= self.size + self.before;
        Ok(outputs - usize::from(beyond))
    }

    /// From the first tap of a window to the last.
    #[inline(always)]
    pub(super) fn extent(&self) -> usize {
        (self.kernel - 1) * self.dilation + 1
    }

    /// What of each window lies in the input.
    pub(super) fn spans(&self, windows: usize, padding_too: bool) -> Result<Vec<Span>, ConvError> {
        let mut spans = crate::buffer::try_vec(windows)?;
        spans.extend((0..windows).map(|window| self.span(window, padding_too)));
        Ok(spans)
    }

    fn span(&self, window: usize, padding_too: bool) -> Span {
        let taps = self.taps(window);
        let counted = if padding_too { self.padded_taps(window) } else { taps.len() };
        let place = match taps.is_empty() {
            true => 0,
            false => window * self.stride + taps.start * self.dilation - self.before,
        };
        Span { place, first: taps.start, taps: taps.len(), counted: counted.max(1) as f32 }
    }

    /// The taps of a window that lie in the input.
    fn taps(&self, window: usize) -> Range<usize> {
        let start = window * self.stride;
        let first = self.before.saturating_sub(start).div_ceil(self.dilation);
        let end = (self.size + self.before - start).div_ceil(self.dilation).min(self.kernel);
        first.min(end)..end
    }

    /// How many taps of a window lie in the padded input.
    fn padded_taps(&self, window: usize) -> usize {
        (self.size + self.before + self.after - window * self.stride).div_ceil(self.dilation).min(self.kernel)
    }

    /// Of so many windows those with all their taps in the input.
    pub(super) fn inner(&self, windows: usize) -> Range<usize> {
        let extent = self.extent();
        let end = (self.size + self.before).checked_sub(extent).map_or(0, |room| room / self.stride + 1);
        let end = end.min(windows);
        self.before.div_ceil(self.stride).min(end)..end
    }
}
