//! Layers of networks, as data: lines `name count spec`, with `#` comments; or a file of another format.
//!
//! [`read`] knows three formats by what is in the file: this one, [`crate::benchdnn`]'s, and models of
//! [`crate::onnx`].

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use kernels::{ConvSpec, Layout, SpecError};

use crate::file::read_most;
use crate::{benchdnn, machine, onnx};

/// A convolution of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The name within its network.
    pub name: String,
    /// The network or file it is of; empty for one given by its spec.
    pub network: String,
    /// How often the network has this shape.
    pub count: usize,
    /// The convolution.
    pub spec: ConvSpec,
}

/// The files that the program carries: their names and contents.
pub const NETWORKS: &[(&str, &str)] = &[
    ("default", include_str!("../../benches/layers/default.txt")),
    ("lenet5", include_str!("../../benches/layers/lenet5.txt")),
    ("alexnet", include_str!("../../benches/layers/alexnet.txt")),
    ("alexnet-torchvision", include_str!("../../benches/layers/alexnet-torchvision.txt")),
    ("vgg16", include_str!("../../benches/layers/vgg16.txt")),
    ("resnet50", include_str!("../../benches/layers/resnet50.txt")),
    ("resnext50", include_str!("../../benches/layers/resnext50.txt")),
    ("mobilenetv1", include_str!("../../benches/layers/mobilenetv1.txt")),
    ("mobilenetv2", include_str!("../../benches/layers/mobilenetv2.txt")),
    ("lecture", include_str!("../../benches/layers/lecture.txt")),
    ("calls", include_str!("../../benches/layers/calls.txt")),
    ("edges", include_str!("../../benches/layers/edges.txt")),
    ("reference", include_str!("../../benches/layers/reference.txt")),
];

/// A line that is no layer, or a network that is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerError {
    /// The file or network.
    pub source: String,
    /// The line, counted from 1; 0 when it is about the whole.
    pub line: usize,
    /// What is wrong, and what would be right.
    pub what: String,
}

impl fmt::Display for LayerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.source, self.what),
            line => write!(f, "{}:{line}: {}", self.source, self.what),
        }
    }
}

impl std::error::Error for LayerError {}

impl LayerError {
    /// An error about a file as a whole.
    pub(crate) fn whole(source: &str, what: impl Into<String>) -> Self {
        LayerError { source: source.to_owned(), line: 0, what: what.into() }
    }
}

/// A convolution of a model that is no layer here, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its name within the model.
    pub name: String,
    /// Why it cannot be measured.
    pub reason: String,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not measured: {} {}", self.name, self.reason)
    }
}

/// Most bytes of a file of text; thousands of layers are a hundredth of it.
const MOST_TEXT: u64 = 16 << 20;

/// Most bytes of a model: what the format's encoding can hold. Weights beyond lie in files of their own, which
/// are not read.
const MOST_MODEL: u64 = 2 << 30;

/// Reads the layers of a file in whichever format it is: an ONNX model (its name ends in `.onnx`, or it begins as
/// one), benchdnn's problems (its first line is an option or a problem descriptor), or lines `name count spec`.
/// Beside them comes what the file has but cannot be measured.
///
/// # Errors
/// When it cannot be read, or holds no layers; the message names the file, and the line or node.
pub fn read(path: &Path) -> Result<(Vec<Layer>, Vec<Skipped>), LayerError> {
    let source = path.display().to_string();
    let error = |what: String| LayerError::whole(&source, what);
    let mut file = File::open(path).map_err(|e| error(e.to_string()))?;
    let mut bytes = Vec::new();
    // What tells a model from text: it begins with its version's tag, which is no printable character.
    (&mut file).take(1).read_to_end(&mut bytes).map_err(|e| error(e.to_string()))?;
    let is_model = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("onnx"))
        || bytes.first() == Some(&onnx::FIRST_BYTE);
    let most = if is_model { MOST_MODEL.min(machine::available_memory() / 2) } else { MOST_TEXT };
    read_most(file, most, &mut bytes).map_err(error)?;
    if is_model {
        return onnx::layers(&bytes, &source);
    }
    let text = text(bytes).map_err(error)?;
    let layers =
        if benchdnn::looks_like(&text) { benchdnn::parse(&text, &source) } else { parse(&text, &source) };
    Ok((layers?, Vec::new()))
}

/// Reads a file of text.
pub(crate) fn read_text(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    read_most(File::open(path).map_err(|e| e.to_string())?, MOST_TEXT, &mut bytes)?;
    text(bytes)
}

fn text(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|_| "is neither text (UTF-8) nor an ONNX model".to_owned())
}

/// Which layers of a file are counted as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Same {
    /// Those of one shape, under the first's name.
    Spec,
    /// Those of one shape and name.
    NameAndSpec,
}

