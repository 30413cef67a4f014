//! Broken models: an error or another network, never a panic, in memory of a multiple of the file.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use cnn::onnx::proto::{Graph, Model, Node, OperatorSet, Tensor, ValueInfo};
use cnn::{BatchNorm, Conv, Inference, Layer, Linear, Lrn, Pool, Shape, Weights, onnx};
use prost::Message;

struct Counting;

thread_local! {
    /// This thread's bytes now, and the most there were.
    static BYTES: Cell<[isize; 2]> = const { Cell::new([0; 2]) };
}

fn count(bytes: isize) {
    let [now, most] = BYTES.get();
    BYTES.set([now + bytes, most.max(now + bytes)]);
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promises are the system's.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What reading gives, and the most bytes that it took at a time beside the file.
fn read(bytes: Vec<u8>) -> (Result<onnx::Model, cnn::Error>, isize) {
    let [before, _] = BYTES.get();
    BYTES.set([before; 2]);
    let result = onnx::read(bytes);
    (result, BYTES.get()[1] - before)
}

/// Every layer in little.
fn small() -> cnn::Graph {
    let mut net = cnn::Graph::new(Shape::image(2, 5, 5)).unwrap();
    net.then("c", Conv::new(2, 2, 3).padding(1).groups(2)).unwrap();
    let branch = net.then("r", Layer::RELU).unwrap();
    net.then("n", BatchNorm::new(2)).unwrap();
    net.push("a", Layer::Add, &[net.last(), branch]).unwrap();
    net.then("l", Lrn { size: 3, alpha: 0.5, beta: 0.6, k: 1.5 }).unwrap();
    net.then("m", Layer::MaxPool(Pool { dilation: [2, 1], ..Pool::new(2).stride(1) })).unwrap();
    net.then("v", Layer::AvgPool(Pool { ceil_mode: true, ..Pool::new(2).padding(1) })).unwrap();
    net.then("6", Layer::RELU6).unwrap();
    net.then("g", Layer::GlobalAvgPool).unwrap();
    net.then("f", Layer::Flatten).unwrap();
    net.then("d", Layer::Dropout(0.5)).unwrap();
    net.then("s", Linear::new(2, 3)).unwrap();
    net.then("p", Layer::SOFTMAX).unwrap();
    net
}

#[test]
fn models_may_be_cut_or_changed_anywhere() {
    let net = small();
    let whole = onnx::write(&net, &Weights::random(&net, 1).unwrap(), None).unwrap();
    let most = 64 * whole.len() as isize;
    assert!(read(whole.clone()).0.is_ok());
    for length in 0..whole.len() {
        let (result, memory) = read(whole[..length].to_vec());
        let message = result.unwrap_err().to_string();
        assert!(message.lines().count() == 1 && memory < most, "{length}: {message}, {memory} bytes");
    }
    let (mut read_all_the_same, mut other_networks) = (0, 0);
    for place in 0..whole.len() {
        for byte in
            [0, 1, 0x7f, 0x80, 0xff, whole[place] ^ 1, whole[place] ^ 0x80, whole[place].wrapping_add(1)]
        {
            let mut bytes = whole.clone();
            bytes[place] = byte;
            let (result, memory) = read(bytes);
            assert!(memory < most, "byte {place} as {byte}: {memory} bytes");
            match result {
                Err(error) => {
                    assert_eq!(error.to_string().lines().count(), 1, "byte {place} as {byte}: {error}")
                }
                Ok(model) => {
                    read_all_the_same += 1;
                    let sizes = model.graph.nodes().iter().map(|node| node.shape().len());
                    if model.graph != net && sizes.sum::<usize>() < 1 << 16 {
                        other_networks += 1;
                        let mut inference =
                            Inference::new(&model.graph, &model.weights, &Default::default()).unwrap();
                        inference.run(&vec![0.5; model.graph.input_shape().len()]).unwrap();
                    }
                }
            }
        }
    }
    assert!(read_all_the_same > 1000 && other_networks > 100, "{read_all_the_same} {other_networks}");
}

fn chain(graph: Graph, output: &str) -> Vec<u8> {
    let input = vec![ValueInfo::float("x", vec![1.into(), 100.into()])];
    let output = vec![ValueInfo { name: output.to_owned(), r#type: None }];
    let opset_import = vec![OperatorSet { domain: String::new(), version: 13 }];
    let graph = Some(Graph { input, output, ..graph });
    Model { ir_version: 8, opset_import, graph, ..Default::default() }.encode_to_vec()
}

fn node(op_type: &str, input: &[&str], output: &str) -> Node {
    Node {
        input: input.iter().map(|&name| name.to_owned()).collect(),
        output: vec![output.to_owned()],
        op_type: op_type.to_owned(),
        ..Default::default()
    }
}

/// Files that ask for more memory than they have bytes.
#[test]
fn little_files_take_little_memory() {
    let refused = |bytes: Vec<u8>, wanted: &str| {
        let most = 100 * bytes.len() as isize + (1 << 20);
        let (result, memory) = read(bytes);
        let message = result.unwrap_err().to_string();
        assert!(message.contains(wanted) && memory < most, "{message}: {memory} of {most} bytes");
    };
    // Two bytes each.
    refused(
        chain(Graph { node: vec![Node::default(); 100_000], ..Default::default() }, "y"),
        "more than a model",
    );
    // One constant as the weights of many layers.
    let weights = Tensor::float("w", &[100, 100], &[0.0; 10_000]);
    let names: Vec<String> = (0..10_000).map(|i| format!("v{i}")).collect();
    let nodes = names.windows(2).map(|pair| node("MatMul", &[&pair[0], "w"], &pair[1]));
    let first = node("Relu", &["x"], "v0");
    let graph = Graph {
        node: [first].into_iter().chain(nodes).collect(),
        initializer: vec![weights],
        ..Default::default()
    };
    refused(chain(graph, "v9999"), "use the constants of the file too often");
    // A list of lists.
    let list = Tensor {
        name: "l".to_owned(),
        dims: vec![64],
        data_type: 7,
        int64_data: vec![1; 64],
        ..Default::default()
    };
    let graph = Graph {
        node: vec![node("Concat", &["l"; 100_000], "s"), node("Reshape", &["x", "s"], "y")],
        initializer: vec![list],
        ..Default::default()
    };
    refused(chain(graph, "y"), "Reshape of `y`: ");
    // Extents that nothing has.
    let huge =
        Tensor { dims: vec![100, i64::MAX / 400], data_type: 1, name: "w".to_owned(), ..Default::default() };
    let graph =
        Graph { node: vec![node("MatMul", &["x", "w"], "y")], initializer: vec![huge], ..Default::default() };
    refused(chain(graph, "y"), "its constant `w` of shape [100, 23058430092136939] has 0 values");
    let none = Tensor { dims: vec![0, i64::MAX], data_type: 1, name: "w".to_owned(), ..Default::default() };
    let graph =
        Graph { node: vec![node("Gemm", &["x", "w"], "y")], initializer: vec![none], ..Default::default() };
    refused(chain(graph, "y"), "its constant `w` is of shape [0, 9223372036854775807], but must be a matrix");
}
