//! What was found, how engines stand, and where the figures come from.

use crate::machine;
use crate::record::{Role, Status};
use crate::report::document::{Block, Cell, Document, Fold, Mark, Section, Table, Warning};
use crate::report::numbers::{percent, times};
use crate::report::peers::duels;
use crate::report::results::{Origin, Results, time_of};
use crate::report::sections::{count, section, whole};
use crate::report::standings::{COVERAGE, Standings};

/// Load for each core from which on others must have disturbed a run.
const BUSY: f64 = 0.5;

/// Title, verdict and warnings.
pub(super) fn beginning(results: &Results, standings: &[Standings]) -> Document {
    let mut networks: Vec<&str> = results.cases.iter().map(|case| case.network.as_str()).collect();
    networks.sort_unstable();
    networks.dedup();
    networks.retain(|name| !name.is_empty());
    let of = if networks.is_empty() { String::new() } else { format!(" of {}", networks.join(", ")) };
    let layers = count(results.cases.len(), "layer");
    let whole = whole::names(results).join(", ");
    let title = match (results.cases.is_empty(), whole.is_empty()) {
        (_, true) => format!("Convolution kernels on {layers}{of}"),
        (true, false) => format!("Whole networks: {whole}"),
        (false, false) => format!("Convolution kernels on {layers}{of}, and whole networks: {whole}"),
    };
    let mut machines: Vec<String> = Vec::new();
    for run in results.origins.iter().flat_map(|origin| &origin.runs) {
        let gpu = run.gpu.as_ref().map_or_else(String::new, |gpu| format!(", {gpu}"));
        let machine = format!("{}, {}, {}{gpu}", run.cpu, count(run.cores, "core"), run.platform);
        if !machines.contains(&machine) {
            machines.push(machine);
        }
    }
    let settings: Vec<String> = results.settings.iter().map(|setting| setting.label()).collect();
    Document {
        title,
        subtitle: machines.into_iter().chain(settings).collect::<Vec<_>>().join(" · "),
        verdict: [whole::verdict(results), verdict(results, standings)].concat(),
        warnings: warnings(results),
        settings: results.settings.clone(),
        sections: Vec::new(),
    }
}

/// One line for each setting.
fn verdict(results: &Results, standings: &[Standings]) -> Vec<String> {
    let line = |of: &Standings| {
        let champion = of.champion(results)?;
        let id = results.id(champion.contestant);
        let mut means: Vec<String> = Vec::new();
        if let Some(duels) = duels(results, of.setting) {
            let words = |(mean, layers): (f64, usize), what: &str| {
                let on = if layers == of.layers { String::new() } else { format!(" on {layers}") };
                format!("{} {what}{on}", times(mean))
            };
            for (peer, mean) in duels.peers.iter().zip(&duels.means.each) {
                means.extend(mean.map(|mean| words(mean, results.id(*peer))));
            }
            if duels.peers.len() > 1 {
                means.extend(duels.means.best.map(|mean| words(mean, "the fastest of them")));
            }
        }
        if let (Some((mean, _)), Some(base)) = (champion.own.over_baseline, results.baseline)
            && base != champion.contestant
        {
            means.push(format!("{} {}", times(mean), results.id(base)));
        }
        let means = match means.is_empty() {
            true => String::new(),
            false => format!("; geometric mean {}", means.join(", ")),
        };
        let setting = results.settings[of.setting].label();
        let layers = count(of.layers, "layer");
        Some(format!("{setting}: {id} is fastest on {} of {layers}{means}", champion.fastest))
    };
    standings.iter().filter_map(line).collect()
}

