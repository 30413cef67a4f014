//! The device code as one translation unit, with only the instances that are wanted.

use super::variant::{Function, OTHERS, VARIANTS};
use super::{depthwise, winograd};

/// The headers, in the order in which they need each other.
const HEADERS: &[&str] = &[
    include_str!("device/primitives.cuh"),
    include_str!("device/params.cuh"),
    include_str!("device/tiles.cuh"),
    include_str!("device/epilogue.cuh"),
    include_str!("device/simt.cuh"),
    include_str!("device/mma.cuh"),
    include_str!("device/wgmma.cuh"),
    include_str!("device/depthwise.cuh"),
    include_str!("device/winograd.cuh"),
    include_str!("device/reduce.cuh"),
];

/// CUDA C++ with these functions, and an `extern "C"` entry point for each; names that do not exist make nothing.
pub fn source_of(functions: &[&str]) -> String {
    let mut text: String = HEADERS.concat();
    let tiles = VARIANTS.iter().map(|variant| (variant.function, variant.instance));
    let others = OTHERS.iter().map(|(function, instance)| (function.name, *instance));
    let depthwise = depthwise::INSTANCES.iter().map(|instance| (instance.function.name, instance.line));
    let winograd = winograd::INSTANCES.iter().map(|(_, function, line)| (function.name, *line));
    for (_, instance) in
        tiles.chain(others).chain(depthwise).chain(winograd).filter(|(name, _)| functions.contains(name))
    {
        text.push_str(instance);
    }
    text
}

/// Every device function.
pub fn functions() -> Vec<Function> {
    let tiles = VARIANTS.iter().map(|variant| Function {
        name: variant.function,
        compute_capability: variant.capability,
        threads: variant.threads,
        shared_bytes: variant.shared_bytes,
        only: variant.warpgroups,
    });
    let others = OTHERS.iter().map(|(function, _)| *function);
    let depthwise = depthwise::INSTANCES.iter().map(|instance| instance.function);
    let winograd = winograd::INSTANCES.iter().map(|(_, function, _)| *function);
    tiles.chain(others).chain(depthwise).chain(winograd).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_only_what_was_asked_for() {
        let text = source_of(&["conv_reduce"]);
        assert!(text.ends_with("CONV_REDUCE(conv_reduce)\n"));
        assert!(VARIANTS.iter().all(|variant| !text.contains(variant.instance)));
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> = functions().iter().map(|function| function.name).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
