//! [`Weights`]: the numbers of a network, made at random or read from a safetensors file.

use std::collections::HashMap;
use std::path::Path;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::Error;
use crate::error::{check_len, zeros};
use crate::file;
use crate::graph::{Graph, Parameter, Role};

/// The tensors of a graph's parameters, in the order of [`Graph::parameters`].
///
/// ```
/// use cnn::{Weights, networks};
///
/// let net = networks::lenet5()?;
/// let weights = Weights::random(&net, 1)?;
/// let path = std::env::temp_dir().join(format!("lenet-{}.safetensors", std::process::id()));
/// weights.save(&path)?;
/// assert_eq!(Weights::load(&net, &path)?, weights);
/// # std::fs::remove_file(path).unwrap();
/// # Ok::<(), cnn::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    parameters: Vec<Parameter>,
    values: Vec<Vec<f32>>,
}

/// Bytes that a file may have beside the values: its header, and counters that PyTorch keeps.
const MOST_BESIDE: u64 = 1 << 20;

impl Weights {
    /// What training starts from: weights normally distributed with variance 2 over the inputs of a sum (He
    /// and others, 2015), biases 0, batch normalisations that change nothing. The seed decides all of them.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn random(graph: &Graph, seed: u64) -> Result<Self, Error> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        Weights::made(graph, |parameter, values| match parameter.role {
            Role::Weight => {
                let terms: usize = parameter.shape[1..].iter().product();
                let scale = (2.0 / terms as f32).sqrt();
                values.fill_with(|| scale * normal(&mut rng));
            }
            Role::Scale | Role::Variance => values.fill(1.0),
            Role::Bias | Role::Mean => (),
        })
    }

    fn made(graph: &Graph, mut fill: impl FnMut(&Parameter, &mut [f32])) -> Result<Self, Error> {
        let values = graph.parameters().iter().map(|parameter| {
            let mut values = zeros(parameter.len())?;
            fill(parameter, &mut values);
            Ok(values)
        });
        let values = values.collect::<Result<_, Error>>()?;
        Ok(Weights { parameters: graph.parameters().to_vec(), values })
    }

    /// Reads a safetensors file that holds exactly the graph's tensors, as float32. Counters that PyTorch
    /// keeps beside batch normalisations (`num_batches_tracked`) are passed over.
    ///
    /// # Errors
    /// When the file cannot be read, is larger than such weights can be (that is seen before it is read), is
    /// broken, or lacks a tensor, or has one more, or one of another shape or type: the error names it.
    pub fn load(graph: &Graph, path: &Path) -> Result<Self, Error> {
        let wrong = |what: String| Error::File { path: path.to_owned(), what };
        let needed: u64 = 4 * graph.parameters().iter().map(|p| p.len() as u64).sum::<u64>();
        let bytes = file::read_most(path, needed + MOST_BESIDE)?;
        let tensors = SafeTensors::deserialize(&bytes)
            .map_err(|error| wrong(format!("is no safetensors file: {error}")))?;
        let known: HashMap<&str, usize> =
            graph.parameters().iter().enumerate().map(|(i, p)| (p.name.as_str(), i)).collect();
        if let Some(name) = tensors
            .names()
            .into_iter()
            .find(|name| !known.contains_key(*name) && !name.ends_with(".num_batches_tracked"))
        {
            return Err(wrong(format!("holds `{name}`, which the network does not have")));
        }
        let values = graph.parameters().iter().map(|Parameter { name, shape, .. }| {
            let tensor =
                tensors.tensor(name).map_err(|_| wrong(format!("lacks `{name}` of shape {shape:?}")))?;
            if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
                return Err(wrong(format!(
                    "`{name}` is {:?} of shape {:?}, but must be F32 of shape {shape:?}",
                    tensor.dtype(),
                    tensor.shape()
                )));
            }
            let (floats, _) = tensor.data().as_chunks::<4>();
            Ok(floats.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
        });
        let values = values.collect::<Result<_, Error>>()?;
        Ok(Weights { parameters: graph.parameters().to_vec(), values })
    }

    /// Writes a safetensors file with the names that PyTorch gives these tensors. The file is complete or, if
    /// writing fails, as it was before.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let wrong = |what: String| Error::File { path: path.to_owned(), what };
        let bytes: Vec<Vec<u8>> =
            self.values.iter().map(|values| values.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
        let views = self.parameters.iter().zip(&bytes).map(|(parameter, bytes)| {
            let view = TensorView::new(Dtype::F32, parameter.shape.clone(), bytes)?;
            Ok((parameter.name.as_str(), view))
        });
        let views: Vec<_> =
            views.collect::<Result<_, safetensors::SafeTensorError>>().map_err(|e| wrong(e.to_string()))?;
        let whole = safetensors::serialize(views, None).map_err(|error| wrong(error.to_string()))?;
        file::write_whole(path, &whole)
    }

    /// What each tensor is.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The values of the tensor at this place in [`Graph::parameters`].
    pub fn values(&self, index: usize) -> Option<&[f32]> {
        self.values.get(index).map(Vec::as_slice)
    }

    /// The values of a tensor, to be changed.
    pub fn values_mut(&mut self, index: usize) -> Option<&mut [f32]> {
        self.values.get_mut(index).map(Vec::as_mut_slice)
    }

    /// The values of the tensor of this name.
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        let index = self.parameters.iter().position(|parameter| parameter.name == name)?;
        self.values(index)
    }

    /// Fails unless these are the weights of this graph.
    pub(crate) fn check(&self, graph: &Graph) -> Result<(), Error> {
        check_len("the weights' tensors", self.values.len(), graph.parameters().len())?;
        for (own, wanted) in self.parameters.iter().zip(graph.parameters()) {
            if own != wanted {
                return Err(Error::Option {
                    option: "a tensor of the weights",
                    value: format!("`{}` of shape {:?}", own.name, own.shape),
                    expected: "that of the graph in the same place",
                });
            }
        }
        Ok(())
    }

    pub(crate) fn all(&self) -> &[Vec<f32>] {
        &self.values
    }

    pub(crate) fn all_mut(&mut self) -> &mut [Vec<f32>] {
        &mut self.values
    }
}

/// Approximately normal: the sum of four uniform numbers, moved to mean 0 and stretched to variance 1.
pub(crate) fn normal(rng: &mut impl rand::Rng) -> f32 {
    ((0..4).map(|_| rng.random::<f32>()).sum::<f32>() - 2.0) * 3f32.sqrt()
}