fn warnings(results: &Results) -> Vec<Warning> {
    let mut warnings: Vec<String> = Vec::new();
    let main = || results.rows().filter(|(_, row)| row.role == Role::Main);
    let of_networks = results.networks.iter();
    let wrong = main().filter(|(_, row)| row.status == Status::Wrong).count()
        + of_networks.clone().filter(|row| row.status == Status::Wrong).count();
    let networks_timed = of_networks.clone().any(|row| row.median_ns.is_some());
    if !main().any(|(_, row)| time_of(row).is_some()) && !networks_timed {
        warnings.push("No row has a time.".to_owned());
    }
    for origin in &results.origins {
        let name = &origin.name;
        if origin.interrupted {
            warnings.push(format!("{name} was stopped before all rows were measured."));
        }
        if origin.unpinned > 0 {
            warnings.push(format!(
                "{name}: in {} of {} threads were not kept on cores of their own, so figures scatter.",
                origin.unpinned,
                count(origin.rows, "row")
            ));
        }
        for run in &origin.runs {
            if run.profile != "release" {
                warnings.push(format!("{name}: measured with a `{}` build.", run.profile));
            }
            if run.load > BUSY * run.cores as f64 {
                warnings.push(format!(
                    "{name}: the machine was busy when the run began (load {:.2} on {}).",
                    run.load,
                    count(run.cores, "core")
                ));
            }
        }
    }
    let runs: Vec<_> = results.origins.iter().flat_map(|origin| &origin.runs).collect();
    if let Some(unlike) = runs.iter().skip(1).find_map(|run| runs[0].unlike(run)) {
        warnings.push(format!("Rows of unlike machines are side by side: {unlike}."));
    }
    let accuracies = results.said(|row| row.accuracy.as_ref());
    let stores = results.said(|row| row.stores.as_ref());
    for (what, said) in [("accuracies", accuracies), ("kinds of stores", stores)] {
        if said.len() > 1 {
            warnings.push(format!("Rows of several {what} are side by side: {}.", said.join(", ")));
        }
    }
    if results.replaced > 0 {
        warnings.push(format!(
            "{} measured again in a later row or file; the later one counts.",
            if results.replaced == 1 {
                "1 row was".into()
            } else {
                format!("{} rows were", results.replaced)
            }
        ));
    }
    let wrong = (wrong > 0).then(|| Warning {
        text: format!("{} WRONG: see the refusals.", is_are(wrong, "result")),
        wrong: true,
    });
    wrong.into_iter().chain(warnings.into_iter().map(Warning::from)).collect()
}

fn is_are(n: usize, what: &str) -> String {
    format!("{} {}", count(n, what), if n == 1 { "is" } else { "are" })
}

/// How engines stand in each setting.
pub(super) fn ranking(results: &Results, standings: &[Standings]) -> Option<Section> {
    let blocks = standings.iter().filter(|of| !of.standings.is_empty()).map(|of| {
        let (table, line) = (standings_table(results, of), explanation(of));
        Block::Of(results.settings[of.setting], vec![Block::Table(table), Block::Text(line)])
    });
    let mut blocks: Vec<Block> = blocks.collect();
    if !blocks.is_empty() {
        let line = "An engine is among the fastest on a layer when it is behind by no more than the noise. Means are \
                    geometric: of the speed over the baseline's, taken in pairs of samples side by side, and of \
                    the speed over that of the fastest on each layer. The mean of \
                    an engine that covers few layers says how it does on those, no more.";
        blocks.insert(0, Block::Text(line.to_owned()));
    }
    section("ranking", "Ranking", blocks)
}

fn standings_table(results: &Results, of: &Standings) -> Table {
    let base = results.baseline.map(|base| results.id(base));
    let speed = base.map_or(String::new(), |base| format!("× {base}"));
    let common = of.common.len();
    let mut table = Table::new([
        "engine".to_owned(),
        "fastest on".to_owned(),
        format!("{speed}, {} in common", count(common, "layer")),
        "of the fastest there".to_owned(),
        format!("{speed}, own layers"),
        "of the fastest there".to_owned(),
        "ran".to_owned(),
    ]);
    if base.is_none() {
        // Nothing is said in these columns.
        (table.heads[2], table.heads[4]) = (String::new(), String::new());
    }
    let most = of.standings.iter().map(|standing| standing.fastest).max().unwrap_or(0);
    for standing in &of.standings {
        let best = standing.fastest == most && most > 0;
        let over = |means: Option<crate::report::standings::Means>| {
            means.and_then(|means| means.over_baseline).map(|(mean, _)| times(mean))
        };
        let share = |means: Option<crate::report::standings::Means>| means.map(|m| percent(m.of_fastest));
        table.rows.push(vec![
            name_cell(results, standing.contestant),
            Cell::marked(standing.fastest, if best { Mark::Best } else { Mark::None }),
            over(standing.common).into(),
            share(standing.common).into(),
            over(Some(standing.own)).into(),
            share(Some(standing.own)).into(),
            format!("{} of {}", standing.own.layers, of.layers).into(),
        ]);
    }
    table.without_empty_columns()
}

