//! Rows of any number of files as one table: layers × settings × engines.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use kernels::ConvSpec;

use crate::bench::BASELINE;
use crate::engine::OURS;
use crate::network::NetworkRow;
use crate::provenance::Run;
use crate::record::{self, Clock, Gradient, Precision, Record, Role, Status};

/// The rows of a file.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file's name.
    pub name: String,
    /// Its rows of layers.
    pub rows: Vec<Record>,
    /// Its rows of whole networks.
    pub networks: Vec<NetworkRow>,
    /// Whether the run that wrote it was stopped before its end.
    pub interrupted: bool,
}

impl Source {
    /// Reads a file of results.
    ///
    /// # Errors
    /// Those of [`record::read_all`].
    pub fn read(path: &Path) -> Result<Self, String> {
        let record::Results { rows, networks, interrupted } = record::read_all(path)?;
        Ok(Source { name: path.display().to_string(), rows, networks, interrupted })
    }
}

/// What is the same for all rows that are compared with each other on a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Threads.
    pub threads: usize,
    /// State of the caches, or the GPU's clock.
    pub clock: Clock,
    /// What products are computed in, where that is less than f32.
    pub precision: Option<Precision>,
    /// What is computed, where it is not the convolution's output.
    pub gradient: Option<Gradient>,
}

impl Setting {
    /// That of a row.
    pub fn of(row: &Record) -> Self {
        Setting { threads: row.threads, clock: row.clock, precision: row.precision, gradient: row.op }
    }

    /// Whether f32 products make the convolution's output.
    pub fn is_plain(self) -> bool {
        self.precision.is_none() && self.gradient.is_none()
    }

    /// Words for people, as `2 threads, cold caches`.
    pub fn label(self) -> String {
        format!("{}{}{}", self.gradients(), place(self.threads, self.clock), self.products())
    }

    /// Words for people where the state of the caches does not matter, as `2 threads`.
    pub fn label_of_any_caches(self) -> String {
        match self.clock {
            Clock::Warm | Clock::Cold => {
                format!("{}{}{}", self.gradients(), threads(self.threads), self.products())
            }
            Clock::Device => self.label(),
        }
    }

    fn gradients(self) -> String {
        self.gradient.map_or_else(String::new, |of| format!("{}, ", of.name()))
    }

    fn products(self) -> String {
        self.precision.map_or_else(String::new, |of| format!(", {} products", of.name()))
    }
}

/// Where and by which clock rows were measured, in words.
pub fn place(threads: usize, clock: Clock) -> String {
    match clock {
        Clock::Warm | Clock::Cold => format!("{}, {} caches", self::threads(threads), clock.name()),
        Clock::Device => "on the GPU, its L2 warm".to_owned(),
    }
}

/// A number of threads in words.
pub fn threads(n: usize) -> String {
    if n == 1 { "1 thread".to_owned() } else { format!("{n} threads") }
}

/// A layer that rows are of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// The network or file it is of; may be empty.
    pub network: String,
    /// Its name.
    pub layer: String,
    /// The convolution, as the rows have it.
    pub spec_text: String,
    /// The convolution, where the text is one.
    pub spec: Option<ConvSpec>,
    /// How often the network has it.
    pub count: usize,
    /// A name that no other layer of the table has.
    pub label: String,
}

/// Whatever rows were asked for by one id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contestant {
    /// The id as it was asked for.
    pub id: String,
    /// Whose it is.
    pub engine: String,
    /// Its version, if it has one of its own.
    pub version: Option<String>,
}

impl Contestant {
    /// Whether it is another library's.
    pub fn is_peer(&self) -> bool {
        self.engine != OURS
    }
}

/// Where a file's rows come from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The file's name.
    pub name: String,
    /// Its rows.
    pub rows: usize,
    /// Rows whose threads were not kept on cores of their own.
    pub unpinned: usize,
    /// Whether it was stopped before its end.
    pub interrupted: bool,
    /// The runs that wrote it; none where rows hold no run.
    pub runs: Vec<Arc<Run>>,
}

