//! Analyses of known rows, and pages that hold together whatever the rows say.

use std::sync::Arc;

use super::document::Warning;
use super::results::{Factor, Results, Source};
use super::standings::{Standings, noise};
use super::{costs, html, ladder, markdown, networks, peers, refusals, scaling, sections, text};
use crate::engine::{OURS, Ours};
use crate::layers::Layer;
use crate::measure::Sample;
use crate::provenance::Run;
use crate::record::{Clock, Record, Role, Roofs, Status};
use crate::statistics::Statistics;

const SPEC: &str = "n2 c4 h8 w8 o8 k3 p1";

/// A row of a layer `name`, by an engine, with a median in nanoseconds.
fn row(name: &str, id: &str, median: f64) -> Record {
    let spec = SPEC.parse().unwrap();
    let layer = Layer { name: name.to_owned(), network: "net".to_owned(), count: 2, spec };
    let pool = crate::pinning::Pool::new(1).unwrap();
    let naive = Ours::new(kernels::kernel("naive").unwrap());
    let mut row = crate::bench::blank(&layer, &naive, &pool, Clock::Warm, None);
    (row.requested, row.kernel) = (id.to_owned(), id.to_owned());
    if id.starts_with("peer") {
        row.engine = id.to_owned();
    }
    row.set_times(&Statistics::of(&[Sample { round: 0, plan: 0, ns: median }]).unwrap(), &spec, None);
    row.set_roofs(Roofs { peak: 200.0, bandwidth: 50.0, level: "L2" });
    (row.workspace_bytes, row.packed_bytes, row.plan_ns) = (Some(1000), Some(1200), Some(50.0));
    row
}

/// With how it compares with a baseline.
fn against(row: Record, baseline: &str, ratio: f64, low: f64, high: f64) -> Record {
    let baseline = Some(baseline.to_owned());
    Record { baseline, ratio: Some(ratio), ratio_low: Some(low), ratio_high: Some(high), ..row }
}

fn again(row: Record) -> Record {
    let own = row.requested.clone();
    let (low, high) = (row.ratio_low.unwrap_or(1.0), row.ratio_high.unwrap_or(1.0));
    let ratio = row.ratio.unwrap_or(1.0);
    Record { role: Role::Aa, ..against(row, &own, ratio, low, high) }
}

fn refused(name: &str, id: &str, status: Status, reason: &str) -> Record {
    let mut row = row(name, id, 1.0);
    (row.median_ns, row.gflops, row.status, row.reason) = (None, None, status, Some(reason.to_owned()));
    row
}

fn results(rows: Vec<Record>) -> Results {
    Results::of(vec![Source {
        name: "rows.jsonl".to_owned(),
        rows,
        networks: Vec::new(),
        interrupted: false,
    }])
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9 * b.abs()
}

#[test]
fn noise_is_the_ninetieth_percentile_of_second_rows() {
    let mut rows = Vec::new();
    for layer in 0..10 {
        let (name, apart) = (format!("l{layer}"), f64::from(layer) / 100.0);
        let second = row(&name, "direct", 100.0);
        rows.push(row(&name, "direct", 100.0));
        rows.push(again(against(second, "", 1.0 - apart, 0.95 - apart, 1.03 - apart)));
    }
    let noise = noise(&results(rows), 0).unwrap();
    assert_eq!((noise.rows, noise.inside, noise.intervals), (10, 4, 10));
    assert!((noise.floor - 0.08).abs() < 1e-12, "{noise:?}");
    assert_eq!(super::standings::noise(&results(vec![row("a", "direct", 1.0)]), 0), None);
}

#[test]
fn ranks_by_layers_won_within_the_noise() {
    let second = against(row("a", "direct", 103.0), "", 100.0 / 103.0, 0.9, 1.1);
    let rows = vec![
        row("a", "direct", 100.0),
        again(second),
        row("a", "gemm", 102.0),
        row("a", "slow", 400.0),
        row("b", "direct", 200.0),
        row("b", "gemm", 100.0),
    ];
    let results = results(rows);
    let of = Standings::of(&results, 0);
    let names: Vec<&str> = of.standings.iter().map(|s| results.id(s.contestant)).collect();
    assert_eq!(names, ["gemm", "direct", "slow"]);
    let won: Vec<usize> = of.standings.iter().map(|s| s.fastest).collect();
    assert_eq!((won.as_slice(), of.common.as_slice()), ([2, 1, 0].as_slice(), [0, 1].as_slice()));
    assert!(close(of.standings[1].common.unwrap().of_fastest, 0.5f64.sqrt()));
    // It ran one layer of two: it stands beside nobody.
    assert_eq!((of.standings[2].common, of.standings[2].own.of_fastest), (None, 0.25));
}

