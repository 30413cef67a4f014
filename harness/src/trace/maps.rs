//! What every layer gives, as pictures, and the filters of a convolution.

use std::io;

use cnn::{Graph, Row, Shape, StepInfo, Summary};

use super::case::Case;
use super::html::{Section, grouped, number, picture};
use super::picture::{self, Map, Picture, largest};
use crate::report::html::escape;

/// Pixels of all pictures of maps together, about.
const PIXELS: usize = 3 << 20;
/// Maps of a layer that are drawn.
const MAPS: (usize, usize) = (8, 32);
/// Pixels of a map's side, about: where there are many layers, and where there are few.
const SIDE: (usize, usize) = (56, 96);
/// Layers that are few.
const FEW: usize = 16;
/// Features that are drawn.
const FEATURES: usize = 4096;
/// Scores that are listed.
const SCORES: usize = 5;
/// Filters that are drawn, and their side in pixels.
const FILTERS: usize = 64;
const FILTER_SIDE: usize = 54;

/// The pictures of all layers.
pub(super) struct Maps<'a> {
    graph: &'a Graph,
    summary: Summary,
    html: String,
    pub(super) pictures: Vec<(String, Picture)>,
    /// Layers that were drawn.
    drawn: usize,
}

impl<'a> Maps<'a> {
    pub(super) fn new(graph: &'a Graph) -> Self {
        Maps { graph, summary: graph.summary(), html: String::new(), pictures: Vec::new(), drawn: 0 }
    }

    /// Adds a layer.
    pub(super) fn add(&mut self, step: &StepInfo, values: &[f32]) -> io::Result<()> {
        let shape = self.graph.shape(step.value);
        let most = largest(values);
        let layers = self.graph.nodes().len();
        let side = if layers <= FEW { SIDE.1 } else { SIDE.0 };
        let (picture, shown) = match shape {
            Shape::Image { channels, height, width } => {
                let cell = (height.min(side) * width.min(side)).max(1);
                let maps = (PIXELS / layers / cell).clamp(MAPS.0, MAPS.1).min(channels);
                let drawn: Vec<Map<'_>> = values
                    .chunks_exact(height * width)
                    .take(maps)
                    .map(|values| Map { values, size: [height, width] })
                    .collect();
                let step = height.max(width).div_ceil(side);
                let mut shown = match maps == channels {
                    true => String::new(),
                    false => format!("the first {maps} of {channels} maps"),
                };
                if step > 1 {
                    shown += if shown.is_empty() { "" } else { ", " };
                    shown += &format!("a pixel is the mean of {step}×{step}");
                }
                (picture::grid(&drawn, most, columns(maps), side)?, shown)
            }
            Shape::Features(features) => {
                let drawn = features.min(FEATURES);
                let columns = drawn.min(64).min((2 * drawn).isqrt().max(10));
                let mut padded = values[..drawn].to_vec();
                padded.resize(drawn.next_multiple_of(columns), 0.0);
                let size = [padded.len() / columns, columns];
                let shown = if drawn < features { format!("the first {drawn}") } else { String::new() };
                (picture::map(Map { values: &padded, size }, most, [7; 2])?, shown)
            }
        };
        let finite = || values.iter().copied().filter(|x| x.is_finite());
        let (low, high) =
            (finite().fold(f32::INFINITY, f32::min), finite().fold(f32::NEG_INFINITY, f32::max));
        self.drawn += 1;
        let name = file_name(self.drawn, &step.name);
        let unknown = Row {
            name: step.name.clone(),
            kind: step.kind,
            shape: shape.to_string(),
            parameters: 0,
            macs: 0,
            field: [0; 2],
        };
        let row = self.summary.rows.iter().find(|row| row.name == step.name).unwrap_or(&unknown);
        let [sees_height, sees_width] = row.field;
        let parameters = match row.parameters {
            0 => String::new(),
            count => format!(", {} parameters", grouped(count as u64)),
        };
        let kernel =
            step.kernel.as_ref().map_or(String::new(), |id| format!(" by <code>{}</code>", escape(id)));
        let shown = if shown.is_empty() { String::new() } else { format!("; shown: {shown}") };
        self.html += &format!(
            "<figure class=\"card\" data-layer=\"{0}\"><h3>{0} <span>{1}{kernel}</span></h3>{2}<figcaption>{3}{parameters}, sees {sees_height}×{sees_width}; \
             <span>{4} to {5}{shown}</span></figcaption></figure>\n",
            escape(&step.name),
            step.kind,
            self::picture(&name, &picture, &format!("activation maps of {}", step.name)),
            row.shape,
            number(f64::from(low)),
            number(f64::from(high)),
        );
        self.pictures.push((name, picture));
        Ok(())
    }

