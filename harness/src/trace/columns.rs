//! im2col: the windows as columns of a matrix, and the convolution as its product with the filters.

use std::io;

use super::case::Case;
use super::html::{Section, grouped, heat, named, text};
use super::picture::{self, Map, Picture, largest};
use crate::machine::bytes;
use crate::report::html::escape;

/// Rows and columns of the matrix that are drawn at most.
const SHOWN: [usize; 2] = [256, 784];
/// Filters that are drawn at most.
const SHOWN_FILTERS: usize = 64;
/// Channels of the window whose way into the column is drawn.
const SHOWN_CHANNELS: usize = 3;

/// The matrix of the followed output's group, as an index into the input.
struct Columns<'a> {
    case: &'a Case,
    /// Rows (places of the filter) and columns (places of the window).
    size: [usize; 2],
}

impl<'a> Columns<'a> {
    fn of(case: &'a Case) -> Self {
        let [kh, kw] = case.spec.kernel();
        let rows = case.spec.group_in_channels() * kh * kw;
        Columns { case, size: [rows, case.spec.out_height() * case.spec.out_width()] }
    }

    /// The term of the filter's row with this place of the window.
    fn term(&self, filter: usize, row: usize, column: usize) -> super::case::Term {
        let [kh, kw] = self.case.spec.kernel();
        let width = self.case.spec.out_width();
        let (channel, place) = (row / (kh * kw), row % (kh * kw));
        self.case.term([filter, column / width, column % width], channel, place / kw, place % kw)
    }

    /// Column of the followed output.
    fn followed(&self) -> usize {
        let [_, y, x] = self.case.at;
        y * self.case.spec.out_width() + x
    }
}