/// Layers as they are found in a file. Each gets a name of its own.
pub(crate) struct Collection {
    network: String,
    same: Same,
    layers: Vec<Layer>,
    /// Where a layer is, by its name (if that counts) and shape.
    places: HashMap<(Option<String>, ConvSpec), usize>,
    /// Names that are taken, and the number that the last of the same name got.
    names: HashMap<String, usize>,
}

impl Collection {
    pub(crate) fn new(source: &str, same: Same) -> Self {
        Collection {
            network: network_of(source),
            same,
            layers: Vec::new(),
            places: HashMap::new(),
            names: HashMap::new(),
        }
    }

    pub(crate) fn add(&mut self, name: &str, count: usize, spec: ConvSpec) {
        let key = (self.same == Same::NameAndSpec).then(|| name.to_owned());
        let place = self.places.get(&(key.clone(), spec)).and_then(|&place| self.layers.get_mut(place));
        if let Some(layer) = place {
            layer.count = layer.count.saturating_add(count);
            return;
        }
        self.places.insert((key, spec), self.layers.len());
        let name = self.own_name(name);
        self.layers.push(Layer { name, network: self.network.clone(), count, spec });
    }

    /// The name, with a number if it is taken.
    fn own_name(&mut self, name: &str) -> String {
        let mut own = name.to_owned();
        let mut number = self.names.get(name).copied().unwrap_or(0);
        while self.names.contains_key(&own) {
            number = number.max(1) + 1;
            own = format!("{name}-{number}");
        }
        self.names.insert(own.clone(), 1);
        self.names.insert(name.to_owned(), number);
        own
    }

    pub(crate) fn into_layers(self) -> Vec<Layer> {
        self.layers
    }
}

/// A name as one word of a line: without blanks or what begins a comment, and not longer than a line.
pub(crate) fn token(name: &str) -> String {
    let plain = |c: char| if c.is_whitespace() || c.is_control() || c == '#' { '_' } else { c };
    name.chars().take(100).map(plain).collect()
}

/// The name of the network that a file holds.
fn network_of(source: &str) -> String {
    Path::new(source).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned()
}

/// Reads layers from text; `source` names it in errors.
///
/// # Errors
/// The first line that is no layer; a name that occurs twice; no layer at all.
pub fn parse(text: &str, source: &str) -> Result<Vec<Layer>, LayerError> {
    let error = |line, what: String| LayerError { source: source.to_owned(), line, what };
    let network = network_of(source);
    let mut layers: Vec<Layer> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let mut tokens = line.split_whitespace();
        let (name, count) = (tokens.next().unwrap_or_default(), tokens.next().unwrap_or_default());
        let count = match count.parse::<usize>() {
            Ok(count) if count > 0 => count,
            _ => {
                let what = format!("`{count}` is no count of layers (a line is `name count spec`)");
                return Err(error(number, what));
            }
        };
        let spec = tokens
            .collect::<Vec<_>>()
            .join(" ")
            .parse::<ConvSpec>()
            .map_err(|e| error(number, e.to_string()))?;
        if layers.iter().any(|layer| layer.name == name) {
            return Err(error(number, format!("the name `{name}` occurs twice")));
        }
        layers.push(Layer { name: name.to_owned(), network: network.clone(), count, spec });
    }
    if layers.is_empty() {
        return Err(error(0, "no layer in it (a line is `name count spec`)".to_owned()));
    }
    Ok(layers)
}

/// The layers of a network that the program carries.
///
/// # Errors
/// When there is none of that name.
pub fn network(name: &str) -> Result<Vec<Layer>, LayerError> {
    match NETWORKS.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => parse(text, &format!("benches/layers/{name}.txt")),
        None => Err(LayerError {
            source: name.chars().take(40).collect(),
            line: 0,
            what: format!("is no known network; known are {}", network_names().join(", ")),
        }),
    }
}

/// Names of the networks that the program carries.
pub fn network_names() -> Vec<&'static str> {
    NETWORKS.iter().map(|(name, _)| *name).collect()
}

impl Layer {
    /// A convolution on its own, named by its spec.
    pub fn of_spec(spec: ConvSpec) -> Self {
        Layer { name: spec.to_string(), network: String::new(), count: 1, spec }
    }
}

/// The layers in another layout.
pub fn with_layout(layers: Vec<Layer>, layout: Option<Layout>) -> Vec<Layer> {
    let convert = |layer: Layer| match layout {
        Some(layout) => Layer { spec: layer.spec.with_layout(layout), ..layer },
        None => layer,
    };
    layers.into_iter().map(convert).collect()
}

