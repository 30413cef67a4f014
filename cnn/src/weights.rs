//! [`Weights`]: the numbers of a network, made at random or read from a safetensors file.

use std::collections::HashSet;
use std::path::Path;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorView};

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

    /// Weights that are known: one list for each of [`Graph::parameters`], in their order.
    ///
    /// ```
    /// use cnn::{Graph, Linear, Shape, Weights};
    ///
    /// let mut net = Graph::new(Shape::Features(2))?;
    /// net.then("sum", Linear::new(2, 1))?;
    /// let weights = Weights::new(&net, vec![vec![1.0, 1.0], vec![0.0]])?;
    /// assert_eq!(weights.get("sum.weight"), Some([1.0, 1.0].as_slice()));
    /// # Ok::<(), cnn::Error>(())
    /// ```
    ///
    /// # Errors
    /// When there are more or fewer lists, or one is of another length than its parameter.
    pub fn new(graph: &Graph, values: Vec<Vec<f32>>) -> Result<Self, Error> {
        check_len("the weights' tensors", values.len(), graph.parameters().len())?;
        for (values, parameter) in values.iter().zip(graph.parameters()) {
            check_len("a tensor of the weights", values.len(), parameter.len())?;
        }
        Ok(Weights { parameters: graph.parameters().to_vec(), values })
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
        let values = graph.parameters().iter().map(|p| p.len() as u64).fold(0, u64::saturating_add);
        let bytes = file::read_most(path, values.saturating_mul(4).saturating_add(MOST_BESIDE))?;
        let (tensors, data) =
            parse(&bytes).map_err(|what| wrong(format!("is no safetensors file: {what}")))?;
        let known: HashSet<&str> = graph.parameters().iter().map(|p| p.name.as_str()).collect();
        let expected =
            |name: &String| known.contains(name.as_str()) || name.ends_with(".num_batches_tracked");
        if let Some(name) = tensors.offset_keys().into_iter().find(|name| !expected(name)) {
            return Err(wrong(format!("holds `{name}`, which the network does not have")));
        }
        let values = graph.parameters().iter().map(|Parameter { name, shape, .. }| {
            let tensor =
                tensors.info(name).ok_or_else(|| wrong(format!("lacks `{name}` of shape {shape:?}")))?;
            if tensor.dtype != Dtype::F32 || tensor.shape != *shape {
                return Err(wrong(format!(
                    "`{name}` is {:?} of shape {:?}, but must be F32 of shape {shape:?}",
                    tensor.dtype, tensor.shape
                )));
            }
            let (from, to) = tensor.data_offsets;
            let (floats, _) = data.get(from..to).unwrap_or_default().as_chunks::<4>();
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
        file::write_whole(path, |file| file.write_all(&whole)).map_err(|error| wrong(error.to_string()))
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

/// What a safetensors file says of its tensors, which then lie side by side in all of the bytes behind that.
///
/// `SafeTensors::deserialize` adds to sizes that a file claims before it compares them with what is there.
fn parse(bytes: &[u8]) -> Result<(Metadata, &[u8]), String> {
    let (length, rest) = bytes.split_first_chunk().ok_or("it is too short")?;
    let length = u64::from_le_bytes(*length);
    // Parsed, a header takes many times its own size.
    if length > MOST_BESIDE {
        return Err(format!("its header has {length} bytes, but {MOST_BESIDE} are the most"));
    }
    let (header, data) = rest.split_at_checked(length as usize).ok_or("it ends within its header")?;
    let tensors: Metadata = serde_json::from_slice(header).map_err(|error| error.to_string())?;
    match (tensors.data_len(), data.len()) {
        (claimed, there) if claimed == there => Ok((tensors, data)),
        (claimed, there) => Err(format!("it has {there} bytes of values, but its header says {claimed}")),
    }
}

/// Approximately normal: the sum of four uniform numbers, moved to mean 0 and stretched to variance 1.
pub(crate) fn normal(rng: &mut impl rand::Rng) -> f32 {
    ((0..4).map(|_| rng.random::<f32>()).sum::<f32>() - 2.0) * 3f32.sqrt()
}
