//! Gradients are convolutions of other operands: as such they are judged by the oracle of convolutions.
//!
//! - By data: input places a stride apart meet the same taps. Each such phase is a convolution of stride 1 over the
//!   gradient by the output, its taps from last to first.
//! - By weights: of each group, the input is the input with channels for images, the gradient by the output the
//!   weights with images for channels; stride and dilation are exchanged.
//! - By the bias: the same over an input of ones.

use kernels::{ConvSpec, ConvSpecBuilder, ErrorModel, Layout, PlanOptions};

use super::index;
use crate::buffer::Buffer;
use crate::check::{Exactness, Sampling, Verdict, verdict as forward_verdict};
use crate::data::Tensors;
use crate::record::Gradient;

/// Compares a gradient of a convolution with its definition, within the bounds that its phases promise (or one for
/// all): that by data from `tensors.previous` and the weights; those by weights and bias, one behind the other, from
/// the input and `tensors.previous`.
pub fn verdict(
    of: Gradient,
    spec: &ConvSpec,
    models: &[ErrorModel],
    tensors: &Tensors,
    gradient: &[f32],
    sampling: Sampling,
    exactness: Exactness,
) -> Verdict {
    let parts = match of {
        Gradient::BackwardData => by_data(spec, tensors),
        Gradient::BackwardWeights => by_weights(spec, tensors),
    };
    let sampling = match (of, sampling) {
        // Groups share the points.
        (Gradient::BackwardWeights, Sampling::Points(points)) => Sampling::Points(points / spec.groups()),
        (_, sampling) => sampling,
    };
    let mut all = Verdict { share: 0.0, max_error: 0.0, bound: 0.0, compared: 0, mismatch: None };
    for part in parts {
        let model = match part.model {
            Some(model) => models.get(model).or(models.last()).copied(),
            None => None,
        };
        // What meets nothing is zero.
        let model = model.unwrap_or(ErrorModel::Sum { k: 0.0 });
        let result: Vec<f32> = part.places.iter().map(|&place| gradient[place]).collect();
        let options = PlanOptions::default();
        let mut of_part =
            forward_verdict(&part.spec, model, &part.tensors, false, &options, &result, sampling, exactness);
        all.compared += of_part.compared;
        all.max_error = all.max_error.max(of_part.max_error);
        all.bound = all.bound.max(of_part.bound);
        if let Some(mismatch) = &mut of_part.mismatch {
            let sizes = [part.spec.out_channels(), part.spec.out_height(), part.spec.out_width()];
            let place = part.places[index(Layout::Nchw, sizes, mismatch.position)];
            mismatch.position = position(of, spec, place);
        }
        if all.mismatch.is_none() || of_part.share > all.share {
            all.mismatch = of_part.mismatch.or(all.mismatch);
        }
        all.share = all.share.max(of_part.share);
    }
    all
}

/// A convolution in NCHW whose output is part of a gradient.
struct Part {
    spec: ConvSpec,
    tensors: Tensors,
    /// The place in the gradient of each output.
    places: Vec<usize>,
    /// Which of the kernel's phases computes it.
    model: Option<usize>,
}

impl Part {
    fn new(spec: ConvSpec, input: Buffer, weights: Buffer, places: Vec<usize>, model: Option<usize>) -> Self {
        let (bias, previous) = (Buffer::zeros(spec.out_channels()), Buffer::zeros(spec.output_len()));
        Part { spec, tensors: Tensors { input, weights, bias, previous }, places, model }
    }
}

/// The axes of a place in a gradient: image, channel, row, column, or filter, channel, row, column of a weight; of a
/// bias's place the channel is one too many.
fn position(of: Gradient, spec: &ConvSpec, place: usize) -> [usize; 4] {
    let (channels, [height, width]) = match of {
        Gradient::BackwardData => (spec.in_channels(), [spec.in_height(), spec.in_width()]),
        Gradient::BackwardWeights => (spec.in_channels() / spec.groups(), spec.kernel()),
    };
    if of == Gradient::BackwardWeights && place >= spec.weights_len() {
        return [place - spec.weights_len(), channels, 0, 0];
    }
    match (of, spec.layout()) {
        (Gradient::BackwardData, Layout::Nhwc) => {
            let pixel = place / channels;
            [pixel / (height * width), place % channels, pixel / width % height, pixel % width]
        }
        _ => {
            let row = place / width;
            [row / height / channels, row / height % channels, row % height, place % width]
        }
    }
}

