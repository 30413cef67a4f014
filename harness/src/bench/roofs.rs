//! The roofs over a layer's rows, measured in the same rounds.

use kernels::{CacheSizes, Isa};

use crate::gpu::{self, Unit};
use crate::layers::Layer;
use crate::limits::{Level, Peak, Roof, Stream, Traffic, level_of};
use crate::pinning::Pool;
use crate::record::{Clock, Record, Roofs, Status};

/// What a roof is of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum RoofOf {
    /// Multiply-adds of an instruction set.
    Peak(Isa),
    /// Multiply-adds of a part of a GPU.
    Unit(Unit),
    /// Bytes of a level of the memory.
    Level(&'static str),
}

/// The roofs over a layer's rows: the multiply-add peak of each instruction set, or part of a GPU, that ran, and
/// reading and copying in the level of the memory that its bytes come from.
pub(super) fn roofs_for(
    layer: &Layer,
    clock: Clock,
    rows: &[Record],
    pool: &Pool,
) -> Vec<(RoofOf, Box<dyn Roof>)> {
    let peaks = peaks_of(rows);
    let mut roofs: Vec<(RoofOf, Box<dyn Roof>)> = Vec::new();
    for &of in &peaks {
        let roof = match of {
            RoofOf::Peak(isa) => Peak::new(isa).ok().map(|peak| Box::new(peak) as Box<dyn Roof>),
            RoofOf::Unit(unit) => gpu::peak(unit).ok(),
            RoofOf::Level(_) => None,
        };
        roofs.extend(roof.map(|roof| (of, roof)));
    }
    let bytes = match clock {
        Clock::Warm | Clock::Device => layer.spec.min_bytes(),
        Clock::Cold => u64::MAX,
    };
    for traffic in [Traffic::Read, Traffic::Copy] {
        let (name, stream) = match peaks.last() {
            Some(RoofOf::Peak(isa)) => {
                let Level { name, buffer, .. } = level_of(bytes, CacheSizes::detect(), pool.threads());
                let stream = Stream::new(*isa, traffic, buffer, pool);
                (name, stream.ok().map(|stream| Box::new(stream) as Box<dyn Roof>))
            }
            Some(RoofOf::Unit(_)) => match gpu::level_of(bytes) {
                Ok(level) => (level.name, gpu::stream(traffic, level).ok()),
                Err(_) => continue,
            },
            Some(RoofOf::Level(_)) | None => continue,
        };
        roofs.extend(stream.map(|stream| (RoofOf::Level(name), stream)));
    }
    roofs
}

/// The peaks that rows are held against, each once.
fn peaks_of(rows: &[Record]) -> Vec<RoofOf> {
    let ran = rows.iter().filter(|row| row.status == Status::Ok);
    let (mut isas, mut units) = (Vec::new(), Vec::new());
    for peak in ran.filter_map(peak_of) {
        match peak {
            RoofOf::Peak(isa) => isas.push(isa),
            RoofOf::Unit(unit) => units.push(unit),
            RoofOf::Level(_) => {}
        }
    }
    isas.sort_unstable();
    isas.dedup();
    units.sort_unstable();
    units.dedup();
    isas.into_iter().map(RoofOf::Peak).chain(units.into_iter().map(RoofOf::Unit)).collect()
}

/// Tells each row the roofs over it, given what each of them reached.
pub(super) fn set_roofs(rows: &mut [Record], rates: &[(RoofOf, f64)]) {
    let bandwidth = rates.iter().filter_map(|(of, rate)| match of {
        RoofOf::Level(level) => Some((*level, *rate)),
        RoofOf::Peak(_) | RoofOf::Unit(_) => None,
    });
    let Some((level, bandwidth)) = bandwidth.max_by(|a, b| a.1.total_cmp(&b.1)) else { return };
    for row in rows {
        let own = peak_of(row);
        let peak = rates.iter().find(|(of, _)| own == Some(*of));
        if let Some((_, peak)) = peak {
            row.set_roofs(Roofs { peak: *peak, bandwidth, level });
        }
    }
}

/// What a row is held against: on a GPU the part that computes its products, on the CPU its instruction set, or
/// the best for a kernel without one. Nothing where it is a GPU's, but what is timed is mostly copies to it and
/// back.
fn peak_of(row: &Record) -> Option<RoofOf> {
    if row.clock == Clock::Device {
        return Some(RoofOf::Unit(Unit::of(row)));
    }
    if row.device.is_some() {
        return None;
    }
    let named = row.kernel.rsplit_once('/').map(|(_, isa)| isa);
    let own = named.and_then(|named| Isa::ALL.into_iter().find(|isa| isa.name() == named));
    own.or_else(|| Isa::best().ok()).map(RoofOf::Peak)
}
