//! The roofs over a layer's rows, measured in the same rounds.

use kernels::{CacheSizes, Isa};

use crate::layers::Layer;
use crate::limits::{Level, Peak, Roof, Stream, Traffic, level_of};
use crate::pinning::Pool;
use crate::record::{Clock, Record, Roofs, Status};

/// What a roof is of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum RoofOf {
    /// Multiply-adds of an instruction set.
    Peak(Isa),
    /// Bytes of a level of the memory.
    Level(&'static str),
}

/// The roofs over a layer's rows: the multiply-add peak of each instruction set that ran, and reading and
/// copying in the level of the memory that its bytes come from.
pub(super) fn roofs_for(
    layer: &Layer,
    clock: Clock,
    rows: &[Record],
    pool: &Pool,
) -> Vec<(RoofOf, Box<dyn Roof>)> {
    let mut isas: Vec<Isa> =
        rows.iter().filter(|row| row.status == Status::Ok).filter_map(|row| isa_of(&row.kernel)).collect();
    isas.sort_unstable();
    isas.dedup();
    let mut roofs: Vec<(RoofOf, Box<dyn Roof>)> = Vec::new();
    for &isa in &isas {
        if let Ok(peak) = Peak::new(isa) {
            roofs.push((RoofOf::Peak(isa), Box::new(peak)));
        }
    }
    let bytes = match clock {
        Clock::Warm => layer.spec.min_bytes(),
        Clock::Cold => u64::MAX,
    };
    let Level { name, buffer, .. } = level_of(bytes, CacheSizes::detect(), pool.threads());
    for traffic in [Traffic::Read, Traffic::Copy] {
        let best = isas.last().copied();
        if let Some(Ok(stream)) = best.map(|isa| Stream::new(isa, traffic, buffer, pool)) {
            roofs.push((RoofOf::Level(name), Box::new(stream)));
        }
    }
    roofs
}

/// Tells each row the roofs over it, given what each of them reached.
pub(super) fn set_roofs(rows: &mut [Record], rates: &[(RoofOf, f64)]) {
    let bandwidth = rates.iter().filter_map(|(of, rate)| match of {
        RoofOf::Level(level) => Some((*level, *rate)),
        RoofOf::Peak(_) => None,
    });
    let Some((level, bandwidth)) = bandwidth.max_by(|a, b| a.1.total_cmp(&b.1)) else { return };
    for row in rows {
        let isa = isa_of(&row.kernel);
        let peak = rates.iter().find(|(of, _)| isa.is_some_and(|isa| *of == RoofOf::Peak(isa)));
        if let Some((_, peak)) = peak {
            row.set_roofs(Roofs { peak: *peak, bandwidth, level });
        }
    }
}

/// The instruction set whose peak a kernel is held against: its own, or the best for one without.
fn isa_of(kernel: &str) -> Option<Isa> {
    let own = kernel.rsplit_once('/').and_then(|(_, isa)| Isa::ALL.into_iter().find(|i| i.name() == isa));
    own.or_else(|| Isa::best().ok())
}