/// A pair's ratio is taken where there is one, from either side; else that of the medians.
#[test]
fn ratios_are_those_of_pairs() {
    let rows = vec![
        row("a", "gemm", 300.0),
        against(row("a", "auto", 100.0), "gemm", 3.2, 3.1, 3.3),
        against(row("a", "peer", 200.0), "auto", 0.4, 0.3, 0.5),
        row("b", "auto", 100.0),
        row("b", "peer", 100.0),
        row("c", "auto", 100.0),
    ];
    let results = results(rows);
    assert_eq!(results.baseline.map(|base| results.id(base)), Some("gemm"));
    let duels = peers::duels(&results, 0).unwrap();
    assert_eq!(duels.duels.len(), 2);
    let factor = duels.duels[0].theirs[0].1.unwrap();
    assert!(close(factor.ratio, 2.5), "{factor:?}");
    assert!(close(factor.interval.unwrap().0, 2.0) && close(factor.interval.unwrap().1, 1.0 / 0.3));
    let (mean, layers) = duels.means.each[0].unwrap();
    assert!(close(mean, 2.5f64.sqrt()) && layers == 2);
    assert_eq!(duels.means.best, duels.means.each[0]);
    assert_eq!(duels.classes.len(), 1);
    let of = Standings::of(&results, 0);
    let auto = of.champion(&results).unwrap();
    assert!(close(auto.own.over_baseline.unwrap().0, 3.2) && auto.own.over_baseline.unwrap().1 == 1);
}

/// A row's pairs with `auto` are taken where it has them, even if the baseline is another.
#[test]
fn ratios_of_auto_are_those_of_pairs_too() {
    let with_auto = |row: Record, ratio: f64| {
        let (low, high) = (Some(ratio - 0.5), Some(ratio + 0.5));
        Record { auto_ratio: Some(ratio), auto_ratio_low: low, auto_ratio_high: high, ..row }
    };
    let peer = || with_auto(against(row("a", "peer", 200.0), "gemm", 1.4, 1.3, 1.5), 2.5);
    let factor_of = |ours: Record, peer: Record| {
        let results = results(vec![row("a", "gemm", 300.0), ours, peer]);
        peers::duels(&results, 0).unwrap().duels[0].theirs[0].1.unwrap()
    };
    let auto = || against(row("a", "auto", 100.0), "gemm", 3.2, 3.1, 3.3);
    assert_eq!(factor_of(auto(), peer()), Factor { ratio: 2.5, interval: Some((2.0, 3.0)) });
    // Medians where another stands for ours, another run took the pairs, or there were none.
    let medians = Factor { ratio: 2.0, interval: None };
    assert_eq!(factor_of(row("a", "direct", 100.0), peer()), medians);
    let run = Some(Arc::new(Run::new("another".to_owned())));
    assert_eq!(factor_of(auto(), Record { run, ..peer() }), medians);
    assert_eq!(factor_of(auto(), with_auto(peer(), f64::NAN)), medians);
}

/// Each mean is over the layers that both ran; the best of the others is another one on each layer.
#[test]
fn means_are_of_pairs() {
    let times = [("a", 100.0, 400.0, 200.0), ("b", 100.0, 100.0, 900.0)];
    let mut rows: Vec<Record> = Vec::new();
    for (layer, auto, one, two) in times {
        rows.extend([row(layer, "auto", auto), row(layer, "peer", one)]);
        rows.push(Record { engine: "peer2".to_owned(), ..row(layer, "peer2", two) });
    }
    rows.extend([row("c", "auto", 100.0), row("c", "peer", 50.0)]);
    let results = results(rows);
    let means = peers::duels(&results, 0).unwrap().means;
    let is = |mean: peers::Mean, want: f64, layers| mean.is_some_and(|(m, n)| close(m, want) && n == layers);
    assert!(is(means.each[0], (4.0f64 * 1.0 * 0.5).cbrt(), 3), "{means:?}");
    assert!(is(means.each[1], (2.0f64 * 9.0).sqrt(), 2), "{means:?}");
    assert!(is(means.best, (2.0f64 * 1.0 * 0.5).cbrt(), 3), "{means:?}");
}

