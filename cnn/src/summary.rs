//! The table that people know: layer, output shape, parameters, multiply-accumulates, receptive field.

use std::fmt;

use crate::graph::{Graph, Node, Parameter};
use crate::layer::Layer;

/// A line of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The layer's name.
    pub name: String,
    /// Its kind.
    pub kind: &'static str,
    /// Its output for one image.
    pub shape: String,
    /// Numbers it learns.
    pub parameters: usize,
    /// Multiply-accumulates for one image.
    pub macs: u64,
    /// Rows and columns of the image (padding included) that one output value sees.
    pub field: [usize; 2],
}

/// A table of a network's layers; its `Display` is for people.
///
/// ```
/// let lenet = cnn::networks::lenet5()?;
/// let table = lenet.summary();
/// assert_eq!(table.rows[0].field, [5, 5]);
/// println!("{table}");
/// # Ok::<(), cnn::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// One for each layer.
    pub rows: Vec<Row>,
}

/// What one value sees of the image, and how far its neighbour's view is from its own.
#[derive(Clone, Copy)]
struct View {
    field: [usize; 2],
    jump: [usize; 2],
}

impl View {
    /// Through a window of this extent and stride.
    fn through(self, window: [usize; 2], stride: [usize; 2]) -> Self {
        let axis = |i: usize| {
            let reach = (window[i] - 1).saturating_mul(self.jump[i]);
            (self.field[i].saturating_add(reach), self.jump[i].saturating_mul(stride[i]))
        };
        let ((height, down), (width, right)) = (axis(0), axis(1));
        View { field: [height, width], jump: [down, right] }
    }
}

/// What a window reaches over when its pixels are apart.
fn dilated(window: [usize; 2], dilation: [usize; 2]) -> [usize; 2] {
    [0, 1].map(|i| dilation[i] * (window[i] - 1) + 1)
}

impl Graph {
    /// The table of this network.
    pub fn summary(&self) -> Summary {
        let mut views = vec![View { field: [1; 2], jump: [1; 2] }];
        let rows = self.nodes().iter().map(|node| {
            let view = self.view(node, &views);
            views.push(view);
            let learned = self.parameters()[node.parameters()].iter().filter(|p| p.role.is_learned());
            Row {
                name: node.name().to_owned(),
                kind: node.layer().kind(),
                shape: node.shape().to_string(),
                parameters: learned.map(Parameter::len).sum(),
                macs: self.macs_of(node),
                field: view.field,
            }
        });
        Summary { rows: rows.collect() }
    }

    fn view(&self, node: &Node, views: &[View]) -> View {
        let view = views[node.inputs()[0].0];
        let [_, height, width] = self.shape(node.inputs()[0]).volume();
        match node.layer() {
            Layer::Conv(conv) => view.through(dilated(conv.kernel, conv.dilation), conv.stride),
            Layer::MaxPool(pool) | Layer::AvgPool(pool) => {
                view.through(dilated(pool.window, pool.dilation), pool.stride)
            }
            // Whoever reads a row of features sees all pixels.
            Layer::GlobalAvgPool | Layer::Flatten => view.through([height, width], [1; 2]),
            Layer::Add => {
                let other = views[node.inputs()[1].0];
                View { field: [0, 1].map(|i| view.field[i].max(other.field[i])), ..view }
            }
            _ => view,
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let longest = self.rows.iter().map(|row| row.name.len()).max().unwrap_or(0).max(5);
        writeln!(
            f,
            "{:<longest$}  {:<13}  {:>14}  {:>12}  {:>14}  {:>9}",
            "layer", "kind", "output", "parameters", "MACs", "sees"
        )?;
        for row in &self.rows {
            let (name, [height, width]) = (&row.name, row.field);
            writeln!(
                f,
                "{name:<longest$}  {:<13}  {:>14}  {:>12}  {:>14}  {:>9}",
                row.kind,
                row.shape,
                grouped(row.parameters as u64),
                grouped(row.macs),
                format!("{height}×{width}"),
            )?;
        }
        let parameters = self.rows.iter().map(|row| row.parameters).fold(0, usize::saturating_add);
        let macs = self.rows.iter().map(|row| row.macs).fold(0, u64::saturating_add);
        write!(
            f,
            "{:<longest$}  {:<13}  {:>14}  {:>12}  {:>14}",
            "all",
            "",
            "",
            grouped(parameters as u64),
            grouped(macs)
        )
    }
}

/// Digits in groups of three; nothing for 0.
fn grouped(n: u64) -> String {
    if n == 0 {
        return String::new();
    }
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_stand_in_groups() {
        assert_eq!(grouped(0), "");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(61_100_840), "61 100 840");
    }

    /// Three 3×3 see as much as one 7×7, as the lecture says.
    #[test]
    fn receptive_fields_are_the_lectures() {
        use crate::{Conv, Pool, Shape};
        let mut net = Graph::new(Shape::image(1, 32, 32)).unwrap();
        for name in ["a", "b", "c"] {
            net.then(name, Conv::new(1, 1, 3)).unwrap();
        }
        net.then("pool", Layer::MaxPool(Pool::new(2))).unwrap();
        net.then("d", Conv::new(1, 1, 3)).unwrap();
        let fields: Vec<usize> = net.summary().rows.iter().map(|row| row.field[0]).collect();
        assert_eq!(fields, [3, 5, 7, 8, 12]);
    }
}
