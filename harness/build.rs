//! What the program was built from, for the records it writes.

use std::env;
use std::process::Command;

fn output(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// The version of a crate that this workspace is built with.
fn locked_version(name: &str) -> Option<String> {
    let lock = std::fs::read_to_string("../Cargo.lock").ok()?;
    let (_, after) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
    Some(after.split_once('"')?.0.to_owned())
}

fn main() {
    let unknown = || "unknown".to_owned();
    let rustc = env::var("RUSTC").ok().and_then(|rustc| output(&rustc, &["--version"]));
    println!("cargo::rustc-env=HARNESS_RUSTC={}", rustc.unwrap_or_else(unknown));
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default().replace('\u{1f}', " ");
    println!("cargo::rustc-env=HARNESS_FLAGS={flags}");
    let profile = env::var("PROFILE").unwrap_or_else(|_| unknown());
    println!("cargo::rustc-env=HARNESS_PROFILE={profile}");
    let revision = output("git", &["rev-parse", "--short=10", "HEAD"]).map(|revision| {
        let changed = output("git", &["status", "--porcelain", "--untracked-files=no"]);
        if changed.is_some_and(|changed| !changed.is_empty()) { revision + " with changes" } else { revision }
    });
    println!("cargo::rustc-env=HARNESS_REVISION={}", revision.unwrap_or_else(unknown));
    for name in ["rten", "tract-onnx", "candle-core"] {
        let variable = name.to_uppercase().replace('-', "_");
        println!("cargo::rustc-env=HARNESS_{variable}={}", locked_version(name).unwrap_or_else(unknown));
    }
    for path in ["src", "build.rs", "../Cargo.lock", "../kernels/src", "../.git/HEAD", "../.git/logs/HEAD"] {
        if std::path::Path::new(path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}
