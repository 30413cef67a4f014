//! What `convbench` makes of results: `compare` and `regret`, and what both refuse.

mod common;

use std::fs;
use std::sync::OnceLock;

use serde_json::Value;

use common::{Folder, convbench, good, refusal, stderr};

/// A measured file's text.
fn measured() -> &'static str {
    static MEASURED: OnceLock<String> = OnceLock::new();
    MEASURED.get_or_init(|| {
        let folder = Folder::new("results");
        let path = folder.path("measured.jsonl");
        let spec = ["bench", "--spec", "c8 h12 w12 o8 k3 p1", "--kernel", "auto,direct,im2col-gemm,naive"];
        good(&[&spec[..], &["--time", "0.05", "--json", &path]].concat());
        changed(&fs::read_to_string(path).unwrap(), calm)
    })
}

/// A row as a quiet machine would have measured it: how much this one is loaded decides no test.
fn calm(row: &mut Value) {
    let median = row["median_ns"].as_f64().unwrap();
    (row["ci_low_ns"], row["ci_high_ns"]) = ((median * 0.99).into(), (median * 1.01).into());
    if row["role"] == "aa" {
        for (field, ratio) in [("ratio", 1.0), ("ratio_low", 0.99), ("ratio_high", 1.01)] {
            row[field] = ratio.into();
        }
    }
}

/// Each row of a text with what a function makes of it.
fn changed(text: &str, change: impl Fn(&mut Value)) -> String {
    let line = |line: &str| {
        let mut row: Value = serde_json::from_str(line).unwrap();
        change(&mut row);
        row.to_string() + "\n"
    };
    text.lines().map(line).collect()
}

/// The measured rows, each with what a function makes of it.
fn each_row(change: impl Fn(&mut Value)) -> String {
    changed(measured(), change)
}

fn slower(row: &mut Value, factor: f64) {
    for field in ["median_ns", "min_ns", "ci_low_ns", "ci_high_ns"] {
        row[field] = (row[field].as_f64().unwrap() * factor).into();
    }
}

#[test]
fn compare_fails_on_what_got_slower() {
    let folder = Folder::new("results-slower");
    let base = folder.write("base", measured());
    assert!(good(&["compare", &base, &base]).contains("0 faster, 0 slower, 4 ties"));

    let twice = each_row(|row| {
        if row["requested"] == "direct" {
            slower(row, 2.0);
        }
    });
    let worse = folder.write("worse", twice);
    let output = convbench(&["compare", &base, &worse]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("1 of 4 rows are slower by more than 5 %"), "{}", stderr(&output));
    // The other way round it is faster; with a wide threshold slower is no failure.
    good(&["compare", &worse, &base]);
    good(&["compare", &base, &worse, "--threshold", "60"]);
    let output = convbench(&["compare", &base, &worse, "--json"]);
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    let direct = rows.as_array().unwrap().iter().find(|row| row["requested"] == "direct").unwrap();
    assert_eq!(direct["verdict"], "slower");
    assert!((direct["speed"].as_f64().unwrap() - 0.5).abs() < 1e-9);
}

#[test]
fn compare_refuses_unlike_machines_until_told() {
    let folder = Folder::new("results-unlike");
    let base = folder.write("base", measured());
    let other = folder.write("other", each_row(|row| row["run"]["cores"] = 64.into()));
    assert!(refusal(&["compare", &base, &other]).contains("the machines are unlike: cores"));
    good(&["compare", &base, &other, "--any-machine"]);
}

#[test]
fn bad_results_are_refused() {
    let folder = Folder::new("results-bad");
    let right = folder.write("right", measured());
    let cut = folder.write("cut", &measured()[..measured().len() / 2]);
    let newer = folder.write("newer", each_row(|row| row["schema"] = 9.into()));
    let unknown = folder.write("unknown", each_row(|row| row["colour"] = 1.into()));
    let none = folder.write("none", each_row(|row| row["layer"] = "other".into()));
    let before = folder.names("");
    for (bad, what) in [
        (cut.as_str(), "is no row of results"),
        (&newer, "has version 9"),
        (&unknown, "unknown field `colour`"),
        ("absent.jsonl", "absent.jsonl"),
        (&none, "no row of one run is in the other"),
    ] {
        assert!(refusal(&["compare", &right, bad]).contains(what), "{bad}");
    }
    assert!(refusal(&["regret", &cut]).contains("is no row of results"));
    assert!(refusal(&["compare", &right, &right, "--threshold=-1"]).contains("--threshold is -1"));
    assert_eq!(folder.names(""), before);
}

#[test]
fn regret_is_of_auto() {
    let folder = Folder::new("results-regret");
    let slow = each_row(|row| {
        if row["requested"] == "auto" {
            row["kernel"] = "other".into();
            slower(row, 3.0);
        }
    });
    let file = folder.write("slow", slow);
    let rows: Value = serde_json::from_str(&good(&["regret", &file, "--json"])).unwrap();
    assert!(rows[0]["regret"].as_f64().unwrap() > 1.0, "{rows}");
    let without = folder.write("without-auto", each_row(|row| row["requested"] = "direct".into()));
    assert!(refusal(&["regret", &without]).contains("no layer has both"));
    // What is to be measured means nothing where nothing is.
    for option in [["--spec", "c4 h9 w9 o4 k3"], ["--network", "lenet5"], ["--threads", "1"], ["--time", "1"]]
    {
        let message = refusal(&["regret", &file, option[0], option[1]]);
        assert!(message.contains(option[0]) && message.contains("cannot be used with"), "{message}");
    }
    assert!(good(&["regret", "--spec", "c4 h9 w9 o4 k3", "--time", "0.01"]).contains("regret of auto:"));
}
