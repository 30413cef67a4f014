//! Weights packed for the register tile, once, when a plan is made.
//!
//! ```text
//! Panels (filters are columns, NHWC):     Strips (filters are rows, NCHW):
//! [group][panel][step][vectors · LANES]   [group][strip][step][rows]
//! ```
//! A step is one (channel, kernel row, kernel column) of the reduction. Filters that a panel or strip
//! has too many are zeros.

use crate::buffer::AlignedBuffer;
use crate::error::ConvError;
use crate::microkernel::balanced;
use crate::simd::Simd;
use crate::spec::ConvSpec;

/// The order of the reduction's steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Channel, kernel row, kernel column: as the weights are given.
    ChannelRowColumn,
    /// Kernel row, kernel column, channel: as pixels lie in NHWC.
    RowColumnChannel,
    /// [Block](channel_block) of channels, kernel row, kernel column, channel of the block.
    BlockRowColumnChannel,
}

/// Channels of each block but the last, of so many: few enough for their pixels to stay in the level-1 cache from
/// tap to tap. Taps of few channels are better side by side, unless the masks of each have to be fetched.
pub(crate) fn channel_block<S: Simd>(channels: usize) -> usize {
    if channels < if S::MASKS { 4 } else { 8 } { 1 } else { 8 }
}

/// Steps of a filter: channels of its group × kernel rows × kernel columns.
pub(crate) fn steps(spec: &ConvSpec) -> usize {
    spec.group_in_channels() * spec.kernel()[0] * spec.kernel()[1]
}

/// Index of step `k` of `order` in the weights of one filter as they are given.
pub(crate) fn source<S: Simd>(spec: &ConvSpec, order: Order, k: usize) -> usize {
    let (channels, taps) = (spec.group_in_channels(), spec.kernel()[0] * spec.kernel()[1]);
    match order {
        Order::ChannelRowColumn => k,
        Order::RowColumnChannel => k % channels * taps + k / channels,
        Order::BlockRowColumnChannel => {
            let most = channel_block::<S>(channels);
            let first = k / (most * taps) * most;
            let (k, block) = (k - first * taps, most.min(channels - first));
            (first + k % block) * taps + k / block
        }
    }
}

/// Filters side by side in panels of some vectors' width.
#[derive(Debug)]
pub(crate) struct Panels {
    data: AlignedBuffer,
    steps: usize,
    lanes: usize,
    /// Vectors of every panel but the last.
    vectors: usize,
    /// Vectors of the last panel.
    last_vectors: usize,
    /// Panels of a group.
    pub(crate) count: usize,
    /// Filters of a group.
    filters: usize,
    group_len: usize,
}

/// One panel: `filters` columns of `vectors` vectors, from filter `first` of its group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panel<'a> {
    /// `[step][vectors · LANES]`.
    pub(crate) data: &'a [f32],
    pub(crate) width: usize,
    pub(crate) vectors: usize,
    pub(crate) first: usize,
    pub(crate) filters: usize,
}

impl Panels {
    pub(crate) fn pack<S: Simd>(spec: &ConvSpec, weights: &[f32], order: Order) -> Result<Self, ConvError> {
        let steps = steps(spec);
        Panels::pack_with::<S>(spec.groups(), steps, spec.group_out_channels(), |filter, step| {
            weights[filter * steps + source::<S>(spec, order, step)]
        })
    }

    /// Packs `groups` times `filters` columns of `steps` values each: `value(column, step)`.
    pub(crate) fn pack_with<S: Simd>(
        groups: usize,
        steps: usize,
        filters: usize,
        value: impl Fn(usize, usize) -> f32,
    ) -> Result<Self, ConvError> {
        let total_vectors = filters.div_ceil(S::LANES);
        let vectors = balanced(total_vectors, S::NV);
        let count = total_vectors.div_ceil(vectors);
        let group_len = total_vectors * S::LANES * steps;
        let mut panels = Panels {
            data: AlignedBuffer::zeros(group_len * groups)?,
            steps,
            lanes: S::LANES,
            vectors,
            last_vectors: total_vectors - (count - 1) * vectors,
            count,
            filters,
            group_len,
        };
        for group in 0..groups {
            for index in 0..count {
                let Panel { width, first, filters: used, .. } = panels.panel(group, index);
                let start = group * group_len + first * steps;
                let data = &mut panels.data[start..start + steps * width];
                for (k, row) in data.chunks_exact_mut(width).enumerate() {
                    for (j, to) in row[..used].iter_mut().enumerate() {
                        *to = value(group * filters + first + j, k);
                    }
                }
            }
        }
        Ok(panels)
    }