    /// The section; the network's output is what was added last.
    pub(super) fn section(self, output: &[f32]) -> (Section, Vec<(String, Picture)>) {
        let scores = match self.graph.output_shape() {
            Shape::Features(_) => scores(output),
            Shape::Image { .. } => String::new(),
        };
        let skipped = self.graph.nodes().len() - self.drawn;
        let skipped = match skipped {
            0 => String::new(),
            1 => " One layer only passes its values on and is not drawn.".to_owned(),
            count => format!(" {count} layers only pass their values on and are not drawn."),
        };
        let html = format!(
            "<p>What each layer gives for this image, batch normalisations, sums and activations apart from the convolutions. \
             Orange is positive, blue negative, full colour the layer's largest size; under each picture the shape \
             (channels × rows × columns), what an output sees of the image, and the least and the largest value.{skipped}</p>\
             {scores}<div class=\"cards\">{}</div>",
            self.html
        );
        (Section { id: "maps", title: "Activation maps, layer by layer".to_owned(), html }, self.pictures)
    }
}

/// Pictures in a row, about two rows for every four columns.
fn columns(count: usize) -> usize {
    match count {
        0..=8 => count.max(1),
        9..=16 => 8.min(count.div_ceil(2)),
        _ => 8,
    }
}

/// A name that every system takes.
fn file_name(index: usize, layer: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '.' { c } else { '_' };
    format!("maps-{index:03}-{}.png", layer.chars().take(60).map(safe).collect::<String>())
}

/// The largest scores, as probabilities too.
fn scores(output: &[f32]) -> String {
    let most = output.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = output.iter().map(|&score| f64::from(score - most).exp()).sum();
    let mut order: Vec<usize> = (0..output.len()).collect();
    order.sort_by(|&a, &b| output[b].total_cmp(&output[a]));
    order.truncate(SCORES.max(if output.len() <= 10 { 10 } else { 0 }));
    let mut html = format!(
        "<h3>The scores{}, and softmax of them</h3><ul class=\"bars\">",
        if order.len() < output.len() {
            format!(": the largest {} of {}", order.len(), output.len())
        } else {
            String::new()
        }
    );
    for class in order {
        let share = f64::from(output[class] - most).exp() / sum;
        html += &format!(
            "<li><span class=\"name\">class {class} <small>score {}</small></span><span class=\"track\"><i style=\"width:{:.2}%;--c:var(--accent)\"></i></span>\
             <span class=\"value\">{}</span></li>",
            number(f64::from(output[class])),
            100.0 * share,
            crate::report::numbers::percent(share)
        );
    }
    html + "</ul>"
}

/// The filters of a convolution.
pub(super) fn filters(case: &Case) -> io::Result<(Section, Vec<(String, Picture)>)> {
    let [filters, channels, height, width] = case.spec.weights_shape();
    let weights = &case.tensors.weights[..];
    let shown = filters.min(FILTERS);
    let planes: Vec<Map<'_>> = weights
        .chunks_exact(channels * height * width)
        .take(shown)
        .map(|filter| Map { values: &filter[..height * width], size: [height, width] })
        .collect();
    let in_row = if shown <= 8 { shown } else { 16.min(shown.div_ceil(2)) };
    // As a picture is 3 channels: of such filters the lecture's coloured squares.
    let grid = match channels {
        3 => picture::coloured(weights, shown, [height, width], in_row, FILTER_SIDE)?,
        _ => picture::grid(&planes, largest(weights), in_row, FILTER_SIDE)?,
    };
    let mut which = match shown == filters {
        true => format!("All {filters} filters"),
        false => format!("The first {shown} of {filters} filters"),
    };
    let colours = match channels {
        3 => "the three channels are red, green and blue, and grey is 0",
        _ => "orange weights are positive, blue negative",
    };
    if !matches!(channels, 1 | 3) {
        which += &format!(", each by the first of its {channels} channels");
    }
    let name = "filters.png".to_owned();
    let html = format!(
        "<p>{which}, {height}×{width}; {colours}.</p><figure class=\"card alone\">{}</figure>",
        picture(&name, &grid, "filters")
    );
    let title = format!("Filters of <code>{}</code>", escape(&case.layer));
    Ok((Section { id: "filters", title, html }, vec![(name, grid)]))
}
