//! The suite about itself: no file of tests or benches that cargo does not know, no word that is not the
//! document's.

use std::fs;
use std::path::PathBuf;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The documentation that opens `kernels`.
fn front_page() -> String {
    let source = read("kernels/src/lib.rs");
    source.lines().filter(|line| line.starts_with("//!")).collect::<Vec<_>>().join("\n")
}

/// A file of `tests/` or `benches/` that harness does not declare would silently never be run.
#[test]
fn every_test_and_bench_is_declared() {
    let manifest = read("harness/Cargo.toml");
    let mut files = 0;
    for folder in ["tests", "benches"] {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.file_name().unwrap().to_str().unwrap();
                let line = format!("path = \"../{folder}/{name}\"");
                assert!(manifest.contains(&line), "{folder}/{name} is not declared in harness/Cargo.toml");
                files += 1;
            }
        }
    }
    assert!(files >= 9, "{files}");
}

/// The front page names every kernel.
#[test]
fn documents_name_every_kernel() {
    let (front, readme) = (front_page(), read("README.md"));
    for kernel in kernels::kernels().filter(|kernel| kernel.isa().is_none()) {
        let (family, variant) = kernel.id().split_once("-f").map_or((kernel.id(), ""), |(a, b)| (a, b));
        assert!(front.contains(family) && front.contains(variant), "{} in kernels/src/lib.rs", kernel.id());
        assert!(readme.contains(&format!("`{family}`")), "{} in README.md", kernel.id());
    }
}

/// Every feature of `kernels` is in its front page.
#[test]
fn documents_name_every_feature() {
    let manifest = read("kernels/Cargo.toml");
    let features = manifest.split("[features]").nth(1).unwrap().split("\n[").next().unwrap();
    let front = front_page();
    for line in features.lines().filter(|line| line.contains('=') && !line.starts_with('#')) {
        let feature = line.split('=').next().unwrap().trim();
        assert!(feature == "default" || front.contains(&format!("`{feature}`")), "{feature}");
    }
}
