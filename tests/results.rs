//! What `convbench` makes of results: `compare` and `regret`, and what both refuse.

use std::fs;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn convbench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_convbench")).args(args).stdin(Stdio::null()).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The one line of a refusal.
fn refusal(args: &[&str]) -> String {
    let output = convbench(args);
    let message = stderr(&output);
    assert_eq!((output.status.code(), message.lines().count()), (Some(2), 1), "{args:?}: {message}");
    message
}

/// A measured file, with what is to be changed in its text.
fn results(name: &str, change: impl Fn(String) -> String) -> String {
    static MEASURED: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let folder = std::env::temp_dir();
    let text = MEASURED.get_or_init(|| {
        let path = folder.join(format!("convbench-results-{}", std::process::id()));
        let spec = ["bench", "--spec", "c8 h12 w12 o8 k3 p1", "--kernel", "auto,direct,im2col-gemm,naive"];
        let output = convbench(&[&spec[..], &["--time", "0.05", "--json", path.to_str().unwrap()]].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        let text = fs::read_to_string(&path).unwrap();
        fs::remove_file(path).unwrap();
        text
    });
    let path = folder.join(format!("convbench-results-{}-{name}", std::process::id()));
    fs::write(&path, change(text.clone())).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Each row with what a function makes of it.
fn each_row(text: &str, change: impl Fn(&mut Value)) -> String {
    let line = |line: &str| {
        let mut row: Value = serde_json::from_str(line).unwrap();
        change(&mut row);
        row.to_string() + "\n"
    };
    text.lines().map(line).collect()
}

fn slower(row: &mut Value, factor: f64) {
    for field in ["median_ns", "min_ns", "ci_low_ns", "ci_high_ns"] {
        row[field] = (row[field].as_f64().unwrap() * factor).into();
    }
}

#[test]
fn compare_fails_on_what_got_slower() {
    let base = results("base", |text| text);
    let same = convbench(&["compare", &base, &base]);
    assert!(same.status.success(), "{}", stderr(&same));
    assert!(String::from_utf8_lossy(&same.stdout).contains("0 faster, 0 slower, 4 ties"));

    let twice = |requested: &'static str| {
        move |text: String| {
            each_row(&text, |row| {
                if row["requested"] == requested {
                    slower(row, 2.0);
                }
            })
        }
    };
    let worse = results("worse", twice("direct"));
    let output = convbench(&["compare", &base, &worse]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("1 of 4 rows are slower by more than 5 %"), "{}", stderr(&output));
    // The other way round it is faster; with a wide threshold slower is no failure.
    assert!(convbench(&["compare", &worse, &base]).status.success());
    assert!(convbench(&["compare", &base, &worse, "--threshold", "60"]).status.success());
    let rows: Value =
        serde_json::from_slice(&convbench(&["compare", &base, &worse, "--json"]).stdout).unwrap();
    let direct = rows.as_array().unwrap().iter().find(|row| row["requested"] == "direct").unwrap();
    assert_eq!(direct["verdict"], "slower");
    assert!((direct["speed"].as_f64().unwrap() - 0.5).abs() < 1e-9);
}

#[test]
fn compare_refuses_unlike_machines_until_told() {
    let base = results("like", |text| text);
    let other = results("unlike", |text| each_row(&text, |row| row["run"]["cores"] = 64.into()));
    assert!(refusal(&["compare", &base, &other]).contains("the machines are unlike: cores"));
    assert!(convbench(&["compare", &base, &other, "--any-machine"]).status.success());
}

#[test]
fn bad_results_are_refused() {
    let good = results("good", |text| text);
    let cut = results("cut", |text| text[..text.len() / 2].to_owned());
    let newer = results("newer", |text| each_row(&text, |row| row["schema"] = 9.into()));
    let unknown = results("unknown", |text| each_row(&text, |row| row["colour"] = 1.into()));
    let none = results("none", |text| each_row(&text, |row| row["layer"] = "other".into()));
    for (bad, what) in [
        (cut.as_str(), "is no row of results"),
        (&newer, "has version 9"),
        (&unknown, "unknown field `colour`"),
        ("absent.jsonl", "absent.jsonl"),
        (&none, "no row of one run is in the other"),
    ] {
        assert!(refusal(&["compare", &good, bad]).contains(what), "{bad}");
    }
    assert!(refusal(&["regret", &cut]).contains("is no row of results"));
    assert!(refusal(&["compare", &good, &good, "--threshold=-1"]).contains("--threshold is -1"));
}

#[test]
fn regret_is_of_auto() {
    let file = results("regret", |text| {
        each_row(&text, |row| {
            if row["requested"] == "auto" {
                row["kernel"] = "other".into();
                slower(row, 3.0);
            }
        })
    });
    let rows: Value = serde_json::from_slice(&convbench(&["regret", &file, "--json"]).stdout).unwrap();
    assert!(rows[0]["regret"].as_f64().unwrap() > 1.0, "{rows}");
    let without = results("without-auto", |text| each_row(&text, |row| row["requested"] = "direct".into()));
    assert!(refusal(&["regret", &without]).contains("no layer has both"));
    // What is to be measured means nothing where nothing is.
    for option in [["--spec", "c4 h9 w9 o4 k3"], ["--network", "lenet5"], ["--threads", "1"], ["--time", "1"]]
    {
        let message = refusal(&["regret", &file, option[0], option[1]]);
        assert!(message.contains(option[0]) && message.contains("cannot be used with"), "{message}");
    }
    let measured = convbench(&["regret", "--spec", "c4 h9 w9 o4 k3", "--time", "0.01"]);
    assert!(String::from_utf8_lossy(&measured.stdout).contains("regret of auto:"), "{}", stderr(&measured));
}
