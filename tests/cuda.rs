//! The CUDA kernels and what drives them, without a GPU: see `cuda/standin.rs` and `cuda/emulator.h`.

#[path = "cuda/standin.rs"]
mod standin;

mod cuda {
    use std::process::Command;

    use super::standin::stand_in;

    /// The emulator finds the faults that it says it finds, and nothing where there is none.
    #[test]
    fn the_emulator_reports_faults() {
        let Some(stand_in) = stand_in() else { return };
        let output = Command::new(stand_in.folder.join("emulator-test")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
