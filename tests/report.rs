//! `convbench report` as its users call it: files in, files out, and what is refused.

mod common;

use std::fs;
use std::path::Path;

use common::{Folder, good, refusal};

/// Rows of a tiny layer, in a file of a folder's; its path.
fn rows(folder: &Folder) -> String {
    let path = folder.path("rows.jsonl");
    let command = ["bench", "--spec", "c2 h6 w6 o4 k3 p1", "--kernel", "auto,im2col-gemm,pointwise"];
    good(&[&command[..], &["--time", "0.005", "--roofs", "--json", &path]].concat());
    path
}

#[test]
fn report_writes_three_files() {
    let folder = Folder::new("report");
    let rows = rows(&folder);
    let target = folder.path("new/report");
    let text = good(&["report", &rows, "--output", &target]);
    assert!(text.contains("auto is fastest on") && text.contains("index.html"), "{text}");
    assert_eq!(folder.names("new/report"), ["index.html", "report.md", "rows.csv"]);
    let page = fs::read_to_string(folder.path("new/report/index.html")).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
    assert!(page.contains("n1 c2 h6 w6 o4 k3x3 s1x1 p1,1,1,1 d1x1 g1") && page.contains("Roofline"));
    let table = fs::read_to_string(folder.path("new/report/rows.csv")).unwrap();
    // A head, and rows of auto, im2col-gemm, pointwise and auto again.
    assert_eq!(table.lines().count(), 5);
    // Again, over what is there.
    good(&["report", &rows, &rows, "--output", &target]);
    let page = fs::read_to_string(folder.path("new/report/index.html")).unwrap();
    assert!(page.contains("4 rows were measured again"));
}

#[test]
fn report_refuses_bad_input_and_leaves_no_file() {
    let folder = Folder::new("report-refusals");
    let rows = rows(&folder);
    let text = fs::read_to_string(&rows).unwrap();
    let target = folder.path("report");
    let cases = [
        (String::new(), "bad.jsonl: holds no row"),
        (text[..text.len() - 30].to_owned(), "bad.jsonl:4: is no row"),
        (text.replacen("\"schema\":2", "\"schema\":99", 1), "bad.jsonl:1: has version 99"),
        (text.replacen("\"count\":1", "\"cuont\":1", 1), "bad.jsonl:1: unknown field `cuont`"),
    ];
    for (content, want) in cases {
        let bad = folder.write("bad.jsonl", content);
        let message = refusal(&["report", &rows, &bad, "--output", &target]);
        assert!(message.contains(want), "{message}");
        assert!(!Path::new(&target).exists());
    }
    assert!(refusal(&["report", &folder.path("none"), "--output", &target]).contains("none"));
    assert!(refusal(&["report", "--output", &target]).contains("RESULTS"));
    assert!(refusal(&["report", &rows]).contains("--output"));
    // A file where the folder should be.
    assert!(refusal(&["report", &rows, "--output", &rows]).contains("rows.jsonl"));
    assert_eq!(fs::read_to_string(&rows).unwrap(), text);
}