/// All rows, found by layer, setting and engine.
#[derive(Clone, Debug)]
pub struct Results {
    /// The files.
    pub origins: Vec<Origin>,
    /// Layers in the order in which they were met.
    pub cases: Vec<Case>,
    /// Settings: fewer threads first, warm before cold.
    pub settings: Vec<Setting>,
    /// Engines in the order in which they were met.
    pub contestants: Vec<Contestant>,
    /// What most rows were compared with; of rows that were compared with nothing the usual one.
    pub baseline: Option<usize>,
    /// Rows of whole networks, in the order in which they were met.
    pub networks: Vec<NetworkRow>,
    /// Rows that took the place of an earlier one of the same layer or network, setting and engine.
    pub replaced: usize,
    rows: Vec<(usize, Record)>,
    places: HashMap<(usize, usize, usize, bool), usize>,
}

impl Results {
    /// The union of some files. Where a layer was measured twice with the same engine and setting, the
    /// later row counts.
    pub fn of(sources: Vec<Source>) -> Self {
        let mut results = Results {
            origins: Vec::new(),
            cases: Vec::new(),
            settings: Vec::new(),
            contestants: Vec::new(),
            baseline: None,
            networks: Vec::new(),
            replaced: 0,
            rows: Vec::new(),
            places: HashMap::new(),
        };
        let all = || sources.iter().flat_map(|source| &source.rows);
        for row in all() {
            let setting = Setting::of(row);
            if !results.settings.contains(&setting) {
                results.settings.push(setting);
            }
        }
        results.settings.sort_by_key(|Setting { threads, clock, precision, gradient }| {
            let precision = precision.map(Precision::name);
            (*gradient, *clock == Clock::Device, *threads, *clock == Clock::Cold, precision)
        });
        let mut cases = HashMap::new();
        let mut contestants = HashMap::new();
        for row in all() {
            let key = (row.network.clone(), row.layer.clone(), row.spec.clone());
            cases.entry(key).or_insert_with(|| {
                results.cases.push(Case {
                    network: row.network.clone(),
                    layer: row.layer.clone(),
                    spec_text: row.spec.clone(),
                    spec: row.spec.parse().ok(),
                    count: row.count,
                    label: row.layer.clone(),
                });
                results.cases.len() - 1
            });
            contestants.entry(row.requested.clone()).or_insert_with(|| {
                results.contestants.push(Contestant {
                    id: row.requested.clone(),
                    engine: row.engine.clone(),
                    version: row.engine_version.clone(),
                });
                results.contestants.len() - 1
            });
        }
        name_apart(&mut results.cases);
        results.baseline = most_frequent(all().filter(|row| row.role == Role::Main))
            .or_else(|| Some(BASELINE.to_owned()))
            .and_then(|id| contestants.get(&id).copied());
        for (origin, source) in sources.into_iter().enumerate() {
            let mut runs: Vec<Arc<Run>> = Vec::new();
            let of_rows = source.rows.iter().filter_map(|row| row.run.as_ref());
            for run in of_rows.chain(source.networks.iter().filter_map(|row| row.run.as_ref())) {
                if !runs.contains(run) {
                    runs.push(run.clone());
                }
            }
            results.origins.push(Origin {
                name: source.name,
                rows: source.rows.len() + source.networks.len(),
                unpinned: source.rows.iter().filter(|row| !row.pinned).count()
                    + source.networks.iter().filter(|row| !row.pinned).count(),
                interrupted: source.interrupted,
                runs,
            });
            for row in source.networks {
                let of =
                    |row: &NetworkRow| (row.network.clone(), row.requested.clone(), row.batch, row.threads);
                match results.networks.iter_mut().find(|earlier| of(earlier) == of(&row)) {
                    Some(earlier) => {
                        results.replaced += 1;
                        *earlier = row;
                    }
                    None => results.networks.push(row),
                }
            }
            for row in source.rows {
                let case = cases[&(row.network.clone(), row.layer.clone(), row.spec.clone())];
                let wanted = Setting::of(&row);
                let Some(setting) = results.settings.iter().position(|s| *s == wanted) else { continue };
                let place = (case, setting, contestants[&row.requested], row.role == Role::Aa);
                let index = results.rows.len();
                if let Some(earlier) = results.places.insert(place, index) {
                    results.replaced += 1;
                    // The latest stays where the first was.
                    results.rows[earlier] = (origin, row);
                    results.places.insert(place, earlier);
                } else {
                    results.rows.push((origin, row));
                }
            }
        }
        results
    }

