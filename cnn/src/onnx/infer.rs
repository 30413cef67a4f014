//! Shapes of a graph's values, from its inputs to its outputs.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::rc::Rc;

use super::proto::{Extent, Graph, Node, ValueInfo};
use super::rules;
use super::value::{Axis, Op, Stop, Value, shown};

/// What is known of a graph's values so far.
pub(super) struct Values<'a> {
    /// By name: what is known, or why nothing is.
    known: HashMap<&'a str, Result<Value, Rc<str>>>,
    /// Shapes that the file states of values between.
    stated: HashMap<&'a str, Vec<Axis>>,
}

impl<'a> Values<'a> {
    /// Inputs and constants.
    pub(super) fn of(graph: &'a Graph) -> Self {
        // A batch that has a name instead of a size is 1, wherever the name occurs.
        let batches: HashSet<&str> = graph.input.iter().filter_map(batch_name).collect();
        let stated = |info: &'a ValueInfo| shape_of(info, &batches).map(|shape| (info.name.as_str(), shape));
        let mut known = HashMap::new();
        for input in &graph.input {
            let value = match shape_of(input, &batches) {
                Some(mut shape) => {
                    if let Some(batch) = shape.first_mut() {
                        batch.get_or_insert(1);
                    }
                    Value::of_shape(shape).checked().map_err(Rc::from)
                }
                None => {
                    Err(format!("the file states no shape of the model's input `{}`", shown(&input.name))
                        .into())
                }
            };
            known.insert(input.name.as_str(), value);
        }
        // Old files have constants among the inputs too.
        for tensor in &graph.initializer {
            known.insert(tensor.name.as_str(), Value::of_tensor(tensor).map_err(Rc::from));
        }
        Values { known, stated: graph.value_info.iter().chain(&graph.output).filter_map(stated).collect() }
    }

    /// A node with what is known of its inputs.
    pub(super) fn op<'s>(&'s self, node: &'s Node) -> Op<'s> {
        let input = |name: &'s String| if name.is_empty() { None } else { self.known.get(name.as_str()) };
        Op { node, inputs: node.input.iter().map(input).collect() }
    }

    /// What is known of a value; `None` as well if nothing is.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.known.get(name)?.as_ref().ok()
    }

    /// What the operator's rule says of a node's outputs.
    pub(super) fn infer(&mut self, node: &'a Node) {
        let outputs = rules::infer(&self.op(node));
        self.set(node, outputs);
    }

    /// Notes a node's outputs; what is not known of them may be stated by the file.
    fn set(&mut self, node: &'a Node, outputs: Result<Vec<Value>, Stop>) {
        let checked =
            |values: Vec<Value>| values.into_iter().map(Value::checked).collect::<Result<Vec<_>, _>>();
        let here = |what: String| -> Rc<str> {
            format!("shapes are known only up to {} {} ({what})", shown(&node.op_type), title(node)).into()
        };
        let outputs = match outputs {
            Ok(values) => checked(values).map_err(here),
            Err(Stop::Here(what)) => Err(here(what)),
            Err(Stop::Before(why)) => Err(why),
        };
        for (index, name) in node.output.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            let stated = self.stated.get(name.as_str());
            let value = match outputs.as_ref().map(|values| values.get(index)) {
                Ok(Some(value)) => Ok(filled(value.clone(), stated)),
                Ok(None) => Err(here(format!("nothing is known of its output {index}"))),
                Err(why) => Err(Rc::clone(why)),
            };
            let stated = |why| match stated {
                Some(shape) => Value::of_shape(shape.clone()).checked().map_err(Rc::from),
                None => Err(why),
            };
            let value = value.or_else(stated);
            self.known.insert(name.as_str(), value);
        }
    }
}

/// A value with what the file states of extents that are not known.
fn filled(mut value: Value, stated: Option<&Vec<Axis>>) -> Value {
    if let Some(stated) = stated.filter(|stated| stated.len() == value.shape.len()) {
        for (axis, stated) in value.shape.iter_mut().zip(stated) {
            *axis = axis.or(*stated);
        }
    }
    value
}

/// What a node is called in messages.
pub(super) fn title(node: &Node) -> String {
    match node.output.first() {
        _ if !node.name.is_empty() => format!("`{}`", shown(&node.name)),
        Some(output) => format!("of `{}`", shown(output)),
        None => "without a name".to_owned(),
    }
}

/// The name that an input's first extent has instead of a size.
fn batch_name(input: &ValueInfo) -> Option<&str> {
    match &input.r#type.as_ref()?.tensor_type.as_ref()?.shape.as_ref()?.dim.first()?.extent {
        Some(Extent::Name(name)) if !name.is_empty() => Some(name),
        _ => None,
    }
}

fn shape_of(info: &ValueInfo, batches: &HashSet<&str>) -> Option<Vec<Axis>> {
    let shape = info.r#type.as_ref()?.tensor_type.as_ref()?.shape.as_ref()?;
    let axis = |extent: &Option<Extent>| match extent {
        // Some writers have 0 or -1 for an extent that is not fixed.
        Some(Extent::Value(n)) => usize::try_from(*n).ok().filter(|&n| n > 0),
        Some(Extent::Name(name)) => batches.contains(name.as_str()).then_some(1),
        None => None,
    };
    Some(shape.dim.iter().map(|dim| axis(&dim.extent)).collect())
}

/// The nodes in an order in which each comes behind those that it needs: their own if that is one, as it should.
///
/// # Errors
/// A value that two nodes make, that none makes, or that needs itself.
pub(super) fn order(graph: &Graph) -> Result<Vec<&Node>, String> {
    let inputs = graph.input.iter().map(|input| input.name.as_str());
    let given: HashSet<&str> =
        inputs.chain(graph.initializer.iter().map(|tensor| tensor.name.as_str())).collect();
    let mut makers: HashMap<&str, usize> = HashMap::new();
    for (index, node) in graph.node.iter().enumerate() {
        for output in node.output.iter().filter(|output| !output.is_empty()) {
            if makers.insert(output, index).is_some() || given.contains(output.as_str()) {
                return Err(format!("the value `{}` is made twice", shown(output)));
            }
        }
    }
    // How many values each node waits for, and who waits for each node.
    let mut waits = vec![0usize; graph.node.len()];
    let mut followers: Vec<Vec<usize>> = vec![Vec::new(); graph.node.len()];
    for (index, node) in graph.node.iter().enumerate() {
        for name in node.input.iter().filter(|name| !name.is_empty() && !given.contains(name.as_str())) {
            let Some(&maker) = makers.get(name.as_str()) else {
                return Err(format!(
                    "node {} needs `{}`, which is no input, no constant and no node's output",
                    title(node),
                    shown(name)
                ));
            };
            waits[index] += 1;
            followers[maker].push(index);
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> =
        (0..waits.len()).filter(|&index| waits[index] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(waits.len());
    while let Some(Reverse(index)) = ready.pop() {
        order.push(&graph.node[index]);
        for &follower in &followers[index] {
            waits[follower] -= 1;
            if waits[follower] == 0 {
                ready.push(Reverse(follower));
            }
        }
    }
    match waits.iter().position(|&waits| waits > 0) {
        Some(index) => Err(format!("node {} waits for a circle of nodes", title(&graph.node[index]))),
        None => Ok(order),
    }
}
