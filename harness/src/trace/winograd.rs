//! A tile of Winograd's algorithm: transformed, multiplied, transformed back, beside the direct sums.

use kernels::{ErrorModel, Kernel, WinogradTransform, kernel, kernels};

use super::Failure;
use super::case::Case;
use super::html::{Section, grouped, matrix, named, number};
use crate::oracle::sandwich;
use crate::report::html::escape;

/// What happens to a tile of one filter, in float64.
pub(super) struct Tile {
    /// Rows and columns of tiles before it.
    at: [usize; 2],
    transform: &'static WinogradTransform,
    /// Bᵀ d B of the first channel.
    input: Vec<f64>,
    /// G g Gᵀ of the first channel.
    filter: Vec<f64>,
    /// Their products, summed over all channels.
    products: Vec<f64>,
    /// Aᵀ M A and bias: m × m outputs.
    pub(super) output: Vec<f64>,
}

impl Tile {
    /// The tile that holds the followed output.
    pub(super) fn of(case: &Case, transform: &'static WinogradTransform) -> Self {
        let (m, r) = (transform.output, transform.kernel);
        let alpha = m + r - 1;
        let [o, y, x] = case.at;
        let at = [y / m, x / m];
        let input = |channel: usize| {
            let pixel = |i: usize, j: usize| pixel(case, transform, at, channel, i, j);
            sandwich(transform.bt, alpha, alpha, |b| b, pixel)
        };
        let filter = |channel: usize| {
            sandwich(transform.g, alpha, r, |g| g, |i, j| f64::from(case.weight(o, channel, i, j)))
        };
        let mut products = vec![0.0; alpha * alpha];
        for channel in 0..case.spec.group_in_channels() {
            for (sum, (v, u)) in products.iter_mut().zip(input(channel).into_iter().zip(filter(channel))) {
                *sum += v * u;
            }
        }
        let output = sandwich(transform.at, m, alpha, |a| a, |i, j| products[i * alpha + j]);
        let bias = case.bias(o);
        let output = output.into_iter().map(|sum| sum + bias).collect();
        Tile { at, transform, input: input(0), filter: filter(0), products, output }
    }

    /// Outputs of the tile that exist: the last tile of a row may reach over its end.
    fn places<'a>(&'a self, case: &'a Case) -> impl Iterator<Item = ([usize; 3], f64)> + 'a {
        let m = self.transform.output;
        self.output.iter().enumerate().filter_map(move |(i, &value)| {
            let at = [case.at[0], self.at[0] * m + i / m, self.at[1] * m + i % m];
            (at[1] < case.spec.out_height() && at[2] < case.spec.out_width()).then_some((at, value))
        })
    }
}

/// A pixel of a tile of the followed output's channels.
fn pixel(
    case: &Case,
    transform: &WinogradTransform,
    [y, x]: [usize; 2],
    channel: usize,
    i: usize,
    j: usize,
) -> f64 {
    let (row, column) = (y * transform.output + i, x * transform.output + j);
    case.padded(case.first_channel() + channel, row, column).map_or(0.0, f64::from)
}

/// The variants that cover the convolution, the smallest tile first.
fn variants(case: &Case) -> Vec<(&'static dyn Kernel, &'static WinogradTransform)> {
    let all = kernels().filter(|kernel| {
        kernel.isa().is_none()
            && !kernel.on_gpu()
            && kernel.algorithm().starts_with("winograd-")
            && kernel.availability().is_ok()
            && kernel.supports(&case.spec).is_ok()
    });
    let mut all: Vec<_> = all
        .filter_map(|kernel| {
            let weights = &case.tensors.weights;
            let plan = kernel.plan(&case.spec, weights, &Default::default()).ok()?;
            match plan.error_model() {
                ErrorModel::Winograd { transform, .. } => Some((kernel, transform)),
                _ => None,
            }
        })
        .collect();
    all.sort_by_key(|(_, transform)| transform.output);
    all
}