    /// What rows say of something, each once, in the order of the rows.
    pub fn said(&self, of: impl Fn(&Record) -> Option<&String>) -> Vec<&str> {
        let mut all: Vec<&str> = Vec::new();
        for said in self.rows.iter().filter_map(|(_, row)| of(row)) {
            if !all.contains(&said.as_str()) {
                all.push(said);
            }
        }
        all
    }

    /// All rows, each with the number of its file.
    pub fn rows(&self) -> impl Iterator<Item = (usize, &Record)> {
        self.rows.iter().map(|(origin, row)| (*origin, row))
    }

    /// An engine's row.
    pub fn row(&self, case: usize, setting: usize, contestant: usize) -> Option<&Record> {
        self.places.get(&(case, setting, contestant, false)).map(|&index| &self.rows[index].1)
    }

    /// An engine's row if it has a time, and the time.
    pub fn timed(&self, case: usize, setting: usize, contestant: usize) -> Option<(&Record, f64)> {
        self.row(case, setting, contestant).and_then(|row| Some((row, time_of(row)?)))
    }

    /// The rows of a layer and a setting that have a time, the fastest first, with their engines.
    pub fn ranked(&self, case: usize, setting: usize) -> Vec<(usize, &Record, f64)> {
        let all = 0..self.contestants.len();
        let mut rows: Vec<(usize, &Record, f64)> =
            all.filter_map(|id| self.timed(case, setting, id).map(|(row, time)| (id, row, time))).collect();
        rows.sort_by(|a, b| a.2.total_cmp(&b.2));
        rows
    }

    /// The rows of a layer and a setting that have no time.
    pub fn refused(&self, case: usize, setting: usize) -> impl Iterator<Item = &Record> {
        let all = 0..self.contestants.len();
        all.filter_map(move |id| self.row(case, setting, id)).filter(|row| time_of(row).is_none())
    }

    /// The second row of a kernel on a layer.
    pub fn again(&self, case: usize, setting: usize) -> impl Iterator<Item = (usize, &Record)> {
        let all = 0..self.contestants.len();
        all.filter_map(move |id| {
            let index = self.places.get(&(case, setting, id, true))?;
            Some((id, &self.rows[*index].1))
        })
    }

    /// The number of an engine.
    pub fn contestant(&self, id: &str) -> Option<usize> {
        self.contestants.iter().position(|contestant| contestant.id == id)
    }

    /// An engine's id.
    pub fn id(&self, contestant: usize) -> &str {
        self.contestants.get(contestant).map_or("", |contestant| &contestant.id)
    }

    /// The numbers of the other libraries.
    pub fn peers(&self) -> Vec<usize> {
        (0..self.contestants.len()).filter(|&id| self.contestants[id].is_peer()).collect()
    }

    /// Which of ours stands for all of ours on a layer: the one that chooses, or the fastest where that has no time.
    pub fn ours(&self, case: usize, setting: usize) -> Option<(usize, &Record, f64)> {
        let ranked = self.ranked(case, setting);
        let ours = || ranked.iter().filter(|(id, ..)| !self.contestants[*id].is_peer());
        ours().find(|(id, ..)| CHOOSERS.contains(&self.id(*id))).or_else(|| ours().next()).copied()
    }
}

/// The kernel that chooses.
pub const AUTO: &str = "auto";