/// Places of one axis that meet the same taps.
struct Phase {
    /// The first place; others are a stride apart.
    first: usize,
    /// Places.
    count: usize,
    /// The taps, from last to first.
    taps: Vec<usize>,
    /// From one of them to the next, in outputs.
    apart: usize,
    /// The output that the first place meets with the last tap; it may lie outside.
    low: isize,
    /// Whether any output is met.
    meets: bool,
}

fn phases(spec: &ConvSpec, axis: usize) -> Vec<Phase> {
    let (size, out) = [(spec.in_height(), spec.out_height()), (spec.in_width(), spec.out_width())][axis];
    let before = [spec.padding().top, spec.padding().left][axis];
    let (kernel, stride, dilation) = (spec.kernel()[axis], spec.stride()[axis], spec.dilation()[axis]);
    (0..stride.min(size))
        .map(|first| {
            let met = |tap: &usize| (first + before) % stride == tap * dilation % stride;
            let mut taps: Vec<usize> = (0..kernel).rev().filter(met).collect();
            let reach = |tap: usize| (first + before) as isize - (tap * dilation) as isize;
            let low = taps.first().map_or(0, |&tap| reach(tap) / stride as isize);
            let apart = taps.windows(2).map(|pair| (pair[0] - pair[1]) * dilation / stride).next();
            let (count, apart) = ((size - first).div_ceil(stride), apart.unwrap_or(1));
            let end = low + (count + taps.len().saturating_sub(1) * apart) as isize;
            let meets = !taps.is_empty() && low < out as isize && end > 0;
            if !meets {
                taps = vec![0];
            }
            Phase { first, count, taps, apart, low, meets }
        })
        .collect()
}

fn by_data<'a>(spec: &'a ConvSpec, tensors: &'a Tensors) -> Box<dyn Iterator<Item = Part> + 'a> {
    let (rows, columns) = (phases(spec, 0), phases(spec, 1));
    let groups = spec.groups();
    let (channels, filters) = (spec.in_channels() / groups, spec.out_channels() / groups);
    let [height, width] = spec.kernel();
    let outputs = [spec.out_channels(), spec.out_height(), spec.out_width()];
    let inputs = [spec.in_channels(), spec.in_height(), spec.in_width()];
    let pairs: Vec<(usize, usize)> =
        (0..rows.len()).flat_map(|row| (0..columns.len()).map(move |column| (row, column))).collect();
    let mut models = 0;
    Box::new(pairs.into_iter().map(move |(row, column)| {
        let (row, column) = (&rows[row], &columns[column]);
        let meets = row.meets && column.meets;
        let model = meets.then_some(models);
        models += usize::from(meets);
        let len = |phase: &Phase| phase.count + (phase.taps.len() - 1) * phase.apart;
        let builder = ConvSpec::builder()
            .batch(spec.batch())
            .in_channels(spec.out_channels())
            .input_size(len(row), len(column))
            .out_channels(spec.in_channels())
            .kernel(row.taps.len(), column.taps.len())
            .dilation(row.apart, column.apart)
            .groups(groups);
        let convolution = valid(builder.build());
        let mut input = Buffer::zeros(convolution.input_len());
        for (i, value) in input.iter_mut().enumerate() {
            let (plane, y) = (i / len(column) / len(row), (i / len(column) % len(row)) as isize + row.low);
            let x = (i % len(column)) as isize + column.low;
            let within = |place: isize, size: usize| usize::try_from(place).ok().filter(|&at| at < size);
            if let (true, Some(y), Some(x)) = (meets, within(y, outputs[1]), within(x, outputs[2])) {
                let at = [plane / outputs[0], plane % outputs[0], y, x];
                *value = tensors.previous[index(spec.layout(), outputs, at)];
            }
        }
        let mut weights = Buffer::zeros(convolution.weights_len());
        let taps = row.taps.iter().flat_map(|r| column.taps.iter().map(move |s| r * width + s));
        let taps: Vec<usize> = taps.collect();
        for (i, value) in weights.iter_mut().enumerate() {
            let (c, o, tap) = (i / taps.len() / filters, i / taps.len() % filters, taps[i % taps.len()]);
            let filter = (c / channels * filters + o) * channels + c % channels;
            *value = tensors.weights[filter * height * width + tap];
        }
        let mut places = Vec::with_capacity(convolution.output_len());
        for (n, c) in (0..spec.batch()).flat_map(|n| (0..inputs[0]).map(move |c| (n, c))) {
            for (i, j) in (0..row.count).flat_map(|i| (0..column.count).map(move |j| (i, j))) {
                let [vertical, horizontal] = spec.stride();
                let at = [n, c, row.first + i * vertical, column.first + j * horizontal];
                places.push(index(spec.layout(), inputs, at));
            }
        }
        Part::new(convolution, input, weights, places, model)
    }))
}

