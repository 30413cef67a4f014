//! What the tests of the command line have in common: running `convbench`, and a folder for its files.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// The program under test.
pub(crate) const CONVBENCH: &str = env!("CARGO_BIN_EXE_convbench");

/// `convbench` with arguments, yet to be run; it has nothing to read.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(CONVBENCH);
    command.args(args).stdin(Stdio::null());
    command
}

/// A run of `convbench`.
pub(crate) fn convbench(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// What a run says that succeeds.
pub(crate) fn good(args: &[&str]) -> String {
    let output = convbench(args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

/// The one line on stderr of a refusal; nothing is on stdout.
pub(crate) fn refusal(args: &[&str]) -> String {
    let output = convbench(args);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {message}");
    assert_eq!((message.lines().count(), stdout(&output).as_str()), (1, ""), "{args:?}: {message}");
    assert!(message.starts_with("convbench: "), "{args:?}: {message}");
    message
}

/// A folder that goes when the test ends well.
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// The name must be one test's alone.
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("convbench-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    /// The path of a file in it.
    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// Writes a file in it; its path.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// What is in it, or in a folder in it, in order.
    pub(crate) fn names(&self, inner: &str) -> Vec<String> {
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<String> = fs::read_dir(self.path(inner)).unwrap().map(name).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}