#[test]
fn threads_and_batches_scale() {
    let of = |threads: usize, id: &str, median: f64| Record { threads, ..row("a", id, median) };
    let results_of =
        results(vec![of(1, "auto", 100.0), of(2, "auto", 50.0), of(4, "auto", 50.0), of(1, "x", 1.0)]);
    let all = scaling::threads(&results_of);
    assert_eq!((all.len(), all[0].fewest, all[0].more.as_slice()), (1, 1, [2, 4].as_slice()));
    let (gain, layers) = all[0].means[0].1[1].unwrap();
    assert_eq!((gain.speed_up, gain.efficiency, layers, all[0].means.len()), (2.0, 0.5, 1, 1));
    assert_eq!(scaling::batches(&results_of), []);
    let batch = |n: usize| Record { spec: SPEC.replace("n2", &format!("n{n}")), ..row("a", "auto", 100.0) };
    let found = results(vec![batch(8), batch(1)]);
    let batches = scaling::batches(&found);
    assert_eq!((batches.len(), batches[0].batches.as_slice()), (1, [1, 8].as_slice()));
    assert_eq!(found.cases.iter().map(|case| case.label.as_str()).collect::<Vec<_>>(), ["a n8", "a n1"]);
}

#[test]
fn networks_need_every_layer() {
    let results = results(vec![
        against(row("a", "auto", 100.0), "gemm", 3.0, 3.0, 3.0),
        row("a", "gemm", 300.0),
        row("b", "auto", 50.0),
        row("b", "gemm", 100.0),
        row("b", "part", 1.0),
    ]);
    let all = networks::networks(&results);
    assert_eq!((all.len(), all[0].batch, all[0].layers), (1, Some(2), 2));
    // Each layer twice.
    let totals: Vec<_> = all[0].engines.iter().map(|t| (results.id(t.contestant), t.ns, t.layers)).collect();
    assert_eq!(totals, [("auto", Some(300.0), 2), ("gemm", Some(800.0), 2), ("part", None, 1)]);
    assert!(close(all[0].engines[0].over_baseline.unwrap(), 800.0 / 300.0));
}

#[test]
fn networks_miss_the_layers_that_they_are_known_to_have() {
    let missing = |layers: &[&str]| {
        let row = |name: &&str| Record { network: "lenet5".to_owned(), ..row(name, "auto", 1.0) };
        networks::networks(&results(layers.iter().map(row).collect())).remove(0).missing
    };
    assert_eq!(missing(&["c1"]), ["c3", "c5"]);
    assert_eq!(missing(&["c1", "c3", "c5"]), Vec::<String>::new());
    // A file of that name is another network.
    assert_eq!(missing(&["c1", "mine"]), Vec::<String>::new());
}

#[test]
fn costs_are_counted() {
    let spec = "n2 c4 h8 w8 o8 k3 p1 g2".parse().unwrap();
    assert_eq!(costs::im2col_bytes(&spec), Some(2 * 9 * 64 * 4));
    let (fast, base) = (row("a", "auto", 100.0), row("a", "gemm", 300.0));
    let planned = |ns: f64| Record { plan_ns: Some(ns), ..fast.clone() };
    assert_eq!(costs::paid(&planned(1050.0), &base), Some(costs::Paid::After(5)));
    assert_eq!(costs::paid(&planned(1.0), &base), Some(costs::Paid::After(1)));
    assert_eq!(costs::paid(&base, &fast), Some(costs::Paid::Never));
    let cold = Record { clock: Clock::Cold, ..row("a", "auto", 150.0) };
    let cold = costs::cold(&results(vec![fast, cold]));
    assert_eq!((cold.len(), cold[0].means[0].1), (1, 1.5));
}

#[test]
fn a_ladder_says_what_each_step_buys() {
    let step =
        |id: &str, kernel: &str, median: f64| Record { kernel: kernel.to_owned(), ..row("a", id, median) };
    let rows = vec![
        step("naive", "naive", 1000.0),
        step("direct/wide", "direct/wide", 100.0),
        step("direct", "direct/avx2", 50.0),
        step("auto", "winograd-f4/avx2", 1.0),
        step("winograd-f4", "winograd-f4/avx2", 25.0),
        Record { layer: "b".to_owned(), ..step("direct/wide", "direct/wide", 100.0) },
    ];
    let ladders = ladder::ladders(&results(rows.clone()), 0);
    assert_eq!((ladders.len(), ladders[0].layers), (1, 1));
    let gains: Vec<_> =
        ladders[0].rungs.iter().map(|(name, _, gain)| (*name, gain.map(f64::round))).collect();
    let want =
        [("naive", None), ("direct/wide", Some(10.0)), ("direct/avx2", Some(2.0)), ("winograd", Some(2.0))];
    assert_eq!(gains, want);
    assert_eq!(ladder::ladders(&results(rows[..2].to_vec()), 0), []);
}

