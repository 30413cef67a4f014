//! A node's attributes by name.

use super::proto::{Attribute, Node, Tensor};

fn find<'a>(node: &'a Node, name: &str) -> Option<&'a Attribute> {
    node.attribute.iter().find(|attribute| attribute.name == name)
}

pub(super) fn int(node: &Node, name: &str) -> Option<i64> {
    find(node, name).map(|attribute| attribute.i)
}

pub(super) fn float(node: &Node, name: &str) -> Option<f32> {
    find(node, name).map(|attribute| attribute.f)
}

pub(super) fn ints<'a>(node: &'a Node, name: &str) -> Option<&'a [i64]> {
    find(node, name).map(|attribute| attribute.ints.as_slice())
}

pub(super) fn floats<'a>(node: &'a Node, name: &str) -> Option<&'a [f32]> {
    find(node, name).map(|attribute| attribute.floats.as_slice())
}

pub(super) fn string(node: &Node, name: &str) -> Option<String> {
    find(node, name).map(|attribute| String::from_utf8_lossy(&attribute.s).into_owned())
}

pub(super) fn tensor<'a>(node: &'a Node, name: &str) -> Option<&'a Tensor> {
    find(node, name).and_then(|attribute| attribute.t.as_ref())
}

#[cfg(test)]
pub(super) mod test {
    use super::Attribute;

    pub(in crate::onnx) fn ints_attribute(name: &str, values: &[i64]) -> Attribute {
        Attribute { name: name.to_owned(), ints: values.to_vec(), kind: 7, ..Default::default() }
    }

    pub(in crate::onnx) fn text_attribute(name: &str, value: &str) -> Attribute {
        Attribute { name: name.to_owned(), s: value.as_bytes().to_vec(), kind: 3, ..Default::default() }
    }
}
