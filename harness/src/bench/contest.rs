//! The engines of a layer against each other: prepared, verified, timed in turns, compared.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use kernels::{CacheSizes, Isa, Workspace};

use super::roofs::{roofs_for, set_roofs};
use super::row::{FEW_POINTS, blank, sampling, verified};
use super::{Observer, Request};
use crate::buffer::Buffer;
use crate::check::Sampling;
use crate::data::{self, Kind, Tensors};
use crate::engine::{Engine, Io, OURS, Prepared, Refusal, result};
use crate::layers::Layer;
use crate::machine;
use crate::measure::{Sample, Spent, Subject, in_turns};
use crate::pinning::Pool;
use crate::record::{Clock, Gradient, Record, Role, Status};
use crate::rotation::{Ballast, Rotation, sets_and_ballast};
use crate::statistics::{Ratio, Statistics};

/// Plans of a kernel that take turns within a warm row, at most: two plans of one layer differ in speed by
/// where their memory lies, and that belongs to what a figure is unsure of.
const MOST_PLANS: usize = 8;
/// The share of a row's time that making and verifying more than one plan may take, and the most of it.
const PLANS_SHARE: u32 = 5;
const PLANS_TIME: Duration = Duration::from_millis(100);

/// An engine with all its plans.
struct Contender<'a> {
    /// The row that tells of it.
    row: usize,
    rotation: Rotation<'a>,
    own_flops: Option<u64>,
}

/// An engine that has given a right result, while its plans are made.
struct Making<'a> {
    /// The row that tells of it.
    row: usize,
    engine: &'a dyn Engine,
    plans: Vec<Box<dyn Prepared + 'a>>,
    /// Plans that there are to be.
    wanted: usize,
}

/// What all engines of a layer share.
struct Arena<'a> {
    layer: &'a Layer,
    pool: &'a Pool,
    clock: Clock,
    /// Time of a row.
    time: Duration,
    /// Plans of a warm row at most.
    plans: usize,
    tensors: Vec<Tensors>,
    outputs: Vec<RefCell<Buffer>>,
    workspace: RefCell<Workspace<'static>>,
    /// Read between cold runs, so many f32s each time.
    ballast: Vec<f32>,
    ballast_each: usize,
}

impl<'a> Arena<'a> {
    fn new(
        layer: &'a Layer,
        pool: &'a Pool,
        clock: Clock,
        time: Duration,
        gradient: Option<Gradient>,
        engines: usize,
    ) -> Result<Self, String> {
        let (sets, ballast) = match clock {
            Clock::Warm | Clock::Device => (1, 0),
            Clock::Cold => sets_and_ballast(layer.spec.min_bytes(), CacheSizes::detect()),
        };
        // What lies in a GPU's memory, the GPU counts.
        let on_host = if clock == Clock::Device { 1 } else { engines };
        machine::check_memory(&layer.spec, on_host, sets)?;
        let plans = match clock {
            Clock::Warm if machine::check_memory(&layer.spec, engines, MOST_PLANS).is_ok() => MOST_PLANS,
            _ => 1,
        };
        let tensors = data::tensors(&layer.spec, Kind::Real, 0);
        let tensors: Vec<Tensors> = (0..sets).map(|_| tensors.clone()).collect();
        let outputs = (0..sets).map(|_| RefCell::new(result(&layer.spec, gradient))).collect();
        Ok(Arena {
            layer,
            pool,
            clock,
            time,
            plans,
            tensors,
            outputs,
            workspace: RefCell::new(Workspace::default()),
            ballast: vec![1.0; sets * ballast / 4],
            ballast_each: ballast / 4,
        })
    }