/// The kernels that choose: among those of the CPU, and of a GPU.
pub const CHOOSERS: [&str; 2] = [AUTO, "cuda"];

/// A row's time: positive, of a right result.
pub fn time_of(row: &Record) -> Option<f64> {
    row.median_ns.filter(|ns| row.status == Status::Ok && *ns > 0.0 && ns.is_finite())
}

/// Layers of the same name get what they differ by added: the network, the batch, else the whole spec.
fn name_apart(cases: &mut [Case]) {
    let differ = |cases: &[Case], f: &dyn Fn(&Case) -> String| {
        let labels: Vec<String> = cases.iter().map(f).collect();
        let count = |label: &String| labels.iter().filter(|other| *other == label).count();
        labels.iter().map(|label| (label.clone(), count(label) == 1)).collect::<Vec<_>>()
    };
    let batch = |case: &Case| case.spec.map_or_else(String::new, |spec| format!(" n{}", spec.batch()));
    let network = |case: &Case| match case.network.is_empty() {
        true => case.layer.clone(),
        false => format!("{}/{}", case.network, case.layer),
    };
    let ways: [Vec<(String, bool)>; 4] = [
        differ(cases, &|case| case.layer.clone()),
        differ(cases, &|case| format!("{}{}", case.layer, batch(case))),
        differ(cases, &|case| format!("{}{}", network(case), batch(case))),
        differ(cases, &|case| format!("{} {}", network(case), case.spec_text)),
    ];
    for (index, case) in cases.iter_mut().enumerate() {
        let way = ways.iter().find(|way| way[index].1).unwrap_or(&ways[3]);
        case.label.clone_from(&way[index].0);
    }
}

/// The baseline of most rows.
fn most_frequent<'a>(rows: impl Iterator<Item = &'a Record>) -> Option<String> {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for id in rows.filter_map(|row| row.baseline.as_deref()) {
        match counts.iter_mut().find(|(known, _)| *known == id) {
            Some((_, count)) => *count += 1,
            None => counts.push((id, 1)),
        }
    }
    // Of equals the first.
    counts.iter().rev().max_by_key(|(_, count)| *count).map(|(id, _)| (*id).to_owned())
}

/// How many times faster one row is than another, with its 95 % interval where they were sampled side by side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factor {
    /// The factor.
    pub ratio: f64,
    /// The interval.
    pub interval: Option<(f64, f64)>,
}

/// How many times faster `own` is than `other`: the ratio of the pairs that their run took, else that of their
/// medians.
pub fn factor(own: &Record, other: &Record) -> Option<Factor> {
    let medians = time_of(other)? / time_of(own)?;
    if own.requested == other.requested && own.role == other.role {
        return Some(Factor { ratio: 1.0, interval: None });
    }
    let beside = own.run == other.run;
    let of_pairs = |ratio: Option<f64>, low: Option<f64>, high: Option<f64>| {
        let ratio = ratio.filter(|ratio| beside && *ratio > 0.0)?;
        Some(Factor { ratio, interval: low.zip(high).filter(|(low, _)| *low > 0.0) })
    };
    let over_base = |row: &Record, base: &Record| {
        let is_base = row.baseline.as_deref() == Some(base.requested.as_str());
        of_pairs(row.ratio, row.ratio_low, row.ratio_high).filter(|_| is_base)
    };
    let inverse = |Factor { ratio, interval }: Factor| Factor {
        ratio: 1.0 / ratio,
        interval: interval.map(|(low, high)| (1.0 / high, 1.0 / low)),
    };
    let is_auto = own.requested == AUTO && own.role == Role::Main;
    let of_auto = of_pairs(other.auto_ratio, other.auto_ratio_low, other.auto_ratio_high).filter(|_| is_auto);
    let factor = of_auto.or_else(|| over_base(own, other)).or_else(|| over_base(other, own).map(inverse));
    Some(factor.unwrap_or(Factor { ratio: medians, interval: None }))
}
