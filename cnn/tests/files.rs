//! Weights in files: what torchvision's names are, and files that are broken.

use std::fs;
use std::path::PathBuf;

use cnn::{Error, Weights, networks};

fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("cnn-files-{}-{name}.safetensors", std::process::id()))
}

/// A safetensors file of this header and so many bytes of values.
fn file(header: &str, values: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + values, 0);
    bytes
}

#[test]
fn names_are_torchvisions() {
    let has = |network: &str, names: &[&str]| {
        let net = networks::network(network).unwrap();
        for name in names {
            assert!(net.parameters().iter().any(|p| p.name == *name), "{network}: {name}");
        }
    };
    has("alexnet", &["features.0.weight", "features.10.bias", "classifier.1.weight", "classifier.6.bias"]);
    has("vgg16", &["features.28.weight", "classifier.0.weight", "classifier.3.bias", "classifier.6.weight"]);
    has(
        "resnet18",
        &["conv1.weight", "layer4.1.conv2.weight", "layer2.0.downsample.1.running_var", "fc.bias"],
    );
    has(
        "resnet50",
        &["bn1.running_mean", "layer1.0.downsample.0.weight", "layer3.5.bn3.weight", "fc.weight"],
    );
    has(
        "mobilenet_v2",
        &[
            "features.0.0.weight",
            "features.1.conv.0.1.bias",
            "features.1.conv.2.running_mean",
            "features.17.conv.3.weight",
            "features.18.1.running_var",
            "classifier.1.weight",
        ],
    );
}

#[test]
fn weights_come_back() {
    let net = networks::lenet5().unwrap();
    let weights = Weights::random(&net, 1).unwrap();
    let path = path("round");
    weights.save(&path).unwrap();
    assert_eq!(Weights::load(&net, &path).unwrap(), weights);
    assert_ne!(Weights::random(&net, 2).unwrap(), weights);
    // Another network's.
    let message = Weights::load(&networks::resnet18().unwrap(), &path).unwrap_err().to_string();
    assert!(message.contains("which the network does not have"), "{message}");
    // Every prefix of a file is an error, and so is a longer one.
    let whole = fs::read(&path).unwrap();
    for length in (0..whole.len()).step_by(997).chain([7, 8, 9, whole.len() - 1]) {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(matches!(Weights::load(&net, &path), Err(Error::File { .. })), "{length}");
    }
    fs::write(&path, [whole.as_slice(), &[0; 4]].concat()).unwrap();
    assert!(Weights::load(&net, &path).is_err());
    fs::remove_file(path).unwrap();
}

