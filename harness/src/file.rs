//! Files that are complete or absent when written, and of no more than so many bytes when read.

use std::io::Read;

pub use cnn::file::{partial_path, write_whole};

use crate::machine;

/// Adds a file to some bytes, to its end, which a pipe or device may not have: no more than so many in all.
///
/// # Errors
/// When it cannot be read, or is larger.
pub fn read_most(file: impl Read, most: u64, bytes: &mut Vec<u8>) -> Result<(), String> {
    let left = most.saturating_sub(bytes.len() as u64);
    file.take(left.saturating_add(1)).read_to_end(bytes).map_err(|error| error.to_string())?;
    match bytes.len() as u64 > most {
        true => Err(format!("is too large: at most {} are read here", machine::bytes(most))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn reading_has_an_end() {
        let read = |most| {
            let mut bytes = vec![1];
            read_most(io::repeat(0).take(3000), most, &mut bytes).map(|()| bytes.len())
        };
        assert_eq!(read(3001), Ok(3001));
        assert_eq!(read(3000).unwrap_err(), "is too large: at most 2.9 KiB are read here");
        let endless = read_most(io::repeat(0), 1 << 20, &mut Vec::new());
        assert_eq!(endless.unwrap_err(), "is too large: at most 1 MiB are read here");
    }
}
