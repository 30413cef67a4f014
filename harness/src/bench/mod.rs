//! Rows of a benchmark: every engine on every layer, verified, then timed in turns.

mod contest;
mod roofs;
mod row;

use std::sync::Arc;
use std::time::Duration;

use kernels::{Accuracy, Kernel, Stores};

use crate::engine::{Engine, Ours};
use crate::gradients;
use crate::layers::Layer;
use crate::pinning::Pool;
use crate::provenance::Run;
use crate::record::{Clock, Gradient, Record};

pub use row::{blank, sampling, verified};

/// What to measure.
#[derive(Debug)]
pub struct Request {
    /// The layers.
    pub layers: Vec<Layer>,
    /// What is computed, where that is not the convolution's output.
    pub gradient: Option<Gradient>,
    /// The kernels' ids, of those that compute it; empty means [`usual`].
    pub kernels: Vec<&'static str>,
    /// What is asked of the kernels' rounding errors.
    pub accuracy: Accuracy,
    /// Where the kernels' outputs are to go first.
    pub stores: Stores,
    /// Other libraries.
    pub peers: Vec<Box<dyn Engine>>,
    /// Numbers of threads.
    pub threads: Vec<usize>,
    /// States of the caches.
    pub clocks: Vec<Clock>,
    /// Time for the samples of each row.
    pub time: Duration,
    /// Whether the machine's roofs are measured beside each row.
    pub roofs: bool,
    /// The id that speeds are compared with.
    pub baseline: String,
    /// The run that the rows are of.
    pub run: Arc<Run>,
}

/// What speeds are compared with when nothing else is asked for: the method of most frameworks, on every
/// layer.
pub const BASELINE: &str = "im2col-gemm";

impl Request {
    /// Rows of a layer, as far as can be known before, with the second of the first kernel.
    pub fn rows_of(&self, layer: &Layer, clock: Clock) -> usize {
        match self.engines(layer, clock).len() {
            0 => 0,
            engines => engines + 1,
        }
    }

    /// Numbers of threads and clocks that rows of a layer are of, in their order. A GPU does not know how many
    /// threads the host has: rows by its clock are measured once.
    pub fn settings(&self) -> Vec<(usize, Clock)> {
        let all = self.threads.iter().enumerate();
        let all = all.flat_map(|(place, &threads)| {
            let clocks = self.clocks.iter().filter(move |&&clock| place == 0 || clock != Clock::Device);
            clocks.map(move |&clock| (threads, clock))
        });
        all.collect()
    }

    /// What is measured on a layer by a clock: by the GPU's those that run on it, from its own memory; by the
    /// host's all of ours, from and to the host's memory, and the peers that compute there.
    fn engines<'a>(&'a self, layer: &Layer, clock: Clock) -> Vec<Candidate<'a>> {
        let Request { accuracy, stores, gradient, .. } = *self;
        let ids = match (&self.kernels[..], gradient) {
            ([], Some(Gradient::BackwardWeights)) => vec!["auto"],
            ([], _) => usual(layer, accuracy).iter().map(|kernel| kernel.id()).collect(),
            (ids, _) => ids.to_vec(),
        };
        let device = clock == Clock::Device;
        let ours = ids.into_iter().filter_map(|id| {
            if let Some(of) = gradient {
                return (!device).then_some(Candidate::Gradient(gradients::Ours { of, id, accuracy }));
            }
            let kernel = kernels::kernel(id).ok().filter(|kernel| !device || kernel.on_gpu())?;
            Some(Candidate::Ours(Ours { kernel, accuracy, stores, on_device: device }))
        });
        let peers = self.peers.iter().filter(|peer| peer.on_device() == device);
        ours.chain(peers.map(|peer| Candidate::Peer(peer.as_ref()))).collect()
    }
}

enum Candidate<'a> {
    Ours(Ours),
    Gradient(gradients::Ours),
    Peer(&'a dyn Engine),
}

impl Candidate<'_> {
    fn engine(&self) -> &dyn Engine {
        match self {
            Candidate::Ours(ours) => ours,
            Candidate::Gradient(ours) => ours,
            Candidate::Peer(peer) => *peer,
        }
    }
}