    fn io(&self, set: usize) -> Io<'_> {
        Io { tensors: &self.tensors[set], output: &self.outputs[set], workspace: &self.workspace }
    }

    /// An engine's first plan, verified as `row` then tells, and how many there are to be: so many, or as many as
    /// there is time for.
    fn first<'b>(
        &'b self,
        engine: &'b dyn Engine,
        index: usize,
        plans: Option<usize>,
        row: &mut Record,
    ) -> Result<Making<'b>, Refusal> {
        let first = verified(engine, self.layer, self.io(0), self.pool, sampling(self.layer), row)?;
        let wanted = match self.clock {
            Clock::Warm | Clock::Device => plans.unwrap_or_else(|| self.plans_of(engine, row)),
            Clock::Cold => self.tensors.len(),
        };
        Ok(Making { row: index, engine, plans: vec![first], wanted })
    }

    /// Makes the plans that are still wanted, one of each row in turn: where memory lies depends on when it was
    /// asked for, and no row is to have the first or the last of it. They are verified at fewer places; rows are
    /// told of those that are wrong. Nothing if stopped meanwhile.
    fn others<'b>(
        &'b self,
        all: &mut Vec<Making<'b>>,
        rows: &mut [Record],
        observer: &mut dyn Observer,
    ) -> Option<()> {
        let most = all.iter().map(|making| making.wanted).max().unwrap_or(0);
        for next in 1..most {
            let mut stopped = false;
            all.retain_mut(|making| {
                stopped = stopped || !observer.carry_on();
                if stopped || next >= making.wanted {
                    return true;
                }
                let another = self.another(making.engine, next % self.tensors.len());
                another
                    .map(|plan| making.plans.push(plan))
                    .map_err(|refusal| rows[making.row].refuse(refusal))
                    .is_ok()
            });
            if stopped {
                return None;
            }
        }
        Some(())
    }

    /// The contender with the plans that were made.
    fn contender<'b>(&'b self, making: Making<'b>, row: &mut Record) -> Contender<'b> {
        let Making { row: index, plans, .. } = making;
        row.plans = plans.len();
        let own_flops = plans.first().and_then(|plan| plan.facts().own_flops);
        let rotation = match self.clock {
            Clock::Warm | Clock::Device => Rotation::warm(plans),
            Clock::Cold => {
                // Some instruction set is there, or no kernel would be.
                let isa = Isa::best().unwrap_or(Isa::Wide);
                let (memory, each, pool) = (&self.ballast[..], self.ballast_each, self.pool);
                Rotation::cold(plans, Ballast { memory, each, pool, isa })
            }
        };
        Contender { row: index, rotation, own_flops }
    }

    fn another<'b>(&'b self, engine: &'b dyn Engine, set: usize) -> Result<Box<dyn Prepared + 'b>, Refusal> {
        let mut row = blank(self.layer, engine, self.pool, self.clock, None);
        verified(engine, self.layer, self.io(set), self.pool, Sampling::Points(FEW_POINTS), &mut row)
    }

    /// How many plans there is time for. Other libraries have one: theirs bring threads of their own.
    fn plans_of(&self, engine: &dyn Engine, row: &Record) -> usize {
        if engine.engine() != OURS {
            return 1;
        }
        let each = row.plan_ns.unwrap_or(0.0) + row.first_ns.unwrap_or(0.0);
        let budget = (self.time / PLANS_SHARE).min(PLANS_TIME).as_nanos() as f64;
        // As a float it may be anything; as an integer it saturates.
        1 + ((budget / each.max(1.0)) as usize).min(self.plans - 1)
    }
}

/// The rows of a layer; nothing if stopped meanwhile.
pub(super) fn rows(
    layer: &Layer,
    pool: &Pool,
    clock: Clock,
    request: &Request,
    observer: &mut dyn Observer,
) -> Option<Vec<Record>> {
    let engines = request.engines(layer, clock);
    let engine = |row: usize| engines[row].engine();
    let mut rows: Vec<Record> =
        (0..engines.len()).map(|row| blank(layer, engine(row), pool, clock, Some(&request.run))).collect();
    let arena = match Arena::new(layer, pool, clock, request.time, request.gradient, engines.len() + 1) {
        Ok(arena) => arena,
        Err(reason) => {
            for row in &mut rows {
                row.refuse(Refusal { status: Status::TooLarge, reason: reason.clone() });
            }
            return Some(rows);
        }
    };
    let mut making: Vec<Making<'_>> = Vec::new();
    for (index, row) in rows.iter_mut().enumerate() {
        if !observer.carry_on() {
            return None;
        }
        match arena.first(engine(index), index, None, row) {
            Ok(first) => making.push(first),
            Err(refusal) => row.refuse(refusal),
        }
    }
    // The first that works runs twice: what differs between its two rows is noise.
    if let Some(&Making { row, engine, wanted, .. }) = making.first() {
        let mut again = Record { role: Role::Aa, ..rows[row].clone() };
        match arena.first(engine, rows.len(), Some(wanted), &mut again) {
            Ok(first) => making.push(first),
            Err(refusal) => again.refuse(refusal),
        }
        rows.push(again);
    }
    arena.others(&mut making, &mut rows, observer)?;
    let mut contenders: Vec<Contender<'_>> = making
        .into_iter()
        .map(|making| {
            let row = making.row;
            arena.contender(making, &mut rows[row])
        })
        .collect();
    time(&arena, &mut contenders, &mut rows, request, observer)?;
    Some(rows)
}