    pub(crate) fn panel(&self, group: usize, index: usize) -> Panel<'_> {
        let vectors = if index + 1 == self.count { self.last_vectors } else { self.vectors };
        let (width, first) = (vectors * self.lanes, index * self.vectors * self.lanes);
        let start = group * self.group_len + first * self.steps;
        Panel {
            data: &self.data[start..start + self.steps * width],
            width,
            vectors,
            first,
            filters: width.min(self.filters - first),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.data.bytes()
    }
}

/// Filters below each other in strips of a register tile's rows.
#[derive(Debug)]
pub(crate) struct Strips {
    data: AlignedBuffer,
    steps: usize,
    /// Rows of every strip, zeros included: the distance from step to step.
    pub(crate) rows: usize,
    /// Strips of a group.
    pub(crate) count: usize,
    filters: usize,
}

/// One strip: `filters` rows, from filter `first` of its group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strip<'a> {
    /// `[step][rows]`.
    pub(crate) data: &'a [f32],
    pub(crate) first: usize,
    pub(crate) filters: usize,
}

impl Strips {
    pub(crate) fn pack<S: Simd>(spec: &ConvSpec, weights: &[f32], order: Order) -> Result<Self, ConvError> {
        let (steps, filters) = (steps(spec), spec.group_out_channels());
        let rows = balanced(filters, S::MR);
        let count = filters.div_ceil(rows);
        let mut strips = Strips {
            data: AlignedBuffer::zeros(spec.groups() * count * rows * steps)?,
            steps,
            rows,
            count,
            filters,
        };
        for group in 0..spec.groups() {
            for index in 0..count {
                let Strip { first, filters: used, .. } = strips.strip(group, index);
                let start = (group * count + index) * rows * steps;
                let data = &mut strips.data[start..start + rows * steps];
                for (k, column) in data.chunks_exact_mut(rows).enumerate() {
                    let step = source::<S>(spec, order, k);
                    for (i, value) in column[..used].iter_mut().enumerate() {
                        *value = weights[(group * filters + first + i) * steps + step];
                    }
                }
            }
        }
        Ok(strips)
    }

    pub(crate) fn strip(&self, group: usize, index: usize) -> Strip<'_> {
        let len = self.rows * self.steps;
        let start = (group * self.count + index) * len;
        let first = index * self.rows;
        Strip { data: &self.data[start..start + len], first, filters: self.rows.min(self.filters - first) }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.data.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Wide;

    fn lanes<S: Simd>(_: S) -> usize {
        S::LANES
    }

    /// The given index of each step, by plain loops.
    fn steps_in_order(spec: &ConvSpec, order: Order) -> Vec<usize> {
        let (channels, taps) = (spec.group_in_channels(), spec.kernel()[0] * spec.kernel()[1]);
        let block = match order {
            Order::ChannelRowColumn => 1,
            Order::RowColumnChannel => channels,
            Order::BlockRowColumnChannel if channels < 8 => 1,
            Order::BlockRowColumnChannel => 8,
        };
        let mut all = Vec::new();
        for first in (0..channels).step_by(block) {
            for tap in 0..taps {
                all.extend((first..channels.min(first + block)).map(|channel| channel * taps + tap));
            }
        }
        all
    }

    #[test]
    fn every_weight_is_where_its_filter_and_step_say() {
        for text in ["c6 h5 w5 o9 k3x2 g3", "c4 h5 w5 o37 k3", "c1 h5 w5 o1 k1", "c19 h5 w5 o3 k2"] {
            let spec: ConvSpec = text.parse().unwrap();
            let weights: Vec<f32> = (1..=spec.weights_len()).map(|i| i as f32).collect();
            let orders = [Order::ChannelRowColumn, Order::RowColumnChannel, Order::BlockRowColumnChannel];
            for order in orders {
                let panels = Panels::pack::<Wide>(&spec, &weights, order).unwrap();
                let strips = Strips::pack::<Wide>(&spec, &weights, order).unwrap();
                let (steps, filters) = (steps(&spec), spec.group_out_channels());
                for o in 0..spec.out_channels() {
                    let (group, f) = (o / filters, o % filters);
                    let panel = (0..panels.count)
                        .map(|i| panels.panel(group, i))
                        .find(|p| (p.first..p.first + p.filters).contains(&f))
                        .unwrap();
                    assert_eq!(panel.width, panel.vectors * lanes(Wide));
                    let strip = strips.strip(group, f / strips.rows);
                    for (k, step) in steps_in_order(&spec, order).into_iter().enumerate() {
                        let want = weights[o * steps + step];
                        assert_eq!(panel.data[k * panel.width + f - panel.first], want);
                        assert_eq!(strip.data[k * strips.rows + f - strip.first], want);
                    }
                }
            }
        }
    }
}