/// Follows a benchmark.
pub trait Observer {
    /// The next rows are of this layer, number of threads and state of the caches.
    fn next(&mut self, layer: &Layer, threads: usize, clock: Clock);
    /// Rows of a layer, a number of threads and a state of the caches are complete.
    fn rows(&mut self, rows: &[Record]);
    /// Whether to go on; asked often.
    fn carry_on(&mut self) -> bool;
}

/// Naive kernels are slow: beyond this they are measured only by name.
const MOST_NAIVE_MACS: u64 = 50_000_000;

/// The kernels that are measured on a layer when none are named: each algorithm with the best
/// instruction set of the machine, where it supports the layer and is accurate enough. Those of GPUs are
/// measured only by name.
pub fn usual(layer: &Layer, accuracy: Accuracy) -> Vec<&'static dyn Kernel> {
    kernels::kernels()
        .filter(|kernel| kernel.isa().is_none() && kernel.supports(&layer.spec).is_ok())
        .filter(|kernel| kernel.accuracy() <= accuracy && !kernel.on_gpu())
        .filter(|kernel| kernel.id() != "naive" || layer.spec.macs() <= MOST_NAIVE_MACS)
        .collect()
}

/// Measures all rows. Ends early, with what is complete, when the observer says so.
///
/// # Errors
/// When threads cannot be started.
pub fn bench(request: &Request, observer: &mut dyn Observer) -> Result<Vec<Record>, String> {
    let pools: Vec<Pool> =
        request.threads.iter().map(|&threads| Pool::new(threads)).collect::<Result<_, _>>()?;
    let mut all = Vec::new();
    for layer in &request.layers {
        for (threads, clock) in request.settings() {
            let Some(pool) = pools.iter().find(|pool| pool.threads() == threads) else { continue };
            if !observer.carry_on() {
                return Ok(all);
            }
            observer.next(layer, threads, clock);
            if let Some(rows) = contest::rows(layer, pool, clock, request, observer) {
                observer.rows(&rows);
                all.extend(rows);
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use kernels::CacheSizes;

    use super::*;
    use crate::layers;
    use crate::limits::level_of;
    use crate::record::{Role, Status};

    struct Quiet(usize);

    impl Observer for Quiet {
        fn next(&mut self, _: &Layer, _: usize, _: Clock) {}
        fn rows(&mut self, _: &[Record]) {}
        fn carry_on(&mut self) -> bool {
            self.0 = self.0.saturating_sub(1);
            self.0 > 0
        }
    }

    fn request(text: &str, ids: &[&'static str]) -> Request {
        Request {
            layers: layers::parse(text, "test").unwrap(),
            gradient: None,
            kernels: ids.to_vec(),
            accuracy: Accuracy::Standard,
            stores: Stores::Cached,
            peers: Vec::new(),
            threads: vec![1],
            clocks: vec![Clock::Warm],
            time: Duration::from_millis(10),
            roofs: true,
            baseline: "naive".to_owned(),
            run: Arc::new(Run::new("test".to_owned())),
        }
    }

    #[test]
    fn rows_are_complete() {
        let request = request("a 2 c8 h9 w9 o8 k3 p1", &["naive", "direct", "pointwise"]);
        let rows = bench(&request, &mut Quiet(usize::MAX)).unwrap();
        assert_eq!(rows.len(), 4);
        for row in [&rows[0], &rows[1], &rows[3]] {
            assert_eq!((row.status, row.count, row.threads), (Status::Ok, 2, 1), "{row:?}");
            assert!(row.median_ns.unwrap() > 0.0 && row.peak_fraction.unwrap() > 0.0);
            // A busy machine may leave too few samples for an interval.
            if let (Some(low), Some(high)) = (row.ci_low_ns, row.ci_high_ns) {
                assert!(low <= row.median_ns.unwrap() && row.median_ns.unwrap() <= high);
            }
            assert!(row.max_error.unwrap() <= row.error_bound.unwrap());
        }
        assert!(rows[1].ratio.unwrap() > 1.0 && rows[1].first_ns.unwrap() > 0.0, "{:?}", rows[1]);
        assert_eq!((rows[1].baseline.as_deref(), rows[0].ratio), (Some("naive"), Some(1.0)));
        assert_eq!(rows[3].baseline.as_deref(), Some("naive"));
        assert_eq!(rows[0].auto_ratio, None);
        assert!(rows[1].roof_fraction.unwrap() >= rows[1].peak_fraction.unwrap());
        assert_eq!((rows[2].status, rows[2].median_ns), (Status::Unsupported, None));
        assert!(rows[2].reason.as_ref().unwrap().starts_with("pointwise does not support kernel 3x3"));
        assert_eq!((rows[3].role, rows[3].requested.as_str()), (Role::Aa, "naive"));
    }

    #[test]
    fn rows_stand_beside_auto() {
        let request = request("a 1 c8 h9 w9 o8 k3 p1", &["auto", "naive"]);
        let rows = bench(&request, &mut Quiet(usize::MAX)).unwrap();
        assert_eq!(rows[0].auto_ratio, Some(1.0));
        assert!(rows[1].auto_ratio.unwrap() > 1.0, "{:?}", rows[1]);
    }

    #[test]
    fn usual_kernels_are_those_that_can() {
        let layer = |spec: &str| layers::parse(&format!("a 1 {spec}"), "test").unwrap().remove(0);
        let ids = |spec: &str| {
            usual(&layer(spec), Accuracy::Standard).iter().map(|kernel| kernel.id()).collect::<Vec<_>>()
        };
        assert!(ids("c8 h9 w9 o8 k3").contains(&"naive"));
        assert!(!ids("c64 h56 w56 o64 k3").contains(&"naive"));
        assert!(ids("c8 h9 w9 o8 k3").contains(&"winograd"));
        assert!(!ids("c8 h9 w9 o8 k1").contains(&"winograd"));
    }

    #[test]
    fn cold_rows_are_rows_of_their_own() {
        let mut request = request("a 1 c16 h20 w20 o16 k1", &["pointwise"]);
        request.clocks = vec![Clock::Warm, Clock::Cold];
        let rows = bench(&request, &mut Quiet(usize::MAX)).unwrap();
        let clocks: Vec<Clock> = rows.iter().map(|row| row.clock).collect();
        assert_eq!(clocks, [Clock::Warm, Clock::Warm, Clock::Cold, Clock::Cold]);
        assert!(rows.iter().all(|row| row.status == Status::Ok && row.median_ns.unwrap() > 0.0), "{rows:?}");
        // What is not warm comes from the last level there is.
        let last = level_of(u64::MAX, CacheSizes::detect(), 1).name;
        assert_eq!(rows[2].bandwidth_level.as_deref(), Some(last));
    }

    #[test]
    fn gradients_are_verified_and_timed() {
        for (of, kernel) in [(Gradient::BackwardData, "direct"), (Gradient::BackwardWeights, "product")] {
            let text = "a 1 c8 h9 w9 o8 k3 s2 p1 g2\nb 1 c8 h9 w9 o8 k3 s2 p1 nhwc";
            let mut request = request(text, &[kernel]);
            (request.gradient, request.clocks) = (Some(of), vec![Clock::Warm, Clock::Cold]);
            let rows = bench(&request, &mut Quiet(usize::MAX)).unwrap();
            assert_eq!(rows.len(), 8);
            for row in rows {
                assert_eq!((row.status, row.op), (Status::Ok, Some(of)), "{row:?}");
                assert!(row.max_error.unwrap() <= row.error_bound.unwrap());
                assert!(row.kernel.starts_with(kernel) && row.roof_fraction.unwrap() > 0.0, "{row:?}");
            }
            request.kernels.clear();
            let usual = request.rows_of(&request.layers[1], Clock::Warm);
            assert!(usual > 1 && request.rows_of(&request.layers[1], Clock::Device) == 0);
        }
    }

    #[test]
    fn stops_early() {
        let request = request("a 1 c8 h9 w9 o8 k3\nb 1 c8 h9 w9 o8 k3 p1", &["direct"]);
        assert_eq!(bench(&request, &mut Quiet(3)).unwrap().len(), 0);
    }
}
