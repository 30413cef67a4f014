//! `convbench report` as its users call it: files in, files out, and what is refused.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

fn convbench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_convbench")).args(args).stdin(Stdio::null()).output().unwrap()
}

/// A folder that goes when the test ends well.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("convbench-report-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// Rows of a tiny layer.
    fn rows(&self, name: &str) -> String {
        let path = self.path(name);
        let command = ["bench", "--spec", "c2 h6 w6 o4 k3 p1", "--kernel", "auto,im2col-gemm,pointwise"];
        let output = convbench(&[&command[..], &["--time", "0.005", "--roofs", "--json", &path]].concat());
        assert!(output.status.success(), "{output:?}");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

fn refusal(args: &[&str]) -> String {
    let output = convbench(args);
    let message = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!((output.status.code(), message.lines().count()), (Some(2), 1), "{args:?}: {message}");
    message
}

#[test]
fn report_writes_three_files() {
    let folder = Folder::new("files");
    let rows = folder.rows("rows.jsonl");
    let target = folder.path("new/report");
    let output = convbench(&["report", &rows, "--output", &target]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("auto is fastest on") && text.contains("index.html"), "{text}");
    let mut names: Vec<String> = fs::read_dir(&target)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["index.html", "report.md", "rows.csv"]);
    let page = fs::read_to_string(folder.path("new/report/index.html")).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
    assert!(page.contains("n1 c2 h6 w6 o4 k3x3 s1x1 p1,1,1,1 d1x1 g1") && page.contains("Roofline"));
    let table = fs::read_to_string(folder.path("new/report/rows.csv")).unwrap();
    // A head, and rows of auto, im2col-gemm, pointwise and auto again.
    assert_eq!(table.lines().count(), 5);
    // Again, over what is there.
    assert!(convbench(&["report", &rows, &rows, "--output", &target]).status.success());
    let page = fs::read_to_string(folder.path("new/report/index.html")).unwrap();
    assert!(page.contains("4 rows were measured again"));
}

#[test]
fn report_refuses_bad_input_and_leaves_no_file() {
    let folder = Folder::new("refuses");
    let rows = folder.rows("rows.jsonl");
    let text = fs::read_to_string(&rows).unwrap();
    let target = folder.path("report");
    let bad = folder.path("bad.jsonl");
    let cases = [
        (String::new(), "bad.jsonl: holds no row"),
        (text[..text.len() - 30].to_owned(), "bad.jsonl:4: is no row"),
        (text.replacen("\"schema\":1", "\"schema\":99", 1), "bad.jsonl:1: has version 99"),
        (text.replacen("\"count\":1", "\"cuont\":1", 1), "bad.jsonl:1: unknown field `cuont`"),
    ];
    for (content, want) in cases {
        fs::write(&bad, content).unwrap();
        let message = refusal(&["report", &rows, &bad, "--output", &target]);
        assert!(message.contains(want), "{message}");
        assert!(!PathBuf::from(&target).exists());
    }
    assert!(refusal(&["report", &folder.path("none"), "--output", &target]).contains("none"));
    assert!(refusal(&["report", "--output", &target]).contains("RESULTS"));
    assert!(refusal(&["report", &rows]).contains("--output"));
    // A file where the folder should be.
    assert!(refusal(&["report", &rows, "--output", &rows]).contains("rows.jsonl"));
    assert_eq!(fs::read_to_string(&rows).unwrap(), text);
}
