//! `run` allocates nothing after a plan's first run, and a resized plan no weights: counted by an allocator of
//! this test's own.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use harness::pinning::Pool;
use harness::verify::forms;
use kernels::backward::{DataPlan, WeightsPlan};
use kernels::matmul::{Matmul, Product, multiply};
use kernels::pool::{PoolPlan, PoolSpec, Pooling};
use kernels::{ConvSpec, PlanOptions, Workspace};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

fn count(bytes: usize) {
    ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    BYTES.fetch_add(bytes, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator as it came.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the system's.
        unsafe { System.dealloc(p, layout) }
    }

    unsafe fn realloc(&self, p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller's promises are the system's.
        unsafe { System.realloc(p, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `work` adds to a counter.
fn added(counter: &AtomicUsize, work: impl FnOnce()) -> usize {
    let before = counter.load(Ordering::Relaxed);
    work();
    counter.load(Ordering::Relaxed) - before
}

fn allocations(work: impl FnOnce()) -> usize {
    added(&ALLOCATIONS, work)
}

/// The only test of this file: others would allocate at the same time.
#[test]
fn what_is_allocated() {
    runs_allocate_nothing();
    resized_plans_allocate_no_weights();
    poolings_allocate_nothing();
    products_allocate_nothing();
    gradients_allocate_nothing();
    // The counters count.
    assert_eq!(allocations(|| drop(vec![1])), 1);
    assert_eq!(added(&BYTES, || drop(vec![1_u64; 3])), 24);
}

fn resized_plans_allocate_no_weights() {
    const SIZES: [(&str, &str); 7] = [
        ("c256 h14 w14 o256 k3 p1", "n8 c256 h14 w14 o256 k3 p1"),
        ("c256 h14 w14 o256 k3 p1 nhwc", "n2 c256 h20 w30 o256 k3 p1 nhwc"),
        ("c128 h14 w14 o128 k5 p2", "n2 c128 h15 w9 o128 k5 p2"),
        ("n4 c512 h7 w7 o512 k1", "c512 h9 w9 o512 k1"),
        ("n4 c512 h7 w7 o512 k1 nhwc", "c512 h9 w9 o512 k1 nhwc"),
        ("c4096 h6 w6 o4096 k7 p3 g4096", "n2 c4096 h9 w9 o4096 k7 p3 g4096"),
        ("c4096 h6 w6 o4096 k7 p3 g4096 nhwc", "n2 c4096 h9 w9 o4096 k7 p3 g4096 nhwc"),
    ];
    let mut counted = HashSet::new();
    for (one, other) in SIZES {
        let (one, other): (ConvSpec, ConvSpec) = (one.parse().unwrap(), other.parse().unwrap());
        let weights = vec![1.0; one.weights_len()];
        for kernel in forms().into_iter().filter(|kernel| kernel.supports(&one).is_ok()) {
            let plan = kernel.plan(&one, &weights, &PlanOptions::default()).unwrap();
            let bytes = added(&BYTES, || drop(plan.resized(&other).unwrap()));
            assert!(4 * weights.len() <= plan.packed_bytes());
            let most = plan.packed_bytes() / 20;
            assert!(bytes < most, "{}: {bytes} bytes for `{one}` to `{other}`, of {most}", kernel.id());
            counted.insert(kernel.algorithm());
        }
    }
    assert_eq!(counted, forms().into_iter().map(|kernel| kernel.algorithm()).collect());
}

fn runs_allocate_nothing() {
    const SPECS: [&str; 7] = [
        "n2 c32 h20 w20 o40 k3 p1",
        "n2 c32 h20 w20 o40 k3 p1 nhwc",
        "c64 h30 w30 o64 k1",
        "c64 h30 w30 o64 k1 s2 nhwc",
        "c64 h40 w40 o64 k3 p1 g64",
        "c64 h40 w40 o64 k5 s2 p2 g64 nhwc",
        "c3 h64 w64 o32 k7 s2 p3",
    ];
    let pool = Pool::new(2).unwrap();
    let mut counted = 0;
    for text in SPECS {
        let spec: ConvSpec = text.parse().unwrap();
        let (input, weights) = (vec![1.0; spec.input_len()], vec![1.0; spec.weights_len()]);
        let bias = vec![1.0; spec.out_channels()];
        let mut output = vec![0.0; spec.output_len()];
        for kernel in forms().into_iter().filter(|kernel| kernel.supports(&spec).is_ok()) {
            for threads in [1, 2] {
                let options = PlanOptions { threads, ..Default::default() };
                let plan = kernel.plan(&spec, &weights, &options).unwrap();
                let mut run = |workspace: &mut Workspace<'_>| {
                    plan.run(&input, Some(&bias), &mut output, workspace).unwrap();
                };
                pool.run(|| {
                    // A workspace of full size: not even the first run.
                    let mut full = plan.workspace();
                    let first = allocations(|| run(&mut full));
                    // rayon's queues grow once.
                    assert!(first == 0 || threads > 1, "{} on `{spec}`: {first}", kernel.id());
                    let mut growing = Workspace::default();
                    run(&mut growing);
                    for _ in 0..3 {
                        let more = allocations(|| run(&mut growing));
                        assert_eq!(more, 0, "{} on `{spec}` with {threads} threads", kernel.id());
                        counted += 1;
                    }
                });
            }
        }
    }
    assert!(counted > 100);
}

fn poolings_allocate_nothing() {
    let pool = Pool::new(2).unwrap();
    for layout in [kernels::Layout::Nchw, kernels::Layout::Nhwc] {
        let builder = PoolSpec::builder().batch(2).channels(40).input_size(50, 50).kernel(3, 3).stride(2, 2);
        let spec = builder.layout(layout).build().unwrap();
        let (input, grads) = (vec![1.0; spec.input_len()], vec![1.0; spec.output_len()]);
        let (mut output, mut grad_input) = (vec![0.0; spec.output_len()], vec![0.0; spec.input_len()]);
        for pooling in [Pooling::Max, Pooling::Average { count_include_pad: true }] {
            for threads in [1, 2] {
                let plan = PoolPlan::new(&spec, pooling, threads).unwrap();
                let mut run = || {
                    plan.run(&input, &mut output).unwrap();
                    plan.backward(&input, &grads, &mut grad_input).unwrap();
                };
                pool.run(|| {
                    // rayon's queues grow once.
                    run();
                    assert_eq!(allocations(&mut run), 0, "{pooling:?} {layout} with {threads} threads");
                });
            }
        }
    }
}

fn products_allocate_nothing() {
    let pool = Pool::new(2).unwrap();
    let (a, b, mut c) = (vec![1.0; 100 * 300], vec![1.0; 300 * 200], vec![0.0; 100 * 200]);
    for threads in [1, 2] {
        let options = PlanOptions { threads, ..Default::default() };
        let plan = Matmul::new(300, 200, &b, false, &options).unwrap();
        let mut run = || {
            plan.run(&a, None, &mut c).unwrap();
            multiply(&Product::new(100, 200, 300), &a, &b, &mut c, &options).unwrap();
        };
        pool.run(|| {
            // rayon's queues grow once.
            run();
            assert_eq!(allocations(&mut run), 0, "{threads} threads");
        });
    }
}

fn gradients_allocate_nothing() {
    let pool = Pool::new(2).unwrap();
    for text in ["n2 c16 h40 w40 o20 k3 p1", "n2 c16 h40 w40 o20 k3 s2 p1 nhwc", "c32 h30 w30 o32 k3 p1 g32"]
    {
        let spec: ConvSpec = text.parse().unwrap();
        let (input, weights) = (vec![1.0; spec.input_len()], vec![1.0; spec.weights_len()]);
        let grad_output = vec![1.0; spec.output_len()];
        let (mut by_data, mut by_weights) = (input.clone(), weights.clone());
        let mut by_bias = vec![0.0; spec.out_channels()];
        for threads in [1, 2] {
            let options = PlanOptions { threads, ..Default::default() };
            let data = DataPlan::new("auto", &spec, &weights, &options).unwrap();
            let product = WeightsPlan::new("auto", &spec, &options).unwrap();
            let mut workspace = Workspace::default();
            let mut run = || {
                data.run(&grad_output, None, &mut by_data, &mut workspace).unwrap();
                let bias = Some(&mut by_bias[..]);
                product.run(&input, &grad_output, &mut by_weights, bias, &mut workspace).unwrap();
            };
            pool.run(|| {
                // The workspace and rayon's queues grow once.
                run();
                assert_eq!(allocations(&mut run), 0, "`{text}` with {threads} threads");
            });
        }
    }
}
