//! The list of kernels: one line for each algorithm, from which ids, tests, benches and reports all
//! come.

use std::sync::{Arc, LazyLock};

use crate::auto;
#[cfg(feature = "cuda")]
use crate::cuda;
#[cfg(feature = "depthwise")]
use crate::depthwise;
#[cfg(feature = "direct")]
use crate::direct;
use crate::error::{ConvError, Unavailable, Unsupported};
#[cfg(feature = "im2col")]
use crate::im2col;
use crate::kernel::{self, Accuracy, Kernel, Plan, PlanOptions, Prepared, Supports};
use crate::naive;
use crate::packed::Packed;
#[cfg(feature = "pointwise")]
use crate::pointwise;
use crate::simd::{Isa, Simd, Wide, with_token};
use crate::spec::ConvSpec;
#[cfg(feature = "winograd")]
use crate::winograd;

/// What an algorithm's author writes; the registry makes kernels of it.
pub(crate) trait Algorithm {
    /// The name: `algorithm[-variant]`.
    const NAME: &'static str;

    /// What must be asked of the rounding errors, at most, for the kernel to be taken unnamed.
    const ACCURACY: Accuracy = Accuracy::Strict;

    /// Whether the method covers a convolution; if not, what of it is not supported.
    fn supports(spec: &ConvSpec) -> Result<(), String>;

    /// Packs weights, once for all sizes; blocking is settled for each size. The spec is supported, weights and
    /// options are checked.
    fn pack<S: Simd>(
        simd: S,
        spec: &ConvSpec,
        weights: &[f32],
        options: &PlanOptions,
    ) -> Result<Packed, ConvError>;
}

/// Makes a plan for an instruction set, or for the best one.
type PlanFn = fn(Option<Isa>, &ConvSpec, &[f32], &PlanOptions) -> Result<Box<dyn Plan>, ConvError>;

/// A line of the list.
struct Row {
    name: &'static str,
    /// The instruction sets that ids may name; none for a kernel that has only one form.
    isas: &'static [Isa],
    accuracy: Accuracy,
    /// Whether it needs a GPU.
    gpu: bool,
    availability: fn(Option<Isa>) -> Result<(), Unavailable>,
    supports: Supports,
    plan: PlanFn,
}

/// What a kernel that runs on the CPU needs: the instruction set that its id names, or any.
fn on_cpu(isa: Option<Isa>) -> Result<(), Unavailable> {
    match isa {
        Some(isa) => isa.availability(),
        None => Isa::best().map(|_| ()),
    }
}

const fn scalar<A: Algorithm>() -> Row {
    Row {
        name: A::NAME,
        isas: &[],
        accuracy: A::ACCURACY,
        gpu: false,
        availability: on_cpu,
        supports: A::supports,
        plan: |_, spec, weights, options| {
            let packed = Arc::new(A::pack(Wide, spec, weights, options)?);
            Ok(Box::new(Prepared::new(spec, A::NAME.to_owned(), A::supports, packed)?))
        },
    }
}

const fn simd<A: Algorithm>() -> Row {
    Row {
        name: A::NAME,
        isas: &Isa::ALL,
        accuracy: A::ACCURACY,
        gpu: false,
        availability: on_cpu,
        supports: A::supports,
        plan: |isa, spec, weights, options| {
            let unavailable = |reason| ConvError::Unavailable { kernel: A::NAME.to_owned(), reason };
            let isa = isa.map_or_else(Isa::best, Ok).map_err(unavailable)?;
            let token = isa.token().map_err(unavailable)?;
            let packed = Arc::new(with_token!(token, s => A::pack(s, spec, weights, options))?);
            Ok(Box::new(Prepared::new(spec, format!("{}/{isa}", A::NAME), A::supports, packed)?))
        },
    }
}

#[cfg(feature = "cuda")]
const fn gpu<G: cuda::OnGpu>() -> Row {
    Row {
        name: G::METHOD.id(),
        isas: &[],
        accuracy: G::METHOD.accuracy(),
        gpu: true,
        availability: |_| cuda::availability_of(G::METHOD),
        supports: |spec| G::METHOD.supports(spec),
        plan: |_, spec, weights, options| cuda::plan(G::METHOD, spec, weights, options),
    }
}

