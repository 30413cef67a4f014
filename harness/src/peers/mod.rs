//! Other libraries' convolutions, to be measured beside ours.

mod onednn;

use std::path::PathBuf;

use crate::engine::Engine;

/// Where to look for peers' shared libraries.
#[derive(Clone, Debug, Default)]
pub struct Paths {
    /// oneDNN's; each is a peer of its own. Empty: where the system looks for `libdnnl`.
    pub onednn: Vec<PathBuf>,
    /// ONNX Runtime's. Absent: where the system looks for `libonnxruntime`.
    pub onnxruntime: Option<PathBuf>,
}

/// Names that [`find`] knows.
pub const NAMES: &[&str] = &[onednn::NAME];

/// The peers of some names; `all` is every one. A peer that cannot be had here is an engine too: it
/// refuses every convolution with the reason.
///
/// # Errors
/// A name that is not known; a library that was given by its file and cannot be used.
pub fn find(names: &[String], paths: &Paths) -> Result<Vec<Box<dyn Engine>>, String> {
    for name in names {
        if name != "all" && !NAMES.contains(&name.as_str()) {
            return Err(format!("`{name}` is no peer; known are all, {}", NAMES.join(", ")));
        }
    }
    let wanted = |name: &str| names.iter().any(|asked| asked == name || asked == "all");
    let mut engines = Vec::new();
    if wanted(onednn::NAME) {
        engines.extend(onednn::find(&paths.onednn)?);
    }
    Ok(engines)
}