fn by_weights<'a>(spec: &'a ConvSpec, tensors: &'a Tensors) -> Box<dyn Iterator<Item = Part> + 'a> {
    let groups = spec.groups();
    let (channels, filters) = (spec.in_channels() / groups, spec.out_channels() / groups);
    let ([height, width], [vertical, horizontal]) = (spec.kernel(), spec.stride());
    let outputs = [spec.out_channels(), spec.out_height(), spec.out_width()];
    let inputs = [spec.in_channels(), spec.in_height(), spec.in_width()];
    // As much of the padded input as is seen.
    let rows = (height - 1) * spec.dilation()[0] + (outputs[1] - 1) * vertical + 1;
    let columns = (width - 1) * spec.dilation()[1] + (outputs[2] - 1) * horizontal + 1;
    let part = move |group: usize, builder: ConvSpecBuilder, input: Buffer, places: Vec<usize>| {
        let builder = builder.in_channels(spec.batch()).out_channels(filters).kernel(outputs[1], outputs[2]);
        let convolution = valid(builder.build());
        let mut weights = Buffer::zeros(convolution.weights_len());
        let plane = outputs[1] * outputs[2];
        for (i, value) in weights.iter_mut().enumerate() {
            let (o, n, pixel) = (i / plane / spec.batch(), i / plane % spec.batch(), i % plane);
            let at = [n, group * filters + o, pixel / outputs[2], pixel % outputs[2]];
            *value = tensors.previous[index(spec.layout(), outputs, at)];
        }
        Part::new(convolution, input, weights, places, Some(0))
    };
    let weights = move |group: usize| {
        let mut input = Buffer::zeros(channels * spec.batch() * rows * columns);
        for (i, value) in input.iter_mut().enumerate() {
            let (plane, y, x) = (i / columns / rows, i / columns % rows, i % columns);
            let (c, n) = (group * channels + plane / spec.batch(), plane % spec.batch());
            let (y, x) = (y.wrapping_sub(spec.padding().top), x.wrapping_sub(spec.padding().left));
            if y < inputs[1] && x < inputs[2] {
                *value = tensors.input[index(spec.layout(), inputs, [n, c, y, x])];
            }
        }
        let mut places = Vec::with_capacity(channels * filters * height * width);
        for (c, o) in (0..channels).flat_map(|c| (0..filters).map(move |o| (c, o))) {
            let first = ((group * filters + o) * channels + c) * height * width;
            places.extend(first..first + height * width);
        }
        let builder = ConvSpec::builder().batch(channels).input_size(rows, columns);
        let builder = builder.stride(spec.dilation()[0], spec.dilation()[1]).dilation(vertical, horizontal);
        part(group, builder, input, places)
    };
    let bias = move |group: usize| {
        let mut input = Buffer::zeros(spec.batch() * outputs[1] * outputs[2]);
        input.fill(1.0);
        let first = spec.weights_len() + group * filters;
        let builder = ConvSpec::builder().input_size(outputs[1], outputs[2]);
        part(group, builder, input, (first..first + filters).collect())
    };
    Box::new((0..groups).flat_map(move |group| [weights(group), bias(group)]))
}

/// Parts of a convolution that exists.
#[allow(clippy::expect_used)]
fn valid(spec: Result<ConvSpec, kernels::SpecError>) -> ConvSpec {
    spec.expect("no larger than the convolution that it is part of")
}
