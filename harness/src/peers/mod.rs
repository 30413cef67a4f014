//! Other libraries' convolutions, to be measured beside ours.

#[cfg(feature = "peers")]
mod built_in;
#[cfg(feature = "cuda")]
mod cudnn;
pub mod made;
mod missing;
mod nchw;
mod onednn;
mod onnxruntime;

use std::path::PathBuf;

use crate::engine::Engine;
use crate::record::Gradient;

/// Where to look for peers' shared libraries.
#[derive(Clone, Debug, Default)]
pub struct Paths {
    /// oneDNN's; each is a peer of its own. Empty: where the system looks for `libdnnl`.
    pub onednn: Vec<PathBuf>,
    /// ONNX Runtime's. Absent: where the system looks for `libonnxruntime`.
    pub onnxruntime: Option<PathBuf>,
    /// cuDNN's. Absent: where the system looks for `libcudnn`.
    pub cudnn: Option<PathBuf>,
}

/// A name and what makes its peers.
type Row = (&'static str, fn(&Paths) -> Result<Vec<Box<dyn Engine>>, String>);

/// Those that have gradients, too.
const GRADIENTS: &str = onednn::NAME;

/// Every peer.
const PEERS: &[Row] = &[
    ("onednn", |paths| onednn::find(&paths.onednn, None)),
    ("onnxruntime", onnxruntime::find),
    ("cudnn", cudnn),
    ("rten", |_| Ok(vec![built_in("rten")])),
    ("tract", |_| Ok(vec![built_in("tract")])),
    ("candle", |_| Ok(vec![built_in("candle")])),
];

/// Names that [`find`] knows.
pub const NAMES: &[&str] = &{
    let mut names = [""; PEERS.len()];
    let mut row = 0;
    while row < PEERS.len() {
        names[row] = PEERS[row].0;
        row += 1;
    }
    names
};

/// The peers of some names; `all` is every one. A peer that cannot be had here is an engine too: it
/// refuses every convolution with the reason; as does one without gradients that is asked for one.
///
/// # Errors
/// A name that is not known; a path that was given and holds no such library.
pub fn find(
    names: &[String],
    paths: &Paths,
    gradient: Option<Gradient>,
) -> Result<Vec<Box<dyn Engine>>, String> {
    for name in names {
        if name != "all" && !NAMES.contains(&name.as_str()) {
            return Err(format!("`{name}` is no peer; known are all, {}", NAMES.join(", ")));
        }
    }
    let mut peers = Vec::new();
    for (name, make) in PEERS {
        if names.iter().any(|wanted| wanted == "all" || wanted == name) {
            peers.extend(match gradient {
                None => make(paths)?,
                Some(_) if *name == GRADIENTS => onednn::find(&paths.onednn, gradient)?,
                Some(of) => vec![Box::new(missing::Missing::without(name, of)) as Box<dyn Engine>],
            });
        }
    }
    Ok(peers)
}

/// An error in one line, with its causes.
fn one_line(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(|error| error.to_string().replace('\n', " ")).collect::<Vec<_>>().join(": ")
}

/// A peer that is compiled into this program.
#[cfg(feature = "peers")]
fn built_in(name: &'static str) -> Box<dyn Engine> {
    let reason = || "it is not among the engines of the feature `peers`".to_owned();
    built_in::engine(name).unwrap_or_else(|| Box::new(missing::Missing::new(name, reason())))
}

/// A peer that would be compiled into this program.
#[cfg(not(feature = "peers"))]
fn built_in(name: &'static str) -> Box<dyn Engine> {
    let reason = "this convbench was built without the feature `peers` (cargo run --release --features peers \
                  --bin convbench)";
    Box::new(missing::Missing::new(name, reason.to_owned()))
}

/// cuDNN.
#[cfg(feature = "cuda")]
fn cudnn(paths: &Paths) -> Result<Vec<Box<dyn Engine>>, String> {
    cudnn::find(paths.cudnn.as_deref())
}

/// cuDNN would need what the feature brings.
#[cfg(not(feature = "cuda"))]
fn cudnn(_: &Paths) -> Result<Vec<Box<dyn Engine>>, String> {
    Ok(vec![Box::new(missing::Missing::of_gpu("cudnn", crate::gpu::WITHOUT.to_owned()))])
}
