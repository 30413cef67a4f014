//! A lecture's figures from live data: a convolution's window, its im2col matrix, a Winograd tile, and what every
//! layer of a network makes of an image, as one page and its pictures.
//!
//! [`source`] is what the network is shown, [`case`] a convolution with its data and the definition's sums, checked;
//! [`picture`] draws numbers. Everything on the page is computed from these, by the kernels or by the definition in
//! float64.

pub mod case;
mod columns;
mod folder;
mod html;
mod maps;
pub mod picture;
pub mod source;
mod window;
mod winograd;

use std::path::{Path, PathBuf};

use cnn::{Conv, Graph, Inference, InferenceOptions, Layer, Node, Shape, Value, Weights, networks};
use kernels::ConvSpec;

use crate::data::Tensors;
use crate::{machine, network};
use case::Case;
use html::{Section, grouped};
use maps::Maps;
use picture::{Map, Picture, largest};
use source::Input;

/// What is traced.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A network by its name.
    Network(String),
    /// A convolution, of one image.
    Spec(ConvSpec),
}

/// How to trace it.
#[derive(Clone, Debug)]
pub struct Options {
    /// What.
    pub subject: Subject,
    /// The image's file; without one a digit is drawn.
    pub image: Option<PathBuf>,
    /// The weights' file (safetensors); without one they are random.
    pub weights: Option<PathBuf>,
    /// Seed of what is drawn and random.
    pub seed: u64,
    /// Which convolution the figures are of; without one the first.
    pub layer: Option<String>,
    /// Which of its outputs is followed, channel, row, column; without one that of the first map which is furthest from 0.
    pub at: Option<[usize; 3]>,
    /// The kernel of the convolutions that it covers.
    pub kernel: String,
}

impl Options {
    /// What is drawn and random by seed 1, with kernel `auto`.
    pub fn new(subject: Subject) -> Self {
        let kernel = "auto".to_owned();
        Options { subject, image: None, weights: None, seed: 1, layer: None, at: None, kernel }
    }
}

/// Why there is no trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Bad input, in a line.
    Refused(String),
    /// A kernel computed something wrong.
    Wrong(String),
}

impl Failure {
    fn refused(error: impl ToString) -> Self {
        Failure::Refused(error.to_string())
    }
}

/// A page with its pictures.
///
/// ```
/// use harness::trace::{Options, Subject, Trace};
///
/// let spec = "c3 h8 w8 o4 k3 p1".parse()?;
/// let trace = Trace::new(&Options::new(Subject::Spec(spec))).map_err(|e| format!("{e:?}"))?;
/// assert!(trace.page.contains("(8 − 3 + 2·1)/1 + 1 = "));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Trace {
    /// The page, with the pictures in it.
    pub page: String,
    /// The pictures by the names of their files.
    pub pictures: Vec<(String, Picture)>,
    /// The convolution that the figures are of.
    pub case: Case,
}

impl Trace {
    /// Runs what is to be traced and draws it.
    ///
    /// # Errors
    /// What a file, the network or a kernel refuses, in one line; or that a kernel is wrong.
    pub fn new(options: &Options) -> Result<Self, Failure> {
        let graph = graph(&options.subject)?;
        let Shape::Image { channels, height, width } = graph.input_shape() else {
            return Err(Failure::Refused("a network that does not take images cannot be traced".to_owned()));
        };
        let shape = [channels, height, width];
        let conv = convolution(&graph, options.layer.as_deref())?;
        network::check_memory(&graph, 1, 0).map_err(Failure::Refused)?;
        let input = match &options.image {
            Some(path) => source::read(path, shape),
            None => {
                let apart = matches!(options.subject, Subject::Spec(_));
                source::digit(shape, options.seed, apart)
            }
        };
        let input = input.map_err(Failure::Refused)?;
        let weights = match &options.weights {
            Some(path) => Weights::load(&graph, path).and_then(|weights| finite(weights, path)),
            None => Weights::random(&graph, options.seed),
        };
        let weights = weights.map_err(Failure::refused)?;
        let mut maps = Maps::new(&graph);
        let seen = run(&graph, &weights, options, &input.values, conv, &mut maps)?;
        let mut case = case(&graph, &weights, options, conv, seen.input)?;
        if case.output != seen.output {
            let layer = conv.name();
            return Err(Failure::Wrong(format!("`{layer}` gives other values in the network than alone")));
        }
        case.follow(options.at)?;
        let drawn = |error: std::io::Error| Failure::Refused(format!("a picture cannot be drawn: {error}"));
        let (filters, filter_pictures) = maps::filters(&case).map_err(drawn)?;
        let (im2col, im2col_pictures) = columns::section(&case).map_err(drawn)?;
        let (maps, map_pictures) = maps.section(&seen.last);
        let image = image(&input).map_err(drawn)?;
        let sections = [
            image_section(&input, &image),
            window::section(&case),
            im2col,
            winograd::section(&case)?,
            filters,
            maps,
        ];
        let page = page(options, &graph, &case, &input, &sections);
        let own = [("input.png".to_owned(), image)];
        let pictures = own.into_iter().chain(filter_pictures).chain(im2col_pictures).chain(map_pictures);
        Ok(Trace { page, pictures: pictures.collect(), case })
    }

