//! A page before it has a form: sections of text, tables and figures, which every format renders.

use crate::report::results::Setting;

/// A page.
#[derive(Clone, Debug, Default)]
pub struct Document {
    /// What it is about.
    pub title: String,
    /// A line below the title.
    pub subtitle: String,
    /// What was found, the most important first.
    pub verdict: Vec<String>,
    /// What a reader must know before believing any of it.
    pub warnings: Vec<Warning>,
    /// The settings that blocks are for.
    pub settings: Vec<Setting>,
    /// The sections.
    pub sections: Vec<Section>,
}

/// A part of a page.
#[derive(Clone, Debug)]
pub struct Section {
    /// Its name in links.
    pub id: &'static str,
    /// Its heading.
    pub title: String,
    /// What it holds.
    pub blocks: Vec<Block>,
}

/// A piece of a section.
#[derive(Clone, Debug)]
pub enum Block {
    /// A paragraph.
    Text(String),
    /// A paragraph that nobody may overlook.
    Warning(Warning),
    /// A command or a spec, as it is typed.
    Code(String),
    /// Names and values.
    Facts(Vec<(String, String)>),
    /// A table.
    Table(Table),
    /// Bars of the engines of a layer. Formats without figures leave it out: a table says the same.
    Bars(Bars),
    /// Bars made up of parts. As above.
    Stacks(Stacks),
    /// A plot in logarithmic axes. As above.
    Plot(Plot),
    /// What is for one setting only.
    Of(Setting, Vec<Block>),
    /// What opens on demand.
    Fold(Fold),
}

/// What nobody may overlook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What it says.
    pub text: String,
    /// Whether it is about a wrong result.
    pub wrong: bool,
}

impl From<String> for Warning {
    fn from(text: String) -> Self {
        Warning { text, wrong: false }
    }
}

/// Something that opens on demand.
#[derive(Clone, Debug, Default)]
pub struct Fold {
    /// Its name in links; may be empty.
    pub id: String,
    /// What is seen while it is closed.
    pub title: String,
    /// Beside the title.
    pub detail: String,
    /// Whether it is open at first.
    pub open: bool,
    /// What it holds.
    pub blocks: Vec<Block>,
}

/// A table: the first column holds names, the others numbers, unless said otherwise.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Heads of the columns.
    pub heads: Vec<String>,
    /// Rows, each as long as the heads.
    pub rows: Vec<Vec<Cell>>,
    /// Columns that hold words.
    pub words: Vec<usize>,
}

impl Table {
    /// A table with these heads.
    pub fn new<S: ToString>(heads: impl IntoIterator<Item = S>) -> Self {
        Table { heads: heads.into_iter().map(|head| head.to_string()).collect(), ..Table::default() }
    }

    /// Without columns in which nothing is said.
    pub fn without_empty_columns(mut self) -> Self {
        let said = |column: usize| {
            self.rows.iter().any(|row| row.get(column).is_some_and(|cell| !cell.text.is_empty()))
        };
        let kept: Vec<usize> = (0..self.heads.len()).filter(|&column| column == 0 || said(column)).collect();
        let keep = |row: &[Cell]| kept.iter().filter_map(|&column| row.get(column).cloned()).collect();
        self.rows = self.rows.iter().map(|row| keep(row)).collect();
        self.words = self.words.iter().filter_map(|word| kept.iter().position(|old| old == word)).collect();
        self.heads = kept.iter().filter_map(|&column| self.heads.get(column).cloned()).collect();
        self
    }
}

/// What a cell is beside its text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mark {
    /// Nothing.
    #[default]
    None,
    /// Among the best.
    Best,
    /// Less important.
    Faint,
    /// Wrong.
    Wrong,
    /// Of a row that sums up the others.
    Sum,
}

/// A cell of a table.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    /// What it says.
    pub text: String,
    /// What it is.
    pub mark: Mark,
    /// How good it is among its like, from 0 to 1.
    pub share: Option<f64>,
    /// The fold that it leads to.
    pub link: Option<String>,
    /// More about it.
    pub hint: Option<String>,
}