/// The layers with each of some batches; as they are without any.
///
/// # Errors
/// When a batch is 0 or too large.
pub fn with_batches(layers: Vec<Layer>, batches: &[usize]) -> Result<Vec<Layer>, SpecError> {
    if batches.is_empty() {
        return Ok(layers);
    }
    let each = layers.iter().flat_map(|layer| batches.iter().map(move |&batch| (layer, batch)));
    each.map(|(layer, batch)| Ok(Layer { spec: layer.spec.with_batch(batch)?, ..layer.clone() })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (network, convolutions, parameters without bias, multiply-adds) as published or counted by hand.
    const TOTALS: [(&str, usize, u64, u64); 8] = [
        // 150 + 2400 + 48000 weights.
        ("lenet5", 3, 50_550, 405_600),
        // 34,848 + 307,200 + 884,736 + 663,552 + 442,368 weights.
        ("alexnet", 5, 2_332_704, 665_784_864),
        ("alexnet-torchvision", 5, 2_468_544, 655_566_528),
        // 14,714,688 parameters of the convolutions, less 4,224 biases; 15.3 billion multiply-adds.
        ("vgg16", 13, 14_710_464, 15_346_630_656),
        // 25,557,032 parameters less the classifier's 2,049,000 and 53,120 of batch normalisation;
        // 4.09 billion multiply-adds, of which the classifier has 2 million.
        ("resnet50", 53, 23_454_912, 4_087_136_256),
        // 25,028,904 parameters less the classifier's 2,049,000 and 68,224 of batch normalisation.
        ("resnext50", 53, 22_911_680, 4_228_431_872),
        // 569 million multiply-adds with the classifier's million.
        ("mobilenetv1", 27, 3_185_088, 567_716_352),
        // 300,774,272 multiply-adds with the 1,280,000 of the classifier.
        ("mobilenetv2", 52, 2_189_760, 299_494_272),
    ];

    #[test]
    fn networks_have_their_published_totals() {
        for (name, convolutions, weights, macs) in TOTALS {
            let layers = network(name).unwrap();
            let total = |f: &dyn Fn(&ConvSpec) -> u64| {
                layers.iter().map(|layer| layer.count as u64 * f(&layer.spec)).sum::<u64>()
            };
            assert_eq!(layers.iter().map(|layer| layer.count).sum::<usize>(), convolutions, "{name}");
            assert_eq!(total(&|spec| spec.weights_len() as u64), weights, "{name}: weights");
            assert_eq!(total(&ConvSpec::macs), macs, "{name}: multiply-adds");
        }
    }

    #[test]
    fn every_file_is_read_and_carried() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../benches/layers");
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            assert!(network_names().contains(&name.as_str()), "{name} is not in NETWORKS");
        }
        for name in network_names() {
            network(name).unwrap();
        }
    }

    #[test]
    fn the_default_set_is_part_of_the_reference_set() {
        let reference = network("reference").unwrap();
        assert_eq!(reference.len(), 29);
        for layer in network("default").unwrap() {
            let same = |other: &Layer| (&other.name, &other.spec) == (&layer.name, &layer.spec);
            assert!(reference.iter().any(same), "{layer:?}");
        }
    }

    /// Their products take a core a few microseconds at most, their buffers fit its first cache.
    #[test]
    fn layers_of_calls_are_small() {
        for layer in network("calls").unwrap() {
            assert!(layer.spec.macs() <= 150_000 && layer.spec.min_bytes() <= 32 << 10, "{layer:?}");
        }
    }

    #[test]
    fn errors_name_the_line() {
        let message = |text: &str| parse(text, "my.txt").unwrap_err().to_string();
        assert_eq!(
            message("# c\n\na two c1"),
            "my.txt:3: `two` is no count of layers (a line is `name count spec`)"
        );
        assert!(message("a 0 c1 h3 w3 o1 k3").starts_with("my.txt:1: `0` is no count"));
        assert_eq!(message("a"), "my.txt:1: `` is no count of layers (a line is `name count spec`)");
        assert!(message("a 1 c1 h3 w3 o1 k9").starts_with("my.txt:1: "));
        assert!(message("a 1 c1 h3 w3 o1 k3\na 1 c1 h3 w3 o1 k3").contains("`a` occurs twice"));
        assert_eq!(message("# nothing\n"), "my.txt: no layer in it (a line is `name count spec`)");
        assert!(network("resnet51").unwrap_err().to_string().contains("known are default, lenet5"));
    }

    #[test]
    fn layers_of_one_name_are_told_apart() {
        let spec = |h: usize| format!("c1 h{h} w9 o1 k3").parse::<ConvSpec>().unwrap();
        let collect = |same: Same| {
            let mut collection = Collection::new("a/net.onnx", same);
            for (name, h) in [("a", 3), ("a", 4), ("a-2", 5), ("b", 3), ("a", 6), ("a", 4)] {
                collection.add(name, 1, spec(h));
            }
            let layers = collection.into_layers();
            assert!(layers.iter().all(|layer| layer.network == "net"));
            layers.iter().map(|layer| format!("{}x{}", layer.name, layer.count)).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(collect(Same::Spec), "ax2 a-2x2 a-2-2x1 a-3x1");
        assert_eq!(collect(Same::NameAndSpec), "ax1 a-2x2 a-2-2x1 bx1 a-3x1");
        assert_eq!(token("a b#c\n"), "a_b_c_");
    }
}