    /// Fails where [`write`](Self::write) would refuse the folder, which is worth knowing before.
    ///
    /// # Errors
    /// When something is there that is not an earlier trace.
    pub fn check_folder(folder: &Path) -> Result<(), String> {
        folder::check(folder)
    }

    /// Writes the page as `index.html` with its pictures beside it: the folder is whole or as it was. An earlier
    /// trace in it is replaced.
    ///
    /// # Errors
    /// When it cannot be written, or holds something else.
    pub fn write(&self, folder: &Path) -> Result<(), String> {
        let pictures = self.pictures.iter().map(|(name, picture)| (&name[..], &picture.bytes[..]));
        folder::write(folder, &self.page, pictures)
    }
}

fn graph(subject: &Subject) -> Result<Graph, Failure> {
    match subject {
        Subject::Network(name) => networks::network(name).map_err(Failure::refused),
        Subject::Spec(spec) => {
            machine::check_memory(spec, 1, 1).map_err(Failure::Refused)?;
            let conv = Conv {
                in_channels: spec.in_channels(),
                out_channels: spec.out_channels(),
                kernel: spec.kernel(),
                stride: spec.stride(),
                padding: spec.padding(),
                dilation: spec.dilation(),
                groups: spec.groups(),
                bias: true,
                algorithm: None,
            };
            let input = Shape::image(spec.in_channels(), spec.in_height(), spec.in_width());
            let mut graph = Graph::new(input).map_err(Failure::refused)?;
            graph.then("conv", conv).map_err(Failure::refused)?;
            Ok(graph)
        }
    }
}

/// The convolution of this name, or the first.
fn convolution<'a>(graph: &'a Graph, name: Option<&str>) -> Result<&'a Node, Failure> {
    let mut all = graph.nodes().iter().filter(|node| matches!(node.layer(), Layer::Conv(_)));
    match name {
        None => all.next().ok_or_else(|| Failure::Refused("the network has no convolution".to_owned())),
        Some(name) => all.clone().find(|node| node.name() == name).ok_or_else(|| {
            let known: Vec<&str> = all.map(Node::name).collect();
            Failure::Refused(format!("no convolution is called `{name}`; there are {}", known.join(", ")))
        }),
    }
}

/// Refuses weights of which a page could not be drawn.
fn finite(weights: Weights, path: &Path) -> Result<Weights, cnn::Error> {
    let wrong = weights
        .parameters()
        .iter()
        .enumerate()
        .find(|(i, _)| weights.values(*i).is_some_and(|values| values.iter().any(|x| !x.is_finite())));
    match wrong.map(|(_, parameter)| parameter.name.clone()) {
        Some(name) => Err(cnn::Error::File {
            path: path.to_owned(),
            what: format!("`{name}` holds values that are not finite"),
        }),
        None => Ok(weights),
    }
}

/// What was seen of a run.
#[derive(Default)]
struct Seen {
    /// What the followed convolution reads and gives.
    input: Vec<f32>,
    output: Vec<f32>,
    /// What the last layer gives.
    last: Vec<f32>,
}

