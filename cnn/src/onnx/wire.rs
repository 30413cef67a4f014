//! What a model takes in memory, before it is decoded.
//!
//! An empty message is two bytes of a file and hundreds of memory, so a file's size says little. This walks
//! over the encoding with the few messages of [`super::proto`] in mind and takes no memory itself.

use std::mem::size_of;

use super::proto;

/// The messages of [`super::proto`].
#[derive(Clone, Copy)]
enum Message {
    Model,
    OperatorSet,
    Graph,
    Node,
    Attribute,
    Tensor,
    ValueInfo,
    Type,
    TensorType,
    Shape,
    Dimension,
}

impl Message {
    /// The message in a field, if it holds one.
    fn in_field(self, field: u64) -> Option<Message> {
        Some(match (self, field) {
            (Message::Model, 7) => Message::Graph,
            (Message::Model, 8) => Message::OperatorSet,
            (Message::Graph, 1) => Message::Node,
            (Message::Graph, 5) | (Message::Attribute, 5) => Message::Tensor,
            (Message::Graph, 11..=13) => Message::ValueInfo,
            (Message::Node, 5) => Message::Attribute,
            (Message::ValueInfo, 2) => Message::Type,
            (Message::Type, 1) => Message::TensorType,
            (Message::TensorType, 2) => Message::Shape,
            (Message::Shape, 1) => Message::Dimension,
            _ => return None,
        })
    }

    fn size(self) -> usize {
        match self {
            Message::Model => size_of::<proto::Model>(),
            Message::OperatorSet => size_of::<proto::OperatorSet>(),
            Message::Graph => size_of::<proto::Graph>(),
            Message::Node => size_of::<proto::Node>(),
            Message::Attribute => size_of::<proto::Attribute>(),
            Message::Tensor => size_of::<proto::Tensor>(),
            Message::ValueInfo => size_of::<proto::ValueInfo>(),
            Message::Type => size_of::<proto::Type>(),
            Message::TensorType => size_of::<proto::TensorType>(),
            Message::Shape => size_of::<proto::Shape>(),
            Message::Dimension => size_of::<proto::Dimension>(),
        }
    }

    /// Whether a field holds packed numbers, which may be a byte each and are eight in memory.
    fn is_packed(self, field: u64) -> bool {
        matches!((self, field), (Message::Tensor, 1 | 5 | 7) | (Message::Attribute, 8))
    }
}

/// Most bytes that a model takes when it is decoded; `None` when the bytes are no such message, or are cut off.
pub(super) fn decoded_size(bytes: &[u8]) -> Option<u64> {
    size_of_message(Message::Model, bytes)
}

fn size_of_message(message: Message, mut bytes: &[u8]) -> Option<u64> {
    // A vector that grows has up to three times its length for a while.
    let mut size = 3 * message.size() as u64;
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let (field, wire_type) = (tag >> 3, tag & 7);
        if field == 0 {
            return None;
        }
        let more = match wire_type {
            0 => varint(&mut bytes).map(|_| 24)?,
            1 => split(&mut bytes, 8).map(|_| 24)?,
            5 => split(&mut bytes, 4).map(|_| 24)?,
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let content = split(&mut bytes, length)?;
                match message.in_field(field) {
                    Some(inner) => size_of_message(inner, content)?,
                    None if message.is_packed(field) => 24 * length as u64,
                    None => 96 + length as u64,
                }
            }
            _ => return None,
        };
        size = size.checked_add(more)?;
    }
    Some(size)
}

fn split<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (start, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(start)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    #[test]
    fn empty_messages_are_counted_in_memory() {
        let node = proto::Node::default();
        let graph = proto::Graph { node: vec![node; 1000], ..Default::default() };
        let bytes = proto::Model { graph: Some(graph), ..Default::default() }.encode_to_vec();
        assert!(bytes.len() < 2100);
        let size = decoded_size(&bytes).unwrap();
        let nodes = 1000 * size_of::<proto::Node>() as u64;
        assert!(size >= nodes && size < 4 * nodes, "{size} {nodes}");
    }

    #[test]
    fn weights_are_counted_once() {
        let tensor = proto::Tensor { raw_data: vec![1; 1_000_000].into(), ..Default::default() };
        let graph = proto::Graph { initializer: vec![tensor], ..Default::default() };
        let bytes = proto::Model { graph: Some(graph), ..Default::default() }.encode_to_vec();
        let size = decoded_size(&bytes).unwrap();
        assert!((1_000_000..1_010_000).contains(&size), "{size}");
        assert_eq!(decoded_size(&bytes[..bytes.len() - 1]), None);
    }

    #[test]
    fn other_bytes_are_no_model() {
        assert_eq!(decoded_size(b"hello, world"), None);
        assert_eq!(decoded_size(&[0xff; 20]), None);
        assert_eq!(decoded_size(&[0]), None);
    }
}
