//! The GPU in convbench: reasons where there is none; and with stand-ins for driver, compiler and cuDNN rows by the
//! GPU's own clock, verified, recorded and reported.

#[path = "cuda/standin.rs"]
#[allow(dead_code)]
mod standin;

mod cuda {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output};
    use std::sync::OnceLock;

    use harness::record::{self, Clock, Precision, Record, Role, Status};

    use super::standin::{StandIn, stand_in};

    fn convbench() -> Command {
        Command::new(env!("CARGO_BIN_EXE_convbench"))
    }

    /// Without a driver, wherever the tests run.
    fn without_gpu(args: &[&str]) -> Output {
        convbench().args(args).env("CONV_CUDA_DRIVER", "/nowhere/libcuda.so.1").output().unwrap()
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    fn temporary(name: &str) -> PathBuf {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        let _ = fs::remove_file(&path);
        path
    }

    const NO_DRIVER: &str = "the driver's library /nowhere/libcuda.so.1 could not be loaded";

    #[test]
    fn without_a_gpu_info_and_kernels_say_why() {
        let info = without_gpu(&["info"]);
        assert!(info.status.success());
        let line = text(&info.stdout).lines().find(|line| line.starts_with("GPU")).unwrap().to_owned();
        assert!(line.starts_with("GPU        none: ") && line.contains(NO_DRIVER), "{line}");
        let info: serde_json::Value =
            serde_json::from_slice(&without_gpu(&["info", "--json"]).stdout).unwrap();
        assert_eq!((&info["gpus"], &info["gpu_roofs"]), (&serde_json::json!([]), &serde_json::json!([])));
        assert!(info["gpu_reason"].as_str().unwrap().contains(NO_DRIVER), "{info}");
        let kernels = without_gpu(&["kernels"]);
        let listed = text(&kernels.stdout);
        for id in kernels::kernels().filter(|kernel| kernel.on_gpu()).map(|kernel| kernel.id()) {
            let line = listed.lines().find(|line| line.split(' ').next() == Some(id)).unwrap();
            assert!(line.contains("not available: ") && line.contains(NO_DRIVER), "{line}");
        }
    }

    /// As for any other kernel or library that is not available: a row with the reason, and exit code 2 where no row
    /// could be met.
    #[test]
    fn without_a_gpu_rows_say_why() {
        let path = temporary("none.jsonl");
        let file = path.to_str().unwrap();
        let bench = ["bench", "--spec", "c4 h6 w6 o4 k3", "--time", "0.001", "--json", file, "--kernel"];
        let output = without_gpu(&[&bench[..], &["cuda-fp32", "--peers", "cudnn"]].concat());
        assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains(NO_DRIVER), "{}", text(&output.stderr));
        let rows = record::read(&path).unwrap().0;
        let ids: Vec<(&str, Clock)> = rows.iter().map(|row| (row.requested.as_str(), row.clock)).collect();
        let device = |id| (id, Clock::Device);
        let want = [("cuda-fp32", Clock::Warm), device("cuda-fp32"), device("cudnn"), device("cudnn-tf32")];
        assert_eq!(ids, want);
        for row in &rows {
            let reason = row.reason.as_deref().unwrap();
            assert_eq!((row.status, row.median_ns, row.device.as_ref()), (Status::Unavailable, None, None));
            // cuDNN may be missing as well, which is said first.
            assert!(reason.contains(NO_DRIVER) || reason.contains("cuDNN"), "{row:?}");
        }
        // Beside one that works the program ends well.
        let output = without_gpu(&[&bench[..], &["direct,cuda-fp32", "--clock", "warm"]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_cudnn_that_is_none_is_refused() {
        let spec = ["bench", "--spec", "c4 h6 w6 o4 k3", "--time", "0.001"];
        let output = without_gpu(&[&spec[..], &["--cudnn", "/nowhere/libcudnn.so.9"]].concat());
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains("--peers does not name cudnn"), "{}", text(&output.stderr));
        let peers = ["--peers", "cudnn", "--cudnn"];
        for (file, reason) in [("/nowhere/libcudnn.so.9", "No such file"), ("/usr", "is a folder")] {
            let output = without_gpu(&[&spec[..], &peers, &[file]].concat());
            assert_eq!(output.status.code(), Some(2));
            let message = text(&output.stderr);
            assert!(message.contains(file) && message.contains(reason), "{message}");
        }
        let no_cudnn = env!("CARGO_BIN_EXE_convbench");
        let output = without_gpu(&[&spec[..], &peers, &[no_cudnn]].concat());
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(text(&output.stderr).lines().count(), 1);
    }

    /// The stand-in for cuDNN, built once for all tests.
    fn cudnn(stand_in: &StandIn) -> &'static Path {
        static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
        LIBRARY.get_or_init(|| {
            let library = stand_in.folder.join("libcudnn.so.9");
            let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/cuda/cudnn.cpp");
            let unfinished = temporary("libcudnn.so.9");
            let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".to_owned());
            let flags = ["-std=c++17", "-O1", "-Wall", "-fPIC", "-shared", "-fvisibility=hidden"];
            let mut command = Command::new(compiler);
            command.args(flags).args(["-Wl,-soname,libcudnn.so.9", source, "-ldl", "-o"]).arg(&unfinished);
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}", text(&output.stderr));
            fs::rename(&unfinished, &library).unwrap();
            library
        })
    }

    /// Rows of a run beside the stand-ins, which end as they should.
    fn rows(name: &str, cudnn: Option<(&Path, &str)>, args: &[&str]) -> Vec<Record> {
        let path = temporary(name);
        let mut command = convbench();
        command.args(["bench", "--time", "0.002", "--json"]).arg(&path).args(args);
        // What is allocated is also written, and the tests run beside each other.
        command.env("CONV_EMULATED", "memory=50000000");
        if let Some((library, setting)) = cudnn {
            command.args(["--peers", "cudnn", "--cudnn"]).arg(library).env("CONV_EMULATED_CUDNN", setting);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
        let (rows, interrupted) = record::read(&path).unwrap();
        assert!(!interrupted);
        fs::remove_file(path).unwrap();
        rows
    }

    fn check_timed(row: &Record) {
        assert_eq!(row.status, Status::Ok, "{row:?}");
        assert!(row.median_ns.unwrap() > 0.0 && row.first_ns.unwrap() > 0.0, "{row:?}");
        assert!(row.max_error.unwrap() <= row.error_bound.unwrap(), "{row:?}");
        assert!(row.device.is_some(), "{row:?}");
    }

    #[test]
    fn a_layer_is_verified_and_timed_by_both_clocks() {
        let Some(_) = stand_in() else { return };
        let rows = rows("both.jsonl", None, &["--spec", "c3 h6 w5 o8 k3 p1", "--kernel", "cuda-fp32,direct"]);
        let of = |id: &str, clock, role| {
            let found: Vec<&Record> = rows
                .iter()
                .filter(|row| (row.requested.as_str(), row.clock, row.role) == (id, clock, role))
                .collect();
            assert_eq!(found.len(), 1, "{id}");
            found[0]
        };
        assert_eq!(rows.len(), 5);
        let host = of("cuda-fp32", Clock::Warm, Role::Main);
        let device = of("cuda-fp32", Clock::Device, Role::Main);
        for row in
            [host, device, of("cuda-fp32", Clock::Warm, Role::Aa), of("cuda-fp32", Clock::Device, Role::Aa)]
        {
            check_timed(row);
            assert_eq!(row.precision, None);
        }
        assert_eq!((host.launches, device.launches.is_some()), (None, true));
        assert!(device.kernel.starts_with("cuda-fp32/conv_"), "{}", device.kernel);
        assert_eq!(of("direct", Clock::Warm, Role::Main).device, None);
        let gpu = rows[0].run.as_ref().unwrap().gpu.as_ref().unwrap();
        assert!(gpu.starts_with(device.device.as_ref().unwrap()) && gpu.contains("NVRTC"), "{gpu}");
    }

    /// Also with several launches, groups, dilation, and the other layout; whatever threads the host has.
    #[test]
    fn other_layers_too() {
        let Some(_) = stand_in() else { return };
        let args = [
            "--spec",
            "n2 c4 h5 w6 o6 k3x2 s2 p1 d2 g2 nhwc",
            "--spec",
            "c64 h2 w2 o4 k1",
            "--kernel",
            "cuda",
        ];
        for row in
            rows("others.jsonl", None, &[&args[..], &["--clock", "device", "--threads", "2,1"]].concat())
        {
            check_timed(&row);
            assert_eq!((row.clock, row.threads), (Clock::Device, 1));
        }
    }

    #[test]
    fn cudnn_stands_beside() {
        let Some(stand_in) = stand_in() else { return };
        let library = cudnn(stand_in);
        let device = ["--clock", "device", "--kernel", "cuda-fp32", "--baseline", "cudnn", "--spec"];
        for (spec, setting) in
            [("n2 c4 h5 w6 o6 k3 p1 g2", ""), ("c5 h7 w4 o3 k2 s2 nhwc", ""), ("c3 h5 w5 o4 k3", "nhwc")]
        {
            let rows = rows("cudnn.jsonl", Some((library, setting)), &[&device[..], &[spec]].concat());
            assert_eq!(rows.len(), 4, "{spec}");
            for row in &rows {
                check_timed(row);
            }
            let of =
                |id: &str| rows.iter().find(|row| row.requested == id && row.role == Role::Main).unwrap();
            let (fp32, tf32) = (of("cudnn"), of("cudnn-tf32"));
            assert_eq!(fp32.engine_version.as_deref(), Some("9.19.0"));
            assert_eq!((fp32.precision, tf32.precision), (None, Some(Precision::Tf32)));
            assert!(
                fp32.kernel.starts_with("implicit-precomp-gemm n") && fp32.kernel.ends_with(" fma"),
                "{fp32:?}"
            );
            assert!(tf32.kernel.ends_with(" tensor-op") && tf32.max_error > fp32.max_error, "{tf32:?}");
            // Each beside the baseline of its precision.
            let baselines = [of("cuda-fp32"), fp32, tf32].map(|row| row.baseline.as_deref());
            assert_eq!(baselines, [Some("cudnn"), Some("cudnn"), Some("cudnn-tf32")]);
            assert!(of("cuda-fp32").ratio.unwrap() > 0.0);
            // What another layout would cost is said.
            let other = fp32.kernel.contains("nhwc") != spec.ends_with("nhwc");
            assert_eq!(fp32.reorder_ns.is_some(), other, "{fp32:?}");
            assert!(setting.is_empty() || fp32.kernel.contains(setting), "{fp32:?}");
        }
    }

    /// Sums that f32 would round one after the other are no reason to think that it is not f32.
    #[test]
    fn f32_is_f32_however_long_its_sums_are() {
        let Some(stand_in) = stand_in() else { return };
        let library = cudnn(stand_in);
        let args = ["--clock", "device", "--kernel", "cuda-fp32", "--spec", "c9000 h1 w2 o3 k1"];
        let rows = rows("long.jsonl", Some((library, "sequential")), &args);
        check_timed(rows.iter().find(|row| row.requested == "cudnn").unwrap());
    }

    /// What cuDNN does not cover is not what it lacks here.
    #[test]
    fn cudnn_refuses_what_it_cannot_count() {
        let Some(stand_in) = stand_in() else { return };
        let library = cudnn(stand_in);
        for (spec, reason) in [
            ("c4 h6 w6 o4 k1 d3000000000", "cuDNN counts to 2147483647 at most: 3000000000 is too much"),
            ("c4 h6 w6 o4 k3 p0,0,1,0", "cuDNN pads both sides alike"),
        ] {
            let rows = rows("refused.jsonl", Some((library, "")), &["--kernel", "direct", "--spec", spec]);
            let refused: Vec<&Record> = rows.iter().filter(|row| row.engine == "cudnn").collect();
            assert_eq!(refused.len(), 2);
            for row in refused {
                assert_eq!((row.status, row.reason.as_deref()), (Status::Unsupported, Some(reason)));
            }
        }
    }

    /// A library that rounds operands where it was told not to is found out.
    #[test]
    fn tf32_is_no_f32() {
        let Some(stand_in) = stand_in() else { return };
        let library = cudnn(stand_in);
        let args = ["--clock", "device", "--kernel", "cuda-fp32", "--spec", "c4 h6 w6 o4 k3 p1"];
        let rows = rows("tf32.jsonl", Some((library, "tf32")), &args);
        let row = rows.iter().find(|row| row.requested == "cudnn").unwrap();
        assert_eq!((row.status, row.median_ns), (Status::Unavailable, None));
        assert!(row.reason.as_ref().unwrap().starts_with("cuDNN does not compute in f32: "), "{row:?}");
        check_timed(rows.iter().find(|row| row.requested == "cudnn-tf32").unwrap());
    }

    #[test]
    fn a_report_keeps_the_clocks_apart() {
        let Some(stand_in) = stand_in() else { return };
        let (library, path, folder) = (cudnn(stand_in), temporary("report.jsonl"), temporary("report"));
        let mut command = convbench();
        command.args([
            "bench",
            "--time",
            "0.002",
            "--spec",
            "c3 h6 w5 o8 k3 p1",
            "--kernel",
            "cuda-fp32,direct",
        ]);
        command.args(["--peers", "cudnn", "--cudnn"]).arg(library).arg("--json").arg(&path);
        command.env("CONV_EMULATED", "memory=50000000");
        let output = command.output().unwrap();
        let shown = text(&output.stdout);
        assert!(output.status.success(), "{shown}{}", text(&output.stderr));
        for head in [
            "g1, 1 thread\n",
            "g1, on the GPU, its L2 warm\n",
            "g1, on the GPU, its L2 warm, tf32 products\n",
        ] {
            assert!(shown.contains(head), "{head}{shown}");
        }
        let report = convbench().arg("report").arg(&path).arg("--output").arg(&folder).output().unwrap();
        assert!(report.status.success(), "{}", text(&report.stderr));
        let markdown = fs::read_to_string(folder.join("report.md")).unwrap();
        for words in ["on the GPU, its L2 warm: ", "cudnn 9.19.0", "NVRTC", "tf32 products"] {
            assert!(markdown.contains(words), "{words}");
        }
        assert!(fs::read_to_string(folder.join("index.html")).unwrap().contains("GPU tf32"));
        fs::remove_dir_all(folder).unwrap();
        fs::remove_file(path).unwrap();
    }

    /// Of a GPU with one multiprocessor, so that it does not take long. (The emulator's tensor cores are not what roofs
    /// use: they take no time at all.)
    #[test]
    fn info_measures_the_roofs() {
        let Some(_) = stand_in() else { return };
        let settings = "multiprocessors=1,capability=80,memory=50000000";
        let output = convbench().args(["info", "--json"]).env("CONV_EMULATED", settings).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let info: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (&info["gpus"][0]["multiprocessors"], &info["gpu_reason"]),
            (&1.into(), &().into()),
            "{info}"
        );
        let roofs = info["gpu_roofs"].as_array().unwrap();
        assert_eq!(roofs.len(), 9);
        for roof in roofs {
            let fits = roof["name"].as_str().unwrap().ends_with("peak") == (roof["unit"] == "GFLOP/s");
            assert!(roof["rate"].as_f64().unwrap() > 0.0 && fits, "{roof}");
        }
        let output = convbench().args(["info"]).env("CONV_EMULATED", settings).output().unwrap();
        assert!(text(&output.stdout).contains("  GPU memory copy "), "{}", text(&output.stdout));
    }

    /// A row's share of the roof that binds it.
    #[test]
    fn rows_have_roofs() {
        let Some(_) = stand_in() else { return };
        let path = temporary("roofs.jsonl");
        let mut command = convbench();
        command.args(["bench", "--time", "0.002", "--roofs", "--kernel", "cuda-fp32", "--json"]).arg(&path);
        command.args(["--spec", "c8 h8 w8 o8 k3 p1"]);
        let output = command.env("CONV_EMULATED", "multiprocessors=1,memory=50000000").output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        for row in record::read(&path).unwrap().0 {
            // Copies to the GPU and back are under no roof.
            let has = row.clock == Clock::Device;
            assert_eq!((row.roof_fraction.is_some(), row.peak_gflops.is_some()), (has, has), "{row:?}");
            assert_eq!(row.bandwidth_level.as_deref(), has.then_some("GPU L2"));
        }
        fs::remove_file(path).unwrap();
    }

    /// Whatever a driver refuses is a row with the reason, and the others go on.
    #[test]
    fn too_little_memory_is_a_reason() {
        let Some(_) = stand_in() else { return };
        let path = temporary("memory.jsonl");
        let mut command = convbench();
        command.args(["bench", "--time", "0.002", "--clock", "device", "--kernel", "cuda-fp32", "--json"]);
        command.arg(&path).args(["--spec", "c64 h64 w64 o64 k1"]).env("CONV_EMULATED", "memory=1000000");
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", text(&output.stdout));
        let rows = record::read(&path).unwrap().0;
        assert_eq!((rows[0].status, rows[0].launches), (Status::TooLarge, None), "{rows:?}");
        fs::remove_file(path).unwrap();
    }
}