fn run(
    graph: &Graph,
    weights: &Weights,
    options: &Options,
    input: &[f32],
    conv: &Node,
    maps: &mut Maps<'_>,
) -> Result<Seen, Failure> {
    let inference = InferenceOptions { kernel: options.kernel.clone(), fuse: false, ..Default::default() };
    let mut inference = Inference::new(graph, weights, &inference).map_err(Failure::refused)?;
    let read = made(graph, conv.inputs()[0]);
    let mut seen = Seen::default();
    if read == Graph::INPUT {
        seen.input = input.to_vec();
    }
    let mut drawn = Ok(());
    let last = inference.run_observed(input, |step, _, values| {
        if step.value == read {
            seen.input = values.to_vec();
        }
        if step.name == conv.name() {
            seen.output = values.to_vec();
        }
        if drawn.is_ok() {
            drawn = maps.add(step, values);
        }
    });
    let last = last.map_err(Failure::refused)?.to_vec();
    drawn.map_err(|error| Failure::Refused(format!("a picture cannot be drawn: {error}")))?;
    Ok(Seen { last, ..seen })
}

/// The value whose memory this is: some layers only hand theirs on.
fn made(graph: &Graph, value: Value) -> Value {
    match graph.node(value) {
        Some(node) if matches!(node.layer(), Layer::Flatten | Layer::Dropout(_)) => {
            made(graph, node.inputs()[0])
        }
        _ => value,
    }
}

fn case(
    graph: &Graph,
    weights: &Weights,
    options: &Options,
    node: &Node,
    input: Vec<f32>,
) -> Result<Case, Failure> {
    let missing = || Failure::Refused(format!("`{}` is no convolution of maps", node.name()));
    let (Layer::Conv(conv), shape @ Shape::Image { .. }) = (node.layer(), graph.shape(node.inputs()[0]))
    else {
        return Err(missing());
    };
    let spec = conv.spec(shape, 1).map_err(Failure::refused)?;
    let first = node.parameters().start;
    let values = |index: usize| weights.values(index).ok_or_else(missing);
    let bias = if conv.bias { values(first + 1)?.to_vec() } else { vec![0.0; conv.out_channels] };
    let tensors = Tensors {
        input: input.into(),
        weights: values(first)?.into(),
        bias: bias.into(),
        previous: Vec::new().into(),
    };
    let id = conv.algorithm.as_ref().unwrap_or(&options.kernel);
    Case::new(node.name(), spec, tensors, conv.bias, id)
}

/// Channels of an image that are drawn one by one.
const CHANNELS: usize = 8;

/// A photograph as it is; what has other channels one by one.
fn image(input: &Input) -> std::io::Result<Picture> {
    let [channels, height, width] = input.shape;
    let size = [height, width];
    if input.in_colours() {
        return picture::image(&input.values, channels, size, (224 / height.max(width)).max(1));
    }
    let planes = input.values.chunks_exact(height * width).take(CHANNELS);
    let planes: Vec<Map<'_>> = planes.map(|values| Map { values, size }).collect();
    picture::grid(&planes, largest(&input.values), CHANNELS / 2, 160)
}

fn image_section(input: &Input, image: &Picture) -> Section {
    let [channels, height, width] = input.shape;
    let first = match (input.in_colours(), channels) {
        (true, _) => String::new(),
        (false, ..=CHANNELS) => " Channel by channel:".to_owned(),
        (false, _) => format!(" Its first {CHANNELS} channels:"),
    };
    let html = format!(
        "<p>{}: {channels}×{height}×{width}.{first}</p><figure class=\"card alone\">{}</figure>",
        crate::report::html::escape(&input.about),
        html::picture("input.png", image, "the image")
    );
    Section { id: "image", title: "The image".to_owned(), html }
}

fn page(options: &Options, graph: &Graph, case: &Case, input: &Input, sections: &[Section]) -> String {
    let escape = crate::report::html::escape;
    let (title, about) = match &options.subject {
        Subject::Network(name) => (
            format!("{name}, traced"),
            format!(
                "{} layers, {} parameters; the figures are of its layer <code>{}</code>",
                graph.nodes().len(),
                grouped(graph.parameter_count() as u64),
                escape(&case.layer)
            ),
        ),
        Subject::Spec(_) => ("A convolution, traced".to_owned(), format!("<code>{}</code>", case.spec)),
    };
    let weights = match &options.weights {
        Some(path) => format!("read from {}", escape(&path.display().to_string())),
        None => format!("random (He's initialisation, seed {}): nothing was learned", options.seed),
    };
    let facts = [
        ("image", escape(&input.about)),
        ("weights", weights),
        ("convolution", format!("<code>{}</code>", case.spec)),
        ("kernel", format!("<code>{}</code>", escape(&case.kernel))),
        ("made by", format!("convbench {}", env!("CARGO_PKG_VERSION"))),
    ];
    html::page(&title, &about, &facts, sections)
}