impl Cell {
    /// With a mark.
    pub fn marked(text: impl ToString, mark: Mark) -> Self {
        Cell { text: text.to_string(), mark, ..Cell::default() }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Cell { text: text.to_owned(), ..Cell::default() }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Cell { text, ..Cell::default() }
    }
}

impl From<Option<String>> for Cell {
    fn from(text: Option<String>) -> Self {
        text.unwrap_or_default().into()
    }
}

/// What an engine's colour and shape stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// One of our algorithms.
    Naive,
    /// One of our algorithms.
    Im2col,
    /// One of our algorithms.
    Direct,
    /// One of our algorithms.
    Winograd,
    /// One of our algorithms.
    Pointwise,
    /// One of our algorithms.
    Depthwise,
    /// Another of ours.
    Other,
    /// Another library, counted from 0.
    Peer(usize),
}

/// Bars of a layer's engines.
#[derive(Clone, Debug)]
pub struct Bars {
    /// The largest value that a bar can show.
    pub most: f64,
    /// The bars, the longest first.
    pub bars: Vec<Bar>,
}

/// The bar of an engine.
#[derive(Clone, Debug)]
pub struct Bar {
    /// The engine.
    pub name: String,
    /// What ran, where that is not the name.
    pub detail: String,
    /// Its colour.
    pub class: Class,
    /// GFLOP/s.
    pub value: f64,
    /// The interval of the value.
    pub interval: Option<(f64, f64)>,
    /// The roof over it.
    pub roof: Option<f64>,
    /// `fastest`, `tie`, or nothing.
    pub tag: &'static str,
    /// Whether it is the second row of a kernel.
    pub again: bool,
}

/// Bars made up of parts.
#[derive(Clone, Debug)]
pub struct Stacks {
    /// What is measured.
    pub unit: &'static str,
    /// The largest value.
    pub most: f64,
    /// The bars.
    pub bars: Vec<Stack>,
    /// What colours stand for.
    pub legend: Vec<(Class, String)>,
}

/// A bar made up of parts.
#[derive(Clone, Debug)]
pub struct Stack {
    /// What it is of.
    pub name: String,
    /// More of that.
    pub detail: String,
    /// Its parts: colour, name and size.
    pub parts: Vec<(Class, String, f64)>,
    /// All parts together.
    pub value: f64,
}

/// A plot in logarithmic axes.
#[derive(Clone, Debug)]
pub struct Plot {
    /// What it shows, for those who do not see it.
    pub title: String,
    /// The horizontal axis.
    pub x: String,
    /// The vertical axis.
    pub y: String,
    /// Horizontal and rising lines that limit the points.
    pub roofs: Vec<RoofLine>,
    /// Points.
    pub points: Vec<Point>,
    /// Lines through points.
    pub lines: Vec<Line>,
    /// Values to be marked on the horizontal axis; empty for round ones.
    pub ticks: Vec<f64>,
    /// What colours and shapes stand for.
    pub legend: Vec<(Class, String)>,
}

/// A line through points.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// Its colour, and the shape of its points.
    pub class: Class,
    /// The points.
    pub points: Vec<(f64, f64)>,
}

/// A roof.
#[derive(Clone, Debug)]
pub struct RoofLine {
    /// Its name, short.
    pub name: String,
    /// How high it is, in words.
    pub detail: String,
    /// Its height: y for a flat one, y at x = 1 for a rising one.
    pub height: f64,
    /// Whether it rises with x.
    pub rises: bool,
}

/// A point.
#[derive(Clone, Debug)]
pub struct Point {
    /// Where.
    pub at: (f64, f64),
    /// Its colour and shape.
    pub class: Class,
    /// What it is.
    pub style: PointStyle,
    /// What it says when asked.
    pub label: String,
}

/// What a point is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PointStyle {
    /// By the algorithm's own arithmetic.
    Own,
    /// A row.
    Row,
    /// A row that matters most.
    Main,
}
