//! Compiled kernels on disk: used again by the next process, made again when they are not what they should be.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use kernels::{ConvSpec, PlanOptions, Workspace, kernel};

use super::standin::{CHILD, stand_in};

/// A folder that goes with its test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cache-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Folder(path)
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn start(cache: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["cuda::cache::child_convolves", "--exact", "--ignored", "--nocapture"])
        .env(CHILD, "1")
        .env("CONV_CUDA_CACHE", cache)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// How many kernels the process compiled.
fn compiled(child: Child) -> usize {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    text.lines().find_map(|line| line.strip_prefix("compiled ")?.parse().ok()).expect("it was not run")
}

#[test]
#[ignore = "run by other tests in processes of their own"]
fn child_convolves() {
    let Some(stand_in) = stand_in() else { return };
    let spec: ConvSpec = "c260 h5 w5 o12 k3 p1".parse().unwrap();
    let weights = vec![1.0; spec.weights_len()];
    let plan = kernel("cuda-fp32").unwrap().plan(&spec, &weights, &PlanOptions::default()).unwrap();
    let mut output = vec![0.0; spec.output_len()];
    plan.run(&vec![1.0; spec.input_len()], None, &mut output, &mut Workspace::default()).unwrap();
    assert_eq!(output[12], 9.0 * 260.0);
    println!("compiled {}", stand_in.nvrtc("compiled"));
}

/// A name, and what becomes of a file's bytes.
type Spoilt = (&'static str, fn(Vec<u8>) -> Vec<u8>);

#[test]
fn compiled_kernels_are_kept_and_checked() {
    let Some(_) = stand_in() else { return };
    let folder = Folder::new("kept");
    let run = || compiled(start(&folder.0));
    let kernels = run();
    assert!(kernels >= 1);
    assert_eq!((folder.files().len(), run()), (kernels, 0));
    let spoilt: [Spoilt; 5] = [
        ("empty", |_| Vec::new()),
        ("cut", |bytes| bytes[..bytes.len() / 2].to_vec()),
        ("longer", |bytes| [&bytes[..], b"more"].concat()),
        ("changed", |mut bytes| {
            let middle = bytes.len() - 100;
            bytes[middle] ^= 1;
            bytes
        }),
        ("something else", |_| vec![b'x'; 5000]),
    ];
    for (how, spoil) in spoilt {
        for file in folder.files() {
            let bytes = fs::read(&file).unwrap();
            fs::write(&file, spoil(bytes)).unwrap();
        }
        assert_eq!(run(), kernels, "{how}");
        assert_eq!((folder.files().len(), run()), (kernels, 0), "after {how}");
    }
    // A folder in the place of a file.
    let file = folder.files().remove(0);
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert_eq!(run(), 1);
}

#[test]
fn without_a_folder_every_process_compiles() {
    let Some(_) = stand_in() else { return };
    let folder = Folder::new("none");
    fs::create_dir_all(&folder.0).unwrap();
    let file = folder.0.join("file");
    fs::write(&file, "").unwrap();
    for cache in [Path::new(""), &file, &file.join("below")] {
        for _ in 0..2 {
            assert!(compiled(start(cache)) >= 1, "{}", cache.display());
        }
    }
    assert_eq!(folder.files(), [file]);
}

#[test]
fn processes_that_start_together_do_not_disturb_each_other() {
    let Some(_) = stand_in() else { return };
    let alone = Folder::new("alone");
    let kernels = compiled(start(&alone.0));
    let folder = Folder::new("together");
    let children: Vec<Child> = (0..6).map(|_| start(&folder.0)).collect();
    // Each may find what another has just compiled.
    assert!(children.into_iter().map(compiled).sum::<usize>() >= kernels);
    assert_eq!((folder.files().len(), compiled(start(&folder.0))), (kernels, 0));
}