/// THE list, in the order in which kernels are shown.
static ROWS: &[Row] = &[
    Row {
        name: "auto",
        isas: &[],
        accuracy: Accuracy::Strict,
        gpu: false,
        availability: on_cpu,
        supports: |_| Ok(()),
        plan: auto::plan,
    },
    scalar::<naive::Naive>(),
    #[cfg(feature = "im2col")]
    simd::<im2col::Im2colGemm>(),
    #[cfg(feature = "direct")]
    simd::<direct::Direct>(),
    #[cfg(feature = "winograd")]
    Row {
        name: "winograd",
        isas: &Isa::ALL,
        accuracy: Accuracy::Standard,
        gpu: false,
        availability: on_cpu,
        supports: winograd::supports,
        plan: winograd::plan,
    },
    #[cfg(feature = "winograd")]
    simd::<winograd::Fixed<winograd::F2>>(),
    #[cfg(feature = "winograd")]
    simd::<winograd::Fixed<winograd::F4>>(),
    #[cfg(feature = "winograd")]
    simd::<winograd::Fixed<winograd::F6>>(),
    #[cfg(feature = "winograd")]
    simd::<winograd::Fixed<winograd::F2R5>>(),
    #[cfg(feature = "pointwise")]
    simd::<pointwise::Pointwise>(),
    #[cfg(feature = "depthwise")]
    simd::<depthwise::Depthwise>(),
    #[cfg(feature = "cuda")]
    gpu::<cuda::Auto>(),
    #[cfg(feature = "cuda")]
    gpu::<cuda::Fp32>(),
    #[cfg(feature = "cuda")]
    gpu::<cuda::Tf32x3>(),
    #[cfg(feature = "cuda")]
    gpu::<cuda::Tf32>(),
    #[cfg(feature = "cuda")]
    gpu::<cuda::Bf16>(),
    #[cfg(feature = "cuda")]
    gpu::<cuda::Winograd>(),
    #[cfg(feature = "cuda")]
    gpu::<cuda::Depthwise>(),
];

/// A kernel of the list, with or without a named instruction set.
struct Entry {
    id: String,
    row: &'static Row,
    isa: Option<Isa>,
}

static ENTRIES: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    ROWS.iter()
        .flat_map(|row| {
            let plain = Entry { id: row.name.to_owned(), row, isa: None };
            let named = row.isas.iter().map(move |&isa| Entry {
                id: format!("{}/{isa}", row.name),
                row,
                isa: Some(isa),
            });
            std::iter::once(plain).chain(named)
        })
        .collect()
});

/// The kernel with this id: `algorithm[-variant][/isa]`, for example `direct`, `winograd-f4/avx2` or
/// `auto`. Without `/isa` the best instruction set that the machine has is used.
///
/// # Errors
/// [`ConvError::UnknownKernel`] when this build has no such kernel. A kernel that this machine
/// cannot run is found all the same; its [`availability`](Kernel::availability) says why not.
pub fn kernel(id: &str) -> Result<&'static dyn Kernel, ConvError> {
    kernels().find(|kernel| kernel.id() == id).ok_or_else(|| ConvError::UnknownKernel {
        id: id.chars().take(40).collect(),
        known: ROWS.iter().map(|row| row.name).collect::<Vec<_>>().join(", "),
    })
}

/// Every kernel of this build: each algorithm without an instruction set in its id, then with each.
pub fn kernels() -> impl Iterator<Item = &'static dyn Kernel> {
    ENTRIES.iter().map(|entry| entry as &dyn Kernel)
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel").field("id", &self.id).finish()
    }
}

impl Kernel for Entry {
    fn id(&self) -> &str {
        &self.id
    }

    fn algorithm(&self) -> &str {
        self.row.name
    }

    fn isa(&self) -> Option<Isa> {
        self.isa
    }

    fn on_gpu(&self) -> bool {
        self.row.gpu
    }

    fn accuracy(&self) -> Accuracy {
        self.row.accuracy
    }

    fn availability(&self) -> Result<(), Unavailable> {
        (self.row.availability)(self.isa)
    }

    fn supports(&self, spec: &ConvSpec) -> Result<(), Unsupported> {
        (self.row.supports)(spec).map_err(|what| Unsupported::new(&self.id, what, spec))
    }

    fn plan(
        &self,
        spec: &ConvSpec,
        weights: &[f32],
        options: &PlanOptions,
    ) -> Result<Box<dyn Plan>, ConvError> {
        self.availability().map_err(|reason| ConvError::Unavailable { kernel: self.id.clone(), reason })?;
        self.supports(spec)?;
        kernel::check_plan(self.row.accuracy, spec, weights, options)?;
        (self.row.plan)(self.isa, spec, weights, options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_found() {
        for entry in kernels() {
            assert_eq!(kernel(entry.id()).unwrap().id(), entry.id());
            assert_eq!(kernels().filter(|other| other.id() == entry.id()).count(), 1);
        }
        assert!(matches!(kernel("fft"), Err(ConvError::UnknownKernel { .. })));
    }
}