#[test]
fn broken_files_are_named_errors() {
    let mut net = cnn::Graph::new(cnn::Shape::Features(2)).unwrap();
    net.then("fc", cnn::Linear::new(2, 3)).unwrap();
    let entry = |name: &str, dtype: &str, shape: &str, from: usize, to: usize| {
        format!("\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[{from},{to}]}}")
    };
    let bias = entry("fc.bias", "F32", "[3]", 24, 36);
    let weight = entry("fc.weight", "F32", "[3,2]", 0, 24);
    let path = path("broken");
    let load = |bytes: &[u8]| {
        // A new file is written in no time; one that is overwritten waits for the disk.
        let _ = fs::remove_file(&path);
        fs::write(&path, bytes).unwrap();
        Weights::load(&net, &path).map_err(|error| error.to_string())
    };
    assert!(load(&file(&format!("{{{weight},{bias}}}"), 36)).is_ok());
    let counter = entry("bn.num_batches_tracked", "I64", "[]", 36, 44);
    assert!(load(&file(&format!("{{{weight},{bias},{counter}}}"), 44)).is_ok());
    let cases = [
        (format!("{{{weight}}}"), 24, "lacks `fc.bias` of shape [3]"),
        (
            format!("{{{},{bias}}}", entry("fc.weight", "F32", "[2,3]", 0, 24)),
            36,
            "`fc.weight` is F32 of shape [2, 3]",
        ),
        (format!("{{{},{bias}}}", entry("fc.weight", "I32", "[3,2]", 0, 24)), 36, "`fc.weight` is I32"),
        (
            format!("{{{weight},{bias},{}}}", entry("more", "F32", "[1]", 36, 40)),
            40,
            "holds `more`, which the network does not have",
        ),
        (format!("{{{weight},{bias}}}"), 35, "is no safetensors file"),
        (
            format!("{{{weight},{}}}", entry("fc.bias", "F32", "[18446744073709551615,3]", 24, 36)),
            36,
            "is no safetensors file",
        ),
        (format!("{{{weight},{}}}", entry("fc.bias", "F32", "[3]", 36, 24)), 36, "is no safetensors file"),
        ("{".repeat(1000), 0, "is no safetensors file"),
    ];
    for (header, values, wanted) in cases {
        let message = load(&file(&header, values)).unwrap_err();
        assert!(message.contains(wanted), "{message}");
    }
    // Sizes whose sum is just below what can be counted.
    let most = (1 << 61) - 1;
    let huge: Vec<String> = (0..8)
        .map(|i| {
            entry(&format!("{i}.num_batches_tracked"), "U8", &format!("[{most}]"), i * most, (i + 1) * most)
        })
        .collect();
    let message = load(&file(&format!("{{{}}}", huge.join(",")), 0)).unwrap_err();
    assert!(
        message.ends_with("it has 0 bytes of values, but its header says 18446744073709551608"),
        "{message}"
    );
    assert!(load(&[0; 7]).unwrap_err().ends_with("is no safetensors file: it is too short"));
    assert!(load(&9u64.to_le_bytes()).unwrap_err().ends_with("it ends within its header"));
    assert!(load(&u64::MAX.to_le_bytes()).unwrap_err().contains("its header has 18446744073709551615 bytes"));
    // Any byte may be wrong: an error, or values that are other ones.
    let whole = file(&format!("{{{weight},{bias}}}"), 36);
    for i in 0..whole.len() {
        for wrong in [0, b'"', b'9', b']', 0xff, whole[i] ^ 1] {
            let mut bytes = whole.clone();
            bytes[i] = wrong;
            let in_header = bytes[..whole.len() - 36] != whole[..whole.len() - 36];
            assert!(load(&bytes).is_err() || !in_header, "byte {i} as {wrong}");
        }
    }
    // More than such weights can be is not even read.
    assert!(load(&vec![0; 2 << 20]).unwrap_err().contains("has more than the"));
    fs::remove_file(&path).unwrap();
    assert!(Weights::load(&net, &path).unwrap_err().to_string().contains("No such file"));
}

/// A header that takes the place of values is not parsed, however many the network has.
#[test]
fn memory_is_bounded() {
    let mut net = cnn::Graph::new(cnn::Shape::Features(1000)).unwrap();
    net.then("fc", cnn::Linear::new(1000, 1000)).unwrap();
    let path = path("header");
    fs::write(&path, file(&format!("{{{}}}", " ".repeat(2 << 20)), 0)).unwrap();
    let message = Weights::load(&net, &path).unwrap_err().to_string();
    assert!(message.ends_with("its header has 2097154 bytes, but 1048576 are the most"), "{message}");

    // Weights whose bytes cannot be counted.
    let mut net = cnn::Graph::new(cnn::Shape::Features(1 << 26)).unwrap();
    for i in 0..1100 {
        net.then(&i.to_string(), cnn::Linear::new(1 << 26, 1 << 26)).unwrap();
    }
    assert!(matches!(Weights::load(&net, &path), Err(Error::File { .. })));
    fs::remove_file(path).unwrap();
}

/// What cannot be written leaves what was there.
#[test]
fn files_are_written_whole_or_not_at_all() {
    let net = networks::lenet5().unwrap();
    let weights = Weights::random(&net, 1).unwrap();
    let folder = std::env::temp_dir().join(format!("cnn-whole-{}", std::process::id()));
    let path = folder.join("weights.safetensors");
    assert!(weights.save(&path).unwrap_err().to_string().contains("No such file"));
    fs::create_dir_all(&path).unwrap();
    // A folder cannot be replaced by a file.
    assert!(weights.save(&path).is_err());
    assert!(path.is_dir());
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing is left of the attempt");
    fs::remove_dir_all(folder).unwrap();
}
