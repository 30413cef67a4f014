//! The GPU's rows of the list of kernels.

use super::device::{Device, usable};
use super::host_plan::HostPlan;
use super::schedule::Method;
use crate::error::{ConvError, Unavailable};
use crate::kernel::{Accuracy, Plan, PlanOptions};
use crate::spec::ConvSpec;

/// A method as a type, which the list makes a row of.
pub(crate) trait OnGpu {
    const METHOD: Method;
}

macro_rules! on_gpu {
    ($($method:ident)*) => {
        $(
            pub(crate) struct $method;
            impl OnGpu for $method {
                const METHOD: Method = Method::$method;
            }
        )*

        /// Every method, in the order of the list.
        const METHODS: &[Method] = &[$(Method::$method),*];
    };
}

on_gpu!(Auto Fp32 Tf32x3 Tf32 Bf16 Winograd Depthwise);

impl Method {
    /// The accuracy that must be asked for, at most.
    pub(crate) const fn accuracy(self) -> Accuracy {
        match self {
            Method::Auto | Method::Fp32 | Method::Depthwise => Accuracy::Strict,
            Method::Winograd | Method::Tf32x3 => Accuracy::Standard,
            Method::Tf32 | Method::Bf16 => Accuracy::Relaxed,
        }
    }

    /// The lowest compute capability that runs it.
    pub(super) const fn capability(self) -> (u32, u32) {
        match self {
            Method::Auto | Method::Fp32 | Method::Depthwise => (7, 5),
            Method::Tf32x3 | Method::Tf32 | Method::Bf16 | Method::Winograd => (8, 0),
        }
    }

    /// The method of a kernel's id.
    pub(super) fn of(id: &str) -> Result<Method, ConvError> {
        let method = METHODS.iter().find(|method| method.id() == id).copied();
        method.ok_or_else(|| ConvError::UnknownKernel {
            id: id.chars().take(40).collect(),
            known: METHODS.iter().map(|method| method.id()).collect::<Vec<_>>().join(", "),
        })
    }

    /// Whether a GPU is new enough for it.
    pub(super) fn check(self, name: &str, actual: (u32, u32)) -> Result<(), Unavailable> {
        let needed = self.capability();
        if actual >= needed {
            return Ok(());
        }
        Err(Unavailable::ComputeCapability { device: name.to_owned(), actual, needed })
    }
}

/// Whether GPU 0 can be used for a method; asking makes no context.
pub(crate) fn availability_of(method: Method) -> Result<(), Unavailable> {
    let facts = usable(0)?;
    method.check(&facts.name, facts.compute_capability)
}

/// A plan on GPU 0 for slices of the host. The request has been checked.
pub(crate) fn plan(
    method: Method,
    spec: &ConvSpec,
    weights: &[f32],
    options: &PlanOptions,
) -> Result<Box<dyn Plan>, ConvError> {
    let unavailable = |reason| ConvError::Unavailable { kernel: method.id().to_owned(), reason };
    let device = Device::get(0).map_err(unavailable)?;
    Ok(Box::new(HostPlan::new(method, &device, spec, weights, options)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_the_list() {
        for &method in METHODS {
            assert_eq!(Method::of(method.id()), Ok(method));
            assert!(crate::kernel(method.id()).unwrap().on_gpu(), "{}", method.id());
        }
        assert_eq!(crate::kernels().filter(|kernel| kernel.on_gpu()).count(), METHODS.len());
        let error = Method::of("direct").unwrap_err().to_string();
        assert!(error.contains("`direct`") && error.contains("cuda-fp32"), "{error}");
    }

    /// The lowest capability of a method's functions, which have its name.
    #[test]
    fn capabilities_are_those_of_the_functions() {
        let functions = crate::cuda::functions();
        for &method in METHODS {
            let name = method.id().replace("cuda", "conv").replace('-', "_") + "_";
            let of_method = functions.iter().filter(|function| function.name.starts_with(&name));
            let lowest = of_method.map(|function| function.compute_capability).min();
            assert_eq!(lowest, Some(method.capability()), "{}", method.id());
        }
    }

    #[test]
    fn old_gpus_are_refused_with_what_would_do() {
        assert_eq!(Method::Fp32.check("T4", (7, 5)), Ok(()));
        let error = Method::Tf32.check("T4", (7, 5)).unwrap_err();
        assert_eq!(error.to_string(), "T4 has compute capability 7.5, but the kernel needs 8.0 or higher");
    }

    /// With or without a GPU, all that a program may ask comes back as an answer.
    #[test]
    fn each_kernel_runs_or_gives_a_reason() {
        let spec: ConvSpec = "c4 h6 w6 o4 k3 p1".parse().unwrap();
        let weights = vec![1.0; spec.weights_len()];
        for &method in METHODS {
            let kernel = crate::kernel(method.id()).unwrap();
            let plan = kernel.plan(
                &spec,
                &weights,
                &PlanOptions { accuracy: Accuracy::Relaxed, ..Default::default() },
            );
            match kernel.availability() {
                Ok(()) => assert_eq!(plan.err(), kernel.supports(&spec).err().map(ConvError::Unsupported)),
                Err(reason) => {
                    let want = ConvError::Unavailable { kernel: method.id().to_owned(), reason };
                    assert_eq!(plan.unwrap_err(), want);
                }
            }
        }
    }
}
