//! The harness catches what it is for: plans with planted faults fail its checks, and the same plans
//! without pass.

use harness::data::{self, Kind};
use harness::errors::Reference;
use harness::strategy::Case;
use harness::verify::check_run;
use kernels::{ConvError, ConvSpec, ErrorModel, Plan, PlanOptions, Workspace, kernel};

/// What a faulty plan does to an output, given the input and the scratch memory.
type Fault = fn(&ConvSpec, &[f32], &[f32], &mut [f32]);

/// A right plan whose output a fault then spoils.
#[derive(Debug)]
struct Faulty {
    plan: Box<dyn Plan>,
    fault: Fault,
    /// Scratch memory that the faulty plan asks for.
    extra: usize,
    with_bias: bool,
}

impl Plan for Faulty {
    fn spec(&self) -> &ConvSpec {
        self.plan.spec()
    }

    fn kernel_id(&self) -> &str {
        "faulty"
    }

    fn error_model(&self) -> ErrorModel {
        self.plan.error_model()
    }

    fn threads(&self) -> usize {
        1
    }

    fn workspace_len(&self) -> usize {
        self.extra
    }

    fn packed_bytes(&self) -> usize {
        0
    }

    fn resized(&self, spec: &ConvSpec) -> Result<Box<dyn Plan>, ConvError> {
        Ok(Box::new(Faulty { plan: self.plan.resized(spec)?, ..*self }))
    }

    fn run(
        &self,
        input: &[f32],
        bias: Option<&[f32]>,
        output: &mut [f32],
        workspace: &mut Workspace<'_>,
    ) -> Result<(), ConvError> {
        // A borrowed workspace cannot be looked into from outside: it is dirty, and so is this.
        let scratch = vec![f32::NAN; workspace.len()];
        let bias = bias.filter(|_| self.with_bias);
        self.plan.run(input, bias, output, &mut Workspace::default())?;
        (self.fault)(self.plan.spec(), input, &scratch, output);
        Ok(())
    }
}

fn check(text: &str, kind: Kind, with_bias: bool, fault: Fault) -> Result<(), String> {
    let spec: ConvSpec = text.parse().unwrap();
    let options = PlanOptions::default();
    let case = Case { spec, options, with_bias: true, kind, offset: 3, seed: 11 };
    let tensors = data::tensors(&spec, kind, case.seed);
    let plan = kernel("naive").unwrap().plan(&spec, &tensors.weights, &options).unwrap();
    check_run(&Faulty { plan, fault, extra: 8, with_bias }, &case, &tensors)
}

const SPECS: [&str; 3] = ["n2 c6 h9 w10 o5 k3 s2 p1", "c16 h5 w5 o8 k1 nhwc", "c4 h8 w8 o8 k3 p1 g4"];

#[test]
fn a_right_plan_passes() {
    for text in SPECS {
        for kind in Kind::ALL {
            check(text, kind, true, |_, _, _, _| {}).unwrap();
        }
    }
}

#[test]
fn planted_faults_are_caught() {
    let faults: [(&str, Fault); 10] = [
        ("the last output is not written", |_, _, _, y| y[y.len() - 1] = f32::NAN),
        ("the last output is zero", |_, _, _, y| y[y.len() - 1] = 0.0),
        ("two outputs change places", |_, _, _, y| y.swap(0, 1)),
        ("outputs are in the other layout", |spec, _, _, y| {
            let (maps, pixels) = (spec.out_channels(), spec.out_height() * spec.out_width());
            let old = y.to_vec();
            for (i, value) in y[..maps * pixels].iter_mut().enumerate() {
                *value = old[i % maps * pixels + i / maps];
            }
        }),
        ("one output is off by twice its bound", |spec, _, _, y| {
            let terms = (spec.weights_len() / spec.out_channels()) as f32;
            let i = y.len() / 2;
            y[i] += 2.0 * (terms + 3.0) * (y[i].abs() + 10_000.0) / 16_777_216.0;
        }),
        ("scratch memory is read before it is written", |_, _, scratch, y| y[0] += 0.0 * scratch[0]),
        ("the sign of a row", |spec, _, _, y| y[..spec.out_width()].iter_mut().for_each(|v| *v = -*v)),
        ("infinite", |_, _, _, y| y[3] = f32::INFINITY),
        ("half precision", |_, _, _, y| {
            y.iter_mut().for_each(|v| *v = f32::from_bits(v.to_bits() & 0xffff_e000));
        }),
        ("a pixel is added that padding should hold", |_, x, _, y| y[0] += x[x.len() - 1] + 0.125),
    ];
    for text in SPECS {
        for (name, fault) in faults {
            let caught = Kind::ALL.into_iter().any(|kind| check(text, kind, true, fault).is_err());
            assert!(caught, "{name} passes on `{text}`");
        }
        assert!(check(text, Kind::Real, false, |_, _, _, _| {}).is_err(), "a lost bias passes on `{text}`");
    }
}

#[test]
fn a_second_run_that_differs_is_caught() {
    use std::sync::atomic::{AtomicU32, Ordering};
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let fault: Fault = |_, _, _, y| {
        if RUNS.fetch_add(1, Ordering::Relaxed) % 2 == 1 {
            // Within any bound, but not the same bits.
            y[0] = f32::from_bits(y[0].to_bits() ^ 1);
        }
    };
    let what = check(SPECS[0], Kind::Real, true, fault).unwrap_err();
    assert_eq!(what, "a second run gives other bits");
}

/// Whoever measures errors is told of those that are no rounding, also of those that are no number.
#[test]
fn errors_beyond_the_bound_are_seen() {
    let spec: ConvSpec = SPECS[0].parse().unwrap();
    let reference = Reference::new(&spec, 5);
    let errors = |fault: Fault| {
        let options = PlanOptions::default();
        let plan = kernel("naive").unwrap().plan(&spec, &reference.tensors().weights, &options).unwrap();
        reference.errors_of(&Faulty { plan, fault, extra: 0, with_bias: true }).unwrap()
    };
    let right = errors(|_, _, _, _| ());
    assert!(right.mismatch.is_none() && right.share <= 1.0 && right.relative < 1e-6, "{right:?}");
    let wrong = errors(|_, _, _, output| output[7] += 0.5);
    assert!(wrong.mismatch.is_some() && wrong.share > 1.0 && wrong.largest > 0.01, "{wrong:?}");
    let none = errors(|_, _, _, output| output[7] = f32::NAN);
    assert!(none.mismatch.is_some_and(|mismatch| mismatch.got.is_nan()), "{none:?}");
    assert_eq!([none.share, none.relative, none.largest, none.units], [f64::INFINITY; 4]);
}
