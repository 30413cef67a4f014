//! Inference allocates nothing, not even in its first run: counted by an allocator of this test's own.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use cnn::{
    Conv, Graph, Inference, InferenceOptions, Layer, Linear, Shape, Training, TrainingOptions, Weights,
    networks,
};

struct Counting;

thread_local! {
    /// This thread's: runs on one thread, while the test runner's own goes on.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the system's.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn what_is_allocated() {
    let image = |size| Shape::image(3, size, size);
    let nets = [
        networks::lenet5(),
        networks::sized("alexnet", image(63), 10),
        networks::sized("resnet18", image(32), 10),
        networks::sized("mobilenet_v2", image(32), 10),
    ];
    for net in nets.map(Result::unwrap) {
        let weights = Weights::random(&net, 1).unwrap();
        let input = vec![0.5; 2 * net.input_shape().len()];
        for fuse in [true, false] {
            let options = InferenceOptions { batch: 2, fuse, ..Default::default() };
            let mut inference = Inference::new(&net, &weights, &options).unwrap();
            for _ in 0..3 {
                assert_eq!(allocations(|| assert!(inference.run(&input).is_ok())), 0);
            }
            assert_eq!(allocations(|| assert!(inference.run_observed(&input, |_, _, _| ()).is_ok())), 0);
        }
    }

    // Training: without convolutions nothing, with them only their packed weights.
    let mut net = Graph::new(Shape::image(1, 4, 4)).unwrap();
    net.then("pool", Layer::MaxPool(cnn::Pool::new(2))).unwrap();
    net.then("flatten", Layer::Flatten).unwrap();
    net.then("fc", Linear::new(4, 8)).unwrap();
    net.then("norm", cnn::BatchNorm::new(8)).unwrap();
    net.then("relu", Layer::RELU).unwrap();
    net.then("dropout", Layer::Dropout(0.1)).unwrap();
    net.then("scores", Linear::new(8, 3)).unwrap();
    assert_eq!(training(&net, [0.1, 0.2]), 0);
    let mut net = Graph::new(Shape::image(1, 4, 4)).unwrap();
    net.then("conv", Conv::new(1, 2, 3)).unwrap();
    net.then("flatten", Layer::Flatten).unwrap();
    net.then("scores", Linear::new(8, 3)).unwrap();
    assert!(training(&net, [0.1, 0.2]) < 40);

    // The counter counts.
    assert_eq!(allocations(|| drop(vec![1])), 1);
}

/// Allocations of a step that is not the first.
fn training(net: &Graph, values: [f32; 2]) -> usize {
    let weights = Weights::random(net, 1).unwrap();
    let options = TrainingOptions { batch: 2, ..Default::default() };
    let mut training = Training::new(net, weights, &options).unwrap();
    let images: Vec<f32> = values.into_iter().cycle().take(32).collect();
    training.step(&images, &[0, 2]).unwrap();
    allocations(|| assert!(training.step(&images, &[0, 2]).is_ok()))
}