/// The section, and its pictures by their names.
pub(super) fn section(case: &Case) -> io::Result<(Section, Vec<(String, Picture)>)> {
    let columns = Columns::of(case);
    let [rows, places] = columns.size;
    let spec = &case.spec;
    let filters = spec.group_out_channels();
    let first_filter = case.at[0] / filters * filters;
    // The part that is drawn.
    let (shown_rows, shown_places, shown_filters) =
        (rows.min(SHOWN[0]), places.min(SHOWN[1]), filters.min(SHOWN_FILTERS));
    let followed = columns.followed();
    let from = |at: usize, shown: usize, all: usize| at.saturating_sub(shown / 2).min(all - shown);
    let from_place = from(followed, shown_places, places);
    let from_filter = first_filter + from(case.at[0] - first_filter, shown_filters, filters);
    let matrix = |height: usize, width: usize, value: &dyn Fn(usize, usize) -> f64| -> Vec<f32> {
        (0..height).flat_map(|i| (0..width).map(move |j| value(i, j) as f32)).collect()
    };
    let [x, w, y] = [
        matrix(shown_rows, shown_places, &|i, j| columns.term(first_filter, i, from_place + j).pixel),
        matrix(shown_filters, shown_rows, &|i, j| columns.term(from_filter + i, j, 0).weight),
        matrix(shown_filters, shown_places, &|i, j| {
            let width = spec.out_width();
            let place = from_place + j;
            case.given(&case.output, [from_filter + i, place / width, place % width])
        }),
    ];
    let scheme = Scheme {
        places: shown_places,
        filters: shown_filters,
        drawn: [
            (6 * shown_rows).clamp(110, 260),
            (6 * shown_places).clamp(220, 620),
            (10 * shown_filters).clamp(40, 160),
        ],
    };
    let [k, p, o] = scheme.drawn;
    let draw = |values: &[f32], size: [usize; 2], drawn: [usize; 2]| {
        let cell = [0, 1].map(|axis| (drawn[axis] / size[axis]).max(1));
        picture::map(Map { values, size }, largest(values), cell)
    };
    let pictures = [
        ("im2col.png", draw(&x, [shown_rows, shown_places], [k, p])?),
        ("filters-as-rows.png", draw(&w, [shown_filters, shown_rows], [o, k])?),
        ("product.png", draw(&y, [shown_filters, shown_places], [o, p])?),
    ];
    let [ih, iw] = [spec.in_height(), spec.in_width()];
    let group = if spec.groups() > 1 { " of this group" } else { "" };
    let (matrix_bytes, input_bytes) =
        (4 * rows as u64 * places as u64, 4 * (spec.group_in_channels() * ih * iw) as u64);
    let part = |shown: usize, all: usize, from: usize, what: &str| {
        (shown < all).then(|| format!("{what} {from} to {} of {all}", from + shown - 1))
    };
    let parts: Vec<String> = [
        part(shown_rows, rows, 0, "rows"),
        part(shown_places, places, from_place, "columns"),
        part(shown_filters, filters, from_filter - first_filter, "filters"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let shown =
        if parts.is_empty() { "Shown whole.".to_owned() } else { format!("Shown: {}.", parts.join(", ")) };
    let dot: f64 =
        (0..rows).map(|row| columns.term(case.at[0], row, followed)).map(|t| t.pixel * t.weight).sum();
    let html = format!(
        "<p>Each place of the window becomes a column: its pixels, channel by channel, row by row. The matrix X{group} has \
         {}·{}·{} = <data id=\"im2col-rows\" value=\"{rows}\">{}</data> rows and {}·{} = \
         <data id=\"im2col-columns\" value=\"{places}\">{}</data> columns; most pixels stand in it several times: \
         {} for an input of {}.</p>{}\
         <p>Filters are rows of W, in the same order. So the whole convolution is one product of matrices, Y = W·X \
         (plus bias): row {} of W with column {followed} of X gives {} + bias {} = {}, as above. \
         <code>im2col-gemm</code> computes it so, but writes only as much of X at a time as the caches hold.</p>{}",
        spec.group_in_channels(),
        spec.kernel()[0],
        spec.kernel()[1],
        grouped(rows as u64),
        spec.out_height(),
        spec.out_width(),
        grouped(places as u64),
        bytes(matrix_bytes),
        bytes(input_bytes),
        column(case, &columns),
        case.at[0] - first_filter,
        text(dot),
        text(case.bias(case.at[0])),
        named("im2col-product", dot + case.bias(case.at[0])),
        scheme.figure(
            [&pictures[0].1, &pictures[1].1, &pictures[2].1],
            [case.at[0] - from_filter, followed - from_place],
            [rows, places, filters],
            &shown
        ),
    );
    let section = Section { id: "im2col", title: "A window becomes a column".to_owned(), html };
    Ok((section, pictures.map(|(name, picture)| (name.to_owned(), picture)).into()))
}

/// Where three matrices lie: X above Y, W to its left, so that rows and columns meet.
struct Scheme {
    places: usize,
    filters: usize,
    /// Lengths of the axes in the drawing: rows of X, its columns, filters.
    drawn: [usize; 3],
}

impl Scheme {
    fn figure(
        &self,
        [x, w, y]: [&Picture; 3],
        [filter, place]: [usize; 2],
        whole: [usize; 3],
        shown: &str,
    ) -> String {
        const GAP: usize = 46;
        const TOP: usize = 24;
        let [k, p, o] = self.drawn;
        let (right, below) = (k + GAP, TOP + k + GAP);
        let image = |picture: &Picture, name: &str, at: [usize; 2], size: [usize; 2]| {
            format!(
                "<rect class=\"sheet\" x=\"{0}\" y=\"{1}\" width=\"{2}\" height=\"{3}\"/>\
                 <image href=\"{4}\" data-file=\"{name}\" x=\"{0}\" y=\"{1}\" width=\"{2}\" height=\"{3}\" preserveAspectRatio=\"none\"/>",
                at[0],
                at[1],
                size[0],
                size[1],
                picture.data_url()
            )
        };
        let of = |index: usize, count: usize, length: usize| {
            let length = length as f64;
            let extent = (length / count as f64).max(3.0);
            (
                ((index as f64 + 0.5) * length / count as f64 - extent / 2.0).clamp(0.0, length - extent),
                extent,
            )
        };
        let ((column, column_width), (row, row_height)) =
            (of(place, self.places, p), of(filter, self.filters, o));
        let (x_column, y_row) = (right as f64 + column, below as f64 + row);
        let [rows, places, filters] = whole;
        let svg = format!(
            "{}{}{}\
             <text x=\"{right}\" y=\"16\">X: {rows} × {places}</text>\
             <text x=\"0\" y=\"{}\">W: {filters} × {rows}</text>\
             <text x=\"{right}\" y=\"{}\">Y = W·X: {filters} × {places}</text>\
             <rect class=\"window\" x=\"{x_column:.1}\" y=\"{TOP}\" width=\"{column_width:.1}\" height=\"{k}\"/>\
             <rect class=\"window\" x=\"0\" y=\"{y_row:.1}\" width=\"{k}\" height=\"{row_height:.1}\"/>\
             <rect class=\"window\" x=\"{x_column:.1}\" y=\"{y_row:.1}\" width=\"{column_width:.1}\" height=\"{row_height:.1}\"/>\
             <path class=\"guide\" d=\"M{:.1} {}V{:.1}M{k} {:.1}H{:.1}\"/>",
            image(x, "im2col.png", [right, TOP], [p, k]),
            image(w, "filters-as-rows.png", [0, below], [k, o]),
            image(y, "product.png", [right, below], [p, o]),
            below - 8,
            below - 8,
            x_column + column_width / 2.0,
            TOP + k,
            y_row,
            y_row + row_height / 2.0,
            x_column
        );
        let (width, height) = (right + p, below + o);
        let caption = format!(
            "Orange is positive, blue negative, each matrix by its own largest value. The framed row and column meet in the \
             framed output. {shown}"
        );
        format!(
            "<figure class=\"drawing wide\"><div class=\"pan\"><svg viewBox=\"-2 0 {} {}\" style=\"max-width:{}px;min-width:560px\" role=\"img\" \
             aria-label=\"{}\">{svg}</svg></div><figcaption>{}</figcaption></figure>",
            width + 4,
            height + 4,
            width + 4,
            escape(&caption),
            escape(&caption)
        )
    }
}

/// How the window's pixels come to stand in a column.
fn column(case: &Case, columns: &Columns<'_>) -> String {
    let [kh, kw] = case.spec.kernel();
    let channels = case.spec.group_in_channels();
    let shown = channels.min(SHOWN_CHANNELS);
    let count = shown * kh * kw;
    let step = (460.0 / count as f64).clamp(3.0, 24.0);
    let height = step * count as f64;
    let block = height / shown as f64;
    let side = ((block - 14.0) / kh.max(kw) as f64).clamp(4.0, 34.0);
    let (strip, strip_width) = (side * kw as f64 + 120.0, 92.0);
    let value = |row: usize| columns.term(case.at[0], row, columns.followed()).pixel;
    let most = (0..count).map(value).fold(0.0, |most: f64, x| most.max(x.abs()));
    let mut svg = String::new();
    for channel in 0..shown {
        let middle = block * (channel as f64 + 0.5);
        let top = middle - side * kh as f64 / 2.0;
        let (left_end, edge) = (side * kw as f64, block * channel as f64);
        svg += &format!(
            "<path class=\"band\" d=\"M{left_end:.1} {top:.1}L{strip} {edge:.1}V{:.1}L{left_end:.1} {:.1}Z\"/>",
            edge + block,
            top + side * kh as f64
        );
        for (r, s) in (0..kh).flat_map(|r| (0..kw).map(move |s| (r, s))) {
            let row = (channel * kh + r) * kw + s;
            let (class, share) = heat(value(row), most);
            let opacity = share / 100.0;
            let (x, y) = (side * s as f64, top + side * r as f64);
            svg += &format!(
                "<rect class=\"cell {class}\" fill-opacity=\"{opacity:.3}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{side:.1}\" height=\"{side:.1}\"/>"
            );
            if side >= 15.0 {
                svg += &format!(
                    "<text class=\"in\" x=\"{:.1}\" y=\"{:.1}\">{row}</text>",
                    x + side / 2.0,
                    y + side / 2.0 + 4.0
                );
            }
            let y = step * row as f64;
            svg += &format!(
                "<rect class=\"cell {class}\" fill-opacity=\"{opacity:.3}\" x=\"{strip}\" y=\"{y:.1}\" width=\"{strip_width}\" height=\"{step:.1}\"/>"
            );
            if step >= 13.0 {
                let y = y + step / 2.0 + 4.0;
                svg += &format!(
                    "<text class=\"in\" x=\"{:.1}\" y=\"{y:.1}\">{}</text><text x=\"{:.1}\" y=\"{y:.1}\">{row}</text>",
                    strip + strip_width / 2.0,
                    text(value(row)),
                    strip + strip_width + 8.0
                );
            }
        }
    }
    let width = strip + strip_width + 40.0;
    let rest = match channels - shown {
        0 => String::new(),
        rest => format!(" {rest} more channels follow below."),
    };
    let [_, y, x] = case.at;
    let caption = format!(
        "The window at ({y}, {x}), channel by channel, and column {} of X with its values; numbers are rows of X.{rest}",
        columns.followed()
    );
    format!(
        "<figure class=\"drawing\"><svg viewBox=\"-2 -2 {:.0} {:.0}\" style=\"max-width:{:.0}px\" role=\"img\" aria-label=\"{}\">{svg}</svg>\
         <figcaption>{}</figcaption></figure>",
        width + 4.0,
        height + 4.0,
        width + 4.0,
        escape(&caption),
        escape(&caption)
    )
}