#[test]
fn later_rows_replace_earlier_ones() {
    let source = |name: &str, median: f64| Source {
        name: name.to_owned(),
        rows: vec![row("a", "auto", median)],
        networks: Vec::new(),
        interrupted: false,
    };
    let results = Results::of(vec![source("one", 100.0), source("two", 50.0)]);
    assert_eq!((results.replaced, results.timed(0, 0, 0).unwrap().1), (1, 50.0));
    let warnings = sections::document(&results).warnings;
    assert!(
        warnings.iter().any(|warning| warning.text.starts_with("1 row was measured again")),
        "{warnings:?}"
    );
}

#[test]
fn rows_of_several_accuracies_and_stores_are_told() {
    let asked = |id: &str, accuracy: &str, stores: &str| Record {
        accuracy: Some(accuracy.to_owned()),
        stores: Some(stores.to_owned()),
        ..row("a", id, 1.0)
    };
    let peer = Record { accuracy: None, stores: None, ..row("a", "peer", 1.0) };
    let told = |rows: &[Record]| -> Vec<String> {
        let warnings = sections::document(&results(rows.to_vec())).warnings;
        warnings.iter().map(|warning| warning.text.clone()).filter(|text| text.contains("several")).collect()
    };
    let usual = [asked("auto", "standard", "cached"), peer, asked("direct", "standard", "cached")];
    assert!(told(&usual).is_empty());
    let with = |row: Record| told(&[&usual[..], &[row]].concat());
    assert_eq!(
        with(asked("pointwise", "relaxed", "cached")),
        ["Rows of several accuracies are side by side: standard, relaxed."]
    );
    assert_eq!(
        with(asked("pointwise", "standard", "streaming")),
        ["Rows of several kinds of stores are side by side: cached, streaming."]
    );
    // What was replaced is not there any more.
    assert!(told(&[asked("auto", "standard", "cached"), asked("auto", "relaxed", "streaming")]).is_empty());
}

/// Rows of every kind, with names that try to be markup.
fn hostile() -> Results {
    let name = "<script>alert(1)</script>|`\"'&";
    let run = Run::new(format!("convbench {name}"));
    let mut rows = vec![
        against(row(name, "auto", 100.0), "gemm", 3.0, 2.9, 3.1),
        again(row(name, "auto", 101.0)),
        row(name, "gemm", 300.0),
        row(name, name, 200.0),
        refused(name, "peer<b>", Status::Wrong, "<i>wrong</i>"),
        refused(name, "peer2", Status::Unavailable, "no `lib`"),
        refused(name, "pointwise", Status::Unsupported, &format!("pointwise does not support 3x3 ({SPEC})")),
        Record { spec: "no spec".to_owned(), ..row("odd", "auto", 1.0) },
        Record { median_ns: Some(0.0), gflops: Some(f64::MAX), ..row("zero", "auto", 1.0) },
        Record { threads: 2, ..row(name, "auto", 60.0) },
        Record { clock: Clock::Cold, ..row(name, "auto", 120.0) },
    ];
    for row in &mut rows {
        row.run = Some(Arc::new(run.clone()));
    }
    Results::of(vec![Source { name: name.to_owned(), rows, networks: Vec::new(), interrupted: true }])
}

/// Elements close in the order in which they opened; gives their names.
fn elements(page: &str) -> Vec<String> {
    const VOID: [&str; 3] = ["meta", "br", "!DOCTYPE"];
    let mut open: Vec<String> = Vec::new();
    let mut seen = Vec::new();
    let mut rest = page;
    while let Some(start) = rest.find('<') {
        rest = &rest[start + 1..];
        let end = rest.find('>').unwrap_or_else(|| panic!("unclosed tag: {}", &rest[..rest.len().min(80)]));
        let (tag, after) = (&rest[..end], &rest[end + 1..]);
        assert!(!tag.contains('<'), "< within a tag: {tag}");
        assert_eq!(tag.matches('"').count() % 2, 0, "quotes: {tag}");
        let name = tag.trim_start_matches('/').split([' ', '/', '\n']).next().unwrap().to_owned();
        if tag.starts_with('/') {
            assert_eq!(open.pop().as_ref(), Some(&name), "closed out of order");
        } else {
            seen.push(name.clone());
            if !VOID.contains(&name.as_str()) && !tag.ends_with('/') {
                open.push(name.clone());
            }
        }
        rest = after;
        if matches!(name.as_str(), "style" | "script") && !tag.starts_with('/') {
            rest = &rest[rest.find(&format!("</{name}")).unwrap()..];
        }
    }
    assert_eq!(open, Vec::<String>::new(), "left open");
    seen
}