/// Times the contenders and the roofs over them in turns, and tells the rows; nothing if stopped meanwhile.
fn time(
    arena: &Arena<'_>,
    contenders: &mut [Contender<'_>],
    rows: &mut [Record],
    request: &Request,
    observer: &mut dyn Observer,
) -> Option<()> {
    let Arena { layer, pool, clock, .. } = *arena;
    let roofs = if request.roofs { roofs_for(layer, clock, rows, pool) } else { Vec::new() };
    let mut subjects: Vec<Subject<'_>> = Vec::new();
    for Contender { rotation, .. } in &mut *contenders {
        // A cold rotation never runs twice on a set within a sample.
        let (plans, most_repeats) = match clock {
            Clock::Warm | Clock::Device => (rotation.sets(), u64::MAX),
            Clock::Cold => (1, rotation.sets() as u64),
        };
        let run = Box::new(move |plan, repeats| rotation.time(plan, repeats));
        subjects.push(Subject { run, plans, time: request.time, warm: clock != Clock::Cold, most_repeats });
    }
    for (_, roof) in &roofs {
        let run = Box::new(|_, repeats| Ok(Spent::all(roof.time(pool, repeats).0)));
        let time = request.time / 4;
        subjects.push(Subject { run, plans: 1, time, warm: true, most_repeats: u64::MAX });
    }
    let samples = in_turns(&mut subjects, &mut || observer.carry_on());
    drop(subjects);
    if !observer.carry_on() {
        return None;
    }
    let (of_rows, of_roofs) = samples.split_at(contenders.len());
    for (contender, samples) in contenders.iter().zip(of_rows) {
        let row = &mut rows[contender.row];
        match samples {
            Ok(samples) => tell(row, samples, layer, contender.own_flops)?,
            Err(failure) => row.refuse(Refusal::unavailable(failure)),
        }
    }
    compare(rows, contenders, of_rows, &request.baseline);
    let rates = of_roofs.iter().zip(&roofs).filter_map(|(samples, (of, roof))| {
        // One that fails takes no time.
        let all = samples.as_ref().ok()?.iter().map(|sample| sample.ns);
        let fastest = all.filter(|ns| *ns > 0.0).min_by(f64::total_cmp)?;
        Some((*of, roof.time(pool, 1).1 as f64 / fastest)).filter(|(_, rate)| *rate > 0.0)
    });
    set_roofs(rows, &rates.collect::<Vec<_>>());
    Some(())
}

/// Tells a row its times; nothing if there are none.
fn tell(row: &mut Record, samples: &[Sample], layer: &Layer, own_flops: Option<u64>) -> Option<()> {
    row.set_times(&Statistics::of(samples)?, &layer.spec, own_flops);
    // A slow row may not come to all its plans. Cold samples are of all sets together.
    if row.clock == Clock::Warm {
        let plans: BTreeSet<usize> = samples.iter().map(|sample| sample.plan).collect();
        row.plans = plans.len();
    }
    Some(())
}

/// Each row beside the baseline and beside `auto`, and the second row of a kernel beside its first.
fn compare(
    rows: &mut [Record],
    contenders: &[Contender<'_>],
    samples: &[Result<Vec<Sample>, String>],
    baseline: &str,
) {
    let taken: Vec<(usize, &[Sample])> = contenders
        .iter()
        .zip(samples)
        .filter_map(|(contender, samples)| Some((contender.row, samples.as_ref().ok()?.as_slice())))
        .collect();
    let auto = taken.iter().find(|(row, _)| rows[*row].role == Role::Main && rows[*row].requested == "auto");
    for &(row, own) in &taken {
        if let Some(Ratio { ratio, interval }) = auto.and_then(|(_, auto)| Ratio::paired(own, auto)) {
            rows[row].auto_ratio = Some(ratio);
            (rows[row].auto_ratio_low, rows[row].auto_ratio_high) = interval.unzip();
        }
        let base = match rows[row].role {
            Role::Main => baseline,
            Role::Aa => rows[row].requested.as_str(),
        };
        // What computes in less than f32 stands beside the baseline's form for that, if it has one.
        let precision = rows[row].precision;
        let lower = precision.map(|precision| format!("{base}-{}", precision.name()));
        let of_base = |other: &Record| {
            let named = other.requested == base || Some(&other.requested) == lower.as_ref();
            named && other.role == Role::Main && other.precision == precision
        };
        let Some(&(other, theirs)) = taken.iter().find(|(other, _)| of_base(&rows[*other])) else { continue };
        if let Some(ratio) = Ratio::paired(theirs, own) {
            let base = rows[other].requested.clone();
            rows[row].set_ratio(&base, ratio);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Ours;
    use crate::layers;

    /// Notes whose plans are made.
    #[derive(Debug)]
    struct Noted<'a>(Ours, &'a RefCell<Vec<&'a str>>, &'a str);

    impl Engine for Noted<'_> {
        fn engine(&self) -> &str {
            OURS
        }
        fn id(&self) -> &str {
            self.2
        }
        fn prepare<'a>(
            &'a self,
            spec: &kernels::ConvSpec,
            io: Io<'a>,
            pool: &'a Pool,
        ) -> Result<Box<dyn Prepared + 'a>, Refusal> {
            self.1.borrow_mut().push(self.2);
            let made = self.1.borrow().iter().filter(|id| **id == self.2).count();
            if self.2 == "wrong" && made > 2 {
                return Err(Refusal::unavailable("the third plan is one too many"));
            }
            self.0.prepare(spec, io, pool)
        }
    }

    struct Patient;

    impl Observer for Patient {
        fn next(&mut self, _: &Layer, _: usize, _: Clock) {}
        fn rows(&mut self, _: &[Record]) {}
        fn carry_on(&mut self) -> bool {
            true
        }
    }

    /// Whoever came first would have other memory than whoever came last.
    #[test]
    fn plans_of_all_rows_are_made_in_turn() {
        let layer = layers::parse("a 1 c8 h9 w9 o8 k3", "test").unwrap().remove(0);
        let ours = Ours::new(kernels::kernel("direct").unwrap());
        let pool = Pool::new(1).unwrap();
        let arena = Arena::new(&layer, &pool, Clock::Warm, Duration::from_millis(10), None, 3).unwrap();
        let log = RefCell::new(Vec::new());
        let engines = ["a", "wrong", "b"].map(|id| Noted(ours, &log, id));
        let mut rows = engines.each_ref().map(|engine| blank(&layer, engine, &pool, Clock::Warm, None));
        let mut all = Vec::new();
        for (index, (engine, plans)) in engines.iter().zip([4, 4, 2]).enumerate() {
            all.push(arena.first(engine, index, Some(plans), &mut rows[index]).unwrap());
        }
        arena.others(&mut all, &mut rows, &mut Patient).unwrap();
        assert_eq!(log.borrow().concat(), "awrongbawrongbawronga");
        let made: Vec<(usize, usize)> = all.iter().map(|making| (making.row, making.plans.len())).collect();
        assert_eq!((made, rows[1].status), (vec![(0, 4), (2, 2)], Status::Unavailable));
    }

    /// Not those that were made, but those that came to their turn.
    #[test]
    fn plans_of_a_row_are_those_that_were_sampled() {
        let layer = layers::parse("a 1 c8 h9 w9 o8 k3", "test").unwrap().remove(0);
        let kernel = kernels::kernel("direct").unwrap();
        let engine = Ours::new(kernel);
        let pool = Pool::new(1).unwrap();
        let samples = [(0, 5), (1, 2), (2, 5)].map(|(round, plan)| Sample { round, plan, ns: 1.0 });
        for (clock, plans) in [(Clock::Warm, 2), (Clock::Cold, 8)] {
            let mut row = Record { plans: 8, ..blank(&layer, &engine, &pool, clock, None) };
            tell(&mut row, &samples, &layer, None).unwrap();
            assert_eq!((row.plans, row.samples), (plans, 3));
            assert_eq!(tell(&mut row, &[], &layer, None), None);
        }
    }
}