pub(super) fn section(case: &Case) -> Result<Section, Failure> {
    let title = "Fewer multiplications: a Winograd tile".to_owned();
    let variants = variants(case);
    let Some(&(variant, transform)) = variants.first() else {
        let refusal = kernel("winograd").map_err(Failure::refused)?.supports(&case.spec);
        let reason = refusal.err().map_or("it is not available here".to_owned(), |e| e.what().to_owned());
        let html = format!(
            "<p>Winograd's algorithm does not cover this layer: {}. It takes 3×3 and 5×5 filters with stride 1.</p>",
            escape(&reason)
        );
        return Ok(Section { id: "winograd", title, html });
    };
    let tile = Tile::of(case, transform);
    let run = case.run(variant.id())?;
    let (m, r) = (transform.output, transform.kernel);
    let alpha = m + r - 1;
    let worst = |of: &dyn Fn([usize; 3], f64) -> f64| {
        tile.places(case).map(|(at, value)| of(at, value).abs()).fold(0.0, f64::max)
    };
    let in_f64 = worst(&|at, value| value - case.sum(at));
    let in_f32 = worst(&|at, _| case.given(&run.output, at) - case.sum(at));
    let [o, y, x] = case.at;
    let first = case.first_channel();
    let square =
        |values: &[f64], side: usize, name: &str| matrix(name, side, side, |i, j| values[i * side + j]);
    let constant = |rows: &[&[f64]], name: &str| matrix(name, rows.len(), rows[0].len(), |i, j| rows[i][j]);
    let channels = case.spec.group_in_channels();
    let one: Vec<f64> = tile.input.iter().zip(&tile.filter).map(|(v, u)| v * u).collect();
    let summed = match channels {
        1 => String::new(),
        _ => format!(
            "<span class=\"op\">Σ over<br>{channels} channels</span>{}",
            square(&tile.products, alpha, "M, all channels")
        ),
    };
    let (_, rows, columns) = (m, tile.at[0] * m, tile.at[1] * m);
    let exists =
        |i: usize, j: usize| rows + i < case.spec.out_height() && columns + j < case.spec.out_width();
    let direct = matrix("the direct sums", m, m, |i, j| match exists(i, j) {
        true => case.sum([o, rows + i, columns + j]),
        false => 0.0,
    });
    let html = format!(
        "<p>{m}×{m} neighbouring outputs need {alpha}×{alpha} pixels. Input tile d and filter g are transformed by constant \
         matrices, multiplied place by place, summed over the channels while still transformed, and transformed back: \
         Y = Aᵀ[Σ (G g Gᵀ) ⊙ (Bᵀ d B)]A. This is F({m}×{m}, {r}×{r}), of <code>{}</code>; the tile is the one of output \
         {o} at ({y}, {x}).</p>\
         <div class=\"flow\">{}<span class=\"op\">→</span>{}</div>\
         <div class=\"flow\">{}<span class=\"op\">→</span>{}</div>\
         <div class=\"flow\">{}{summed}<span class=\"op\">→</span>{}<span class=\"op\">≈</span>{direct}</div>\
         <p>Computed in float64, the two differ by {} at most: the transforms are exact algebra. In f32, <code>{}</code> gives {} at \
         ({y}, {x}), and in this tile it differs from the direct sums by {} at most; {} of its outputs were compared and \
         are within its bound.</p>{}\
         <h3>The constant matrices</h3><div class=\"flow\">{}{}{}</div>",
        escape(variant.id()),
        matrix(&format!("d: channel {first}"), alpha, alpha, |i, j| pixel(case, transform, tile.at, 0, i, j)),
        square(&tile.input, alpha, "Bᵀ d B"),
        matrix(&format!("g: filter {o}, channel 0"), r, r, |i, j| f64::from(case.weight(o, 0, i, j))),
        square(&tile.filter, alpha, "G g Gᵀ"),
        square(&one, alpha, "(G g Gᵀ) ⊙ (Bᵀ d B)"),
        square(&tile.output, m, if case.with_bias { "Aᵀ M A + bias" } else { "Aᵀ M A" }),
        named("winograd-difference", in_f64),
        escape(&run.kernel),
        named("winograd-given", case.given(&run.output, case.at)),
        named("winograd-kernel-difference", in_f32),
        grouped(run.compared as u64),
        counts(case, &variants),
        constant(transform.bt, "Bᵀ"),
        constant(transform.g, "G"),
        constant(transform.at, "Aᵀ"),
    );
    Ok(Section { id: "winograd", title, html })
}

