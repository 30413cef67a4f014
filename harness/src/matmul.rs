//! Matrix products held to their definition in float64, on random cases.

use kernels::matmul::{Matmul, Product, multiply};
use kernels::{Activation, Isa, PlanOptions};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::check::UNIT_ROUNDOFF;
use crate::guard::Guarded;
use crate::verify::same_bits;

/// A test case.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// m, n and k.
    pub sizes: [usize; 3],
    /// Whether each of the matrices is given transposed.
    pub transposed: [bool; 2],
    /// Whether the right one is packed first; the left one is not transposed then.
    pub packed: bool,
    /// Options of the product.
    pub options: PlanOptions,
    /// Whether a bias is given, where the right one is packed.
    pub with_bias: bool,
    /// f32s by which the buffers are moved off their natural alignment.
    pub offset: usize,
    /// Seed of the data.
    pub seed: u64,
}

/// Checks a case: values, canaries, a second run, one thread.
///
/// # Errors
/// What is wrong.
pub fn run_case(isa: Isa, case: &Case) -> Result<(), String> {
    let Case { sizes: [m, n, k], transposed, packed, options, offset, .. } = *case;
    let mut rng = ChaCha8Rng::seed_from_u64(case.seed);
    let mut values = |len: usize| -> Vec<f32> { (0..len).map(|_| rng.random_range(-1.0..1.0)).collect() };
    let (a, b, bias, previous) = (values(m * k), values(k * n), values(n), values(m * n));
    let guarded = |values: &[f32]| Guarded::new(values, offset);
    let (left, right) = (guarded(&a), guarded(&b));
    let bias = (case.with_bias && packed).then(|| guarded(&bias));
    let product = |threads| {
        let options = PlanOptions { threads, ..options };
        let mut c = guarded(&previous);
        if packed {
            let plan = Matmul::on(isa, k, n, right.slice(), transposed[1], &options)?;
            plan.run(left.slice(), bias.as_ref().map(Guarded::slice), c.slice_mut())?;
        } else {
            let mut product = Product::new(m, n, k).on(isa);
            product = if transposed[0] { product.transpose_a() } else { product };
            product = if transposed[1] { product.transpose_b() } else { product };
            multiply(&product, left.slice(), right.slice(), c.slice_mut(), &options)?;
        }
        Ok::<_, kernels::ConvError>(c)
    };
    let c = product(options.threads).map_err(|error| error.to_string())?;
    if !c.is_intact() {
        return Err("writes outside the result".to_owned());
    }
    for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
        let (mut value, mut scale) = (0.0, 0.0);
        let mut add = |term: f64| (value, scale) = (value + term, scale + term.abs());
        for p in 0..k {
            let x = a[if transposed[0] && !packed { p * m + i } else { i * k + p }];
            let y = b[if transposed[1] { j * k + p } else { p * n + j }];
            add(f64::from(x) * f64::from(y));
        }
        if let Some(bias) = &bias {
            add(f64::from(bias.slice()[j]));
        }
        if options.accumulate {
            add(f64::from(previous[i * n + j]));
        }
        let want = match options.activation {
            Some(Activation::Relu) => value.max(0.0),
            Some(Activation::Clamp { min, max }) => value.clamp(f64::from(min), f64::from(max)),
            None => value,
        };
        let got = c.slice()[i * n + j];
        let allowed = (k as f64 + 3.0) * UNIT_ROUNDOFF * scale;
        if got.is_nan() || (f64::from(got) - want).abs() > allowed {
            return Err(format!("element ({i}, {j}) is {got:e}, but must be {want:e} within {allowed:e}"));
        }
    }
    for threads in [options.threads, 1] {
        let again = product(threads).map_err(|error| error.to_string())?;
        if !same_bits(c.slice(), again.slice()) {
            return Err(format!("another run with {threads} threads gives other bits"));
        }
    }
    Ok(())
}

/// Any product of few terms.
pub fn case() -> impl Strategy<Value = Case> {
    let size = || prop_oneof![3 => 1..=9usize, 3 => 10..=40usize, 1 => 41..=130usize];
    let terms = prop_oneof![3 => 1..=40usize, 1 => 100..=600usize];
    let activation = prop_oneof![
        3 => Just(None),
        1 => Just(Some(Activation::Relu)),
        1 => Just(Some(Activation::Clamp { min: -0.5, max: 0.5 })),
    ];
    let how = (any::<[bool; 2]>(), any::<bool>(), any::<bool>(), any::<bool>(), activation, 1..=3usize);
    ((size(), size(), terms), how, 0..16usize, 0..u64::MAX).prop_map(|((m, n, k), how, offset, seed)| {
        let sizes = [m, n, k];
        let (transposed, packed, with_bias, accumulate, activation, threads) = how;
        let options = PlanOptions { threads, activation, accumulate, ..Default::default() };
        Case { sizes, transposed, packed, options, with_bias, offset, seed }
    })
}