/// An engine's id and version.
fn name_cell(results: &Results, id: usize) -> Cell {
    let of = &results.contestants[id];
    match &of.version {
        Some(version) => format!("{} {version}", of.id).into(),
        None => of.id.clone().into(),
    }
}

/// What the table says, in a sentence.
fn explanation(of: &Standings) -> String {
    let noise = match of.noise {
        Some(noise) => format!("Ties are differences of up to {}, the noise floor", percent(noise.floor)),
        None => "No kernel ran twice, so the noise is not known and there are no ties".to_owned(),
    };
    let layers = count(of.common.len(), "layer");
    format!(
        "{noise}; engines that ran at least {} of the layers are compared over the {layers} that all of \
             them ran.",
        percent(COVERAGE)
    )
}

/// The noise of each setting.
pub(super) fn noise(results: &Results, standings: &[Standings]) -> Option<Section> {
    let mut table = Table::new([
        "setting",
        "layers with a second row",
        "noise floor (nine in ten are within)",
        "intervals that hold 1",
    ]);
    for of in standings {
        let setting = Cell::from(results.settings[of.setting].label());
        let cells = match of.noise {
            Some(noise) => {
                let (held, all) = (noise.inside, noise.intervals);
                let share =
                    (all > 0).then(|| format!("{held} of {all} ({})", percent(held as f64 / all as f64)));
                [noise.rows.to_string().into(), percent(noise.floor).into(), share.into()]
            }
            None => ["0".into(), Cell::marked("not known", Mark::Faint), "".into()],
        };
        table.rows.push([vec![setting], cells.to_vec()].concat());
    }
    let line = "The first kernel of each layer runs as two rows, in the same rounds. They are the same code on \
                the same data, so whatever their ratio differs from 1 by is noise; differences up to the floor \
                are ties. Of honest 95 % intervals about 95 in 100 hold 1.";
    section("noise", "Noise", vec![Block::Text(line.to_owned()), Block::Table(table)])
}

/// Where the figures come from.
pub(super) fn provenance(results: &Results) -> Option<Section> {
    let blocks = results.origins.iter().map(|origin| {
        let mut blocks = Vec::new();
        if origin.runs.is_empty() {
            blocks.push(Block::Text("Its rows do not say which run they are of.".to_owned()));
        }
        for run in &origin.runs {
            blocks.push(Block::Code(run.command.clone()));
            let [l1, l2, l3] = run.caches.map(|bytes| machine::bytes(bytes as u64));
            let flags = if run.flags.is_empty() { "none" } else { run.flags.as_str() };
            let facts = [
                ("started", run.started.clone()),
                ("CPU", run.cpu.clone()),
                ("cores", run.cores.to_string()),
                ("caches", format!("L1 {l1}, L2 {l2}, L3 {l3}")),
                ("instruction sets", run.isas.join(", ")),
                ("GPU", run.gpu.clone().unwrap_or_else(|| "nothing was measured on one".to_owned())),
                ("platform", run.platform.clone()),
                ("program", format!("convbench {}, revision {}", run.version, run.revision)),
                ("compiler", run.rustc.clone()),
                ("build", format!("{}, extra flags: {flags}", run.profile)),
                ("load at the start", format!("{:.2}", run.load)),
                ("threads", pinning(origin)),
            ];
            let facts = facts.into_iter().map(|(name, value)| (name.to_owned(), value));
            blocks.push(Block::Facts(facts.collect()));
        }
        let interrupted = if origin.interrupted { ", stopped early" } else { "" };
        Block::Fold(Fold {
            title: origin.name.clone(),
            detail: format!("{}{interrupted}", count(origin.rows, "row")),
            open: results.origins.len() <= 2,
            blocks,
            ..Fold::default()
        })
    });
    section("provenance", "Where the figures come from", blocks.collect())
}

fn pinning(origin: &Origin) -> String {
    match origin.unpinned {
        0 => "each kept on a core of its own".to_owned(),
        n if n == origin.rows => "not kept on cores".to_owned(),
        n => format!("not kept on cores in {n} of {} rows", origin.rows),
    }
}