/// Multiplications of each variant, for a tile and for the whole layer.
fn counts(case: &Case, variants: &[(&'static dyn Kernel, &'static WinogradTransform)]) -> String {
    let spec = &case.spec;
    let direct = spec.macs();
    let mut html = format!(
        "<h3>Multiplications</h3><div class=\"scroll\"><table><thead><tr><th>tile</th><th>kernel</th><th>for a tile and channel</th>\
         <th>instead of</th><th>for the layer</th><th>fewer</th></tr></thead><tbody>\
         <tr><th>direct</th><td></td><td></td><td></td><td>{}</td><td>1×</td></tr>",
        grouped(direct)
    );
    for (kernel, transform) in variants {
        let (m, r) = (transform.output, transform.kernel);
        let elements = (m + r - 1).pow(2);
        let tiles: usize = [spec.out_height(), spec.out_width()].map(|n| n.div_ceil(m)).iter().product();
        let pairs = (spec.group_in_channels() * spec.out_channels()) as u64;
        let all = (tiles * elements) as u64 * pairs;
        html += &format!(
            "<tr><th>F({m}×{m}, {r}×{r})</th><td class=\"w\"><code>{}</code></td><td>{elements}</td><td>{}</td><td>{}</td><td>{}×</td></tr>",
            escape(kernel.id()),
            m * m * r * r,
            grouped(all),
            number(direct as f64 / all as f64)
        );
    }
    html + &format!(
        "</tbody></table></div><p>Tiles that reach over the edge of the output are computed whole, which small maps pay for. \
         The transforms cost additions, which grow with the tile, as do the rounding errors; so the largest tile is not the \
         best for every layer: <code>auto</code> takes {} here.</p>",
        text_of_choice(case)
    )
}

fn text_of_choice(case: &Case) -> String {
    match kernels::explain(&case.spec, &Default::default()) {
        Ok(choice) => format!("<code>{}</code> ({})", escape(choice.algorithm), escape(&choice.reason)),
        Err(error) => text_of_error(&error.to_string()),
    }
}

fn text_of_error(error: &str) -> String {
    format!("nothing ({})", escape(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Kind, tensors};

    /// For every variant the tile of a random convolution is the definition's.
    #[test]
    fn tiles_are_the_direct_sums() {
        for (spec, count) in [("c4 h9 w10 o3 k3 p1", 3), ("c3 h9 w7 o2 k5 p2,0,1,2", 1)] {
            let spec = spec.parse().unwrap();
            let mut case = Case::new("conv", spec, tensors(&spec, Kind::Real, 1), true, "naive").unwrap();
            let variants = variants(&case);
            assert_eq!(variants.len(), count, "{spec}");
            for at in [[0, 0, 0], [1, spec.out_height() - 1, spec.out_width() - 1], [1, 3, 4]] {
                case.follow(Some(at)).unwrap();
                for (_, transform) in &variants {
                    let tile = Tile::of(&case, transform);
                    let places: Vec<_> = tile.places(&case).collect();
                    assert!(places.iter().any(|(place, _)| *place == at));
                    for (place, value) in places {
                        assert!((value - case.sum(place)).abs() < 1e-12, "{spec} {place:?}: {value}");
                    }
                }
            }
        }
    }
}