#[test]
fn a_page_is_well_formed_and_loads_nothing() {
    let page = html::page(&sections::document(&hostile()));
    let elements = elements(&page);
    assert_eq!(elements.iter().filter(|name| *name == "script").count(), 1, "a row's name became a script");
    for name in ["i>wrong", "b>"] {
        assert!(!page.contains(&format!("<{name}</")), "{name}");
    }
    for loads in ["http", "src=", "url(", "@import", "<link", "<img"] {
        assert!(!page.contains(loads), "{loads}");
    }
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    // Every link leads somewhere.
    for link in page.split("href=\"#").skip(1) {
        let id = link.split('"').next().unwrap();
        assert!(page.contains(&format!("id=\"{id}\"")), "#{id}");
    }
    for bad in ["NaN", "inf%", "inf\""] {
        assert!(!page.contains(bad), "{bad}");
    }
}

#[test]
fn both_formats_say_the_same() {
    let document = sections::document(&hostile());
    let (page, text) = (html::page(&document), markdown::page(&document));
    for section in &document.sections {
        assert!(page.contains(&format!("<h2>{}</h2>", section.title)), "{}", section.title);
        assert!(text.contains(&format!("\n## {}\n", section.title)), "{}", section.title);
    }
    let wrong = document.warnings.iter().find(|Warning { wrong, .. }| *wrong).unwrap();
    assert_eq!(wrong.text, "1 result is WRONG: see the refusals.");
    assert!(page.contains(&wrong.text) && text.contains(&wrong.text));
    assert!(document.warnings.iter().any(|warning| warning.text.contains("was stopped before")));
    // Indented lines are code, which means itself.
    assert!(!text.lines().any(|line| !line.starts_with("    ") && line.contains("<script>")), "{text}");
    // Each row of a table has as many cells as its head, escaped bars aside.
    let mut width = None;
    for line in text.lines() {
        let cells = line.replace("\\|", "").matches('|').count();
        match (cells, width) {
            (0, _) => width = None,
            (_, None) => width = Some(cells),
            (_, Some(width)) => assert_eq!(cells, width, "{line}"),
        }
    }
}

#[test]
fn refusals_are_grouped_without_their_specs() {
    let all = refusals::refusals(&hostile());
    assert_eq!(
        all.iter().map(|refusal| refusal.status).collect::<Vec<_>>(),
        [Status::Wrong, Status::Unavailable, Status::Unsupported]
    );
    let spec = results(vec![row("a", "auto", 1.0)]).cases[0].spec_text.clone();
    let reason = |text: &str| refusals::short(text, "pointwise", &spec).to_owned();
    assert_eq!(reason(&format!("pointwise does not support 3x3 ({spec})")), "does not support 3x3");
    assert_eq!(reason("something else"), "something else");
}

#[test]
fn rows_become_flat_columns() {
    let bytes = super::csv::table(&hostile()).unwrap();
    let mut reader = ::csv::Reader::from_reader(&bytes[..]);
    let heads = reader.headers().unwrap().clone();
    let column = |name: &str| heads.iter().position(|head| head == name).unwrap_or_else(|| panic!("{name}"));
    let rows: Vec<::csv::StringRecord> = reader.records().collect::<Result<_, _>>().unwrap();
    assert_eq!((rows.len(), &rows[0][column("median_ns")], &rows[1][column("role")]), (11, "100.0", "aa"));
    assert_eq!(&rows[0][column("layer")], "<script>alert(1)</script>|`\"'&");
    assert!(rows[0][column("run_rustc")].starts_with("rustc ") && rows[4][column("median_ns")].is_empty());
    assert_eq!(rows[0][column("run_caches")].split(' ').count(), 3);
    // Every field of a row and of a run is a column.
    let count = |value: serde_json::Value| value.as_object().unwrap().len();
    let run = Run::new(String::new());
    let fields = count(serde_json::to_value(row("a", "auto", 1.0)).unwrap()) - 1;
    assert_eq!(heads.len(), 1 + fields + count(serde_json::to_value(run).unwrap()));
}

#[test]
fn tables_line_up() {
    let rows = vec![vec!["a".to_owned(), "10 µs".to_owned()], vec!["long".to_owned(), "1 s".to_owned()]];
    assert_eq!(text::text_table(&["k", "time"], &rows), "k      time\na     10 µs\nlong    1 s\n");
    let ranking = text::ranking_text(&[row("a", "direct", 100.0), row("a", "gemm", 200.0)]);
    assert!(ranking.starts_with("1 thread, warm caches  layers  fastest on"), "{ranking}");
    assert!(ranking.contains("50 %"), "{ranking}");
    assert_eq!(row("a", "direct", 1.0).engine, OURS);
}
