//! Rows without a time, by reason.

use crate::record::{Role, Status};
use crate::report::results::Results;

/// Rows that share an engine, what became of them, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What became of them.
    pub status: Status,
    /// The engine.
    pub contestant: String,
    /// Why, without the convolution.
    pub reason: String,
    /// Layers, each once.
    pub layers: Vec<String>,
    /// Rows.
    pub rows: usize,
}

/// What became of a row, in a word.
pub fn word(status: Status) -> &'static str {
    match status {
        Status::Ok => "not measured",
        Status::Unsupported => "unsupported",
        Status::Unavailable => "unavailable",
        Status::Wrong => "WRONG",
        Status::TooLarge => "too large",
    }
}

/// A reason without the engine's name before it and the convolution after it: those are said beside it.
pub fn short<'a>(reason: &'a str, requested: &str, spec: &str) -> &'a str {
    let reason = reason.strip_suffix(&format!(" ({spec})")).unwrap_or(reason);
    reason.strip_prefix(requested).and_then(|rest| rest.strip_prefix(' ')).unwrap_or(reason)
}

/// All rows without a time, wrong ones first.
pub fn refusals(results: &Results) -> Vec<Refusal> {
    let mut all: Vec<Refusal> = Vec::new();
    for (_, row) in results.rows().filter(|(_, row)| row.status != Status::Ok) {
        let full = row.reason.as_deref().unwrap_or("no reason given");
        let mut reason = short(full, &row.requested, &row.spec).to_owned();
        if row.role == Role::Aa {
            reason += " (second row)";
        }
        let case = results.cases.iter().find(|case| {
            (&case.network, &case.layer, &case.spec_text) == (&row.network, &row.layer, &row.spec)
        });
        let layer = case.map_or_else(|| row.layer.clone(), |case| case.label.clone());
        let same = |known: &&mut Refusal| {
            (known.status, &known.contestant, &known.reason) == (row.status, &row.requested, &reason)
        };
        match all.iter_mut().find(same) {
            Some(known) => {
                known.rows += 1;
                if !known.layers.contains(&layer) {
                    known.layers.push(layer);
                }
            }
            None => all.push(Refusal {
                status: row.status,
                contestant: row.requested.clone(),
                reason,
                layers: vec![layer],
                rows: 1,
            }),
        }
    }
    let order = |status: Status| match status {
        Status::Wrong => 0,
        Status::TooLarge => 1,
        Status::Unavailable => 2,
        Status::Unsupported | Status::Ok => 3,
    };
    all.sort_by_key(|refusal| order(refusal.status));
    all
}
