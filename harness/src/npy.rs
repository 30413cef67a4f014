//! Arrays in NumPy's `.npy` format: little-endian float32 in C order.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

use npyz::{DType, NpyFile, Order, WriterBuilder};

use crate::file::write_whole;
use crate::machine;

/// An array.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Its extents.
    pub shape: Vec<usize>,
    /// Its values, last axis fastest.
    pub values: Vec<f32>,
}

/// Reads an array of the given number of axes.
///
/// # Errors
/// One line that names the file: not there, not `.npy`, not float32, not in C order, another number of
/// axes, shorter than its header says, or larger than memory.
pub fn read(path: &Path, axes: usize) -> Result<Array, String> {
    read_of(path, &[axes])
}

/// Reads an array of one of these numbers of axes.
///
/// # Errors
/// As [`read`].
pub fn read_of(path: &Path, axes: &[usize]) -> Result<Array, String> {
    read_array(path, axes).map_err(|what| format!("{}: {what}", path.display()))
}

fn read_array(path: &Path, axes: &[usize]) -> Result<Array, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let length = file.metadata().map_err(|error| error.to_string())?;
    if !length.is_file() {
        return Err("is not a file".to_owned());
    }
    let mut file = BufReader::new(file);
    check_header(&mut file)?;
    let npy = NpyFile::new(file).map_err(|error| {
        // The library draws a picture of a syntax error below its first line.
        format!("is no .npy file: {}", error.to_string().lines().next().unwrap_or_default())
    })?;
    let dtype = npy.dtype();
    let descr = dtype.descr();
    if !matches!(&dtype, DType::Plain(_)) || !matches!(descr.trim_matches('\''), "<f4" | "=f4") {
        return Err(format!("holds {descr}, but must hold little-endian float32 ('<f4')"));
    }
    let shape: Vec<u64> = npy.shape().to_vec();
    if npy.order() != Order::C && shape.iter().filter(|&&n| n > 1).count() > 1 {
        return Err("is in Fortran order, but must be in C order (numpy.ascontiguousarray)".to_owned());
    }
    if !axes.contains(&shape.len()) {
        let axes = axes.iter().map(usize::to_string).collect::<Vec<_>>().join(" or ");
        return Err(format!("has shape {shape:?}, but must have {axes} axes"));
    }
    // Counted anew with checks: a header may claim anything, and memory is taken only for what is there.
    let bytes = shape.iter().try_fold(4u64, |bytes, &n| bytes.checked_mul(n));
    match bytes {
        Some(bytes) if bytes <= length.len() => {
            if bytes > machine::available_memory() {
                let (size, free) = (machine::bytes(bytes), machine::bytes(machine::available_memory()));
                return Err(format!("needs {size}, but only {free} of memory can be had"));
            }
        }
        _ => return Err(format!("is truncated: shape {shape:?} needs more than its {} bytes", length.len())),
    }
    let shape = shape.into_iter().map(|n| n as usize).collect();
    let values = npy.into_vec::<f32>().map_err(|error| format!("is truncated or broken: {error}"))?;
    Ok(Array { shape, values })
}

/// Most bytes of a header; that of any array of floats is shorter. (The library takes memory, and
/// recurses, as the header tells it to.)
const MOST_HEADER: u32 = 1024;

fn check_header(file: &mut (impl Read + Seek)) -> Result<(), String> {
    let mut start = [0; 12];
    let read = file.read_exact(&mut start).and_then(|()| file.rewind());
    read.map_err(|_| "is no .npy file: it is too short for a header".to_owned())?;
    let [a, b, c, d] = [start[8], start[9], start[10], start[11]];
    let length = match start[6] {
        1 => u32::from(u16::from_le_bytes([a, b])),
        _ => u32::from_le_bytes([a, b, c, d]),
    };
    if start.starts_with(b"\x93NUMPY") && length > MOST_HEADER {
        return Err(format!(
            "has a header of {length} bytes, but an array of floats needs at most {MOST_HEADER}"
        ));
    }
    Ok(())
}

/// Writes an array; the file is complete or absent.
///
/// # Errors
/// One line that names the file.
pub fn write(path: &Path, shape: &[usize], values: &[f32]) -> Result<(), String> {
    let shape: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
    write_whole(path, |file| {
        let mut writer = npyz::WriteOptions::new()
            .dtype(DType::new_scalar("<f4".parse().map_err(io::Error::other)?))
            .shape(&shape)
            .writer(file)
            .begin_nd()?;
        writer.extend(values)?;
        writer.finish()
    })
    .map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("harness-npy-{}-{name}.npy", std::process::id()))
    }

    /// A file of format version 1 with this header and data.
    fn message(name: &str, header: &str, data: &[u8]) -> String {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        message_of(name, &bytes)
    }

    fn message_of(name: &str, bytes: &[u8]) -> String {
        let path = path(name);
        std::fs::write(&path, bytes).unwrap();
        let result = read(&path, 4);
        std::fs::remove_file(&path).unwrap();
        match result {
            Ok(array) => format!("{:?} {:?}", array.shape, array.values),
            Err(error) => error.split_once(".npy: ").unwrap().1.to_owned(),
        }
    }

    #[test]
    fn arrays_come_back() {
        let path = path("round");
        let values: Vec<f32> = (0..24).map(|i| i as f32 / 7.0).collect();
        write(&path, &[2, 1, 3, 4], &values).unwrap();
        assert_eq!(read(&path, 4).unwrap(), Array { shape: vec![2, 1, 3, 4], values });
        assert!(read(&path, 1).unwrap_err().contains("has shape [2, 1, 3, 4], but must have 1 axes"));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_is_no_array_of_floats_is_refused() {
        let header = |descr: &str, order: &str, shape: &str| {
            format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': ({shape}), }}\n")
        };
        let zeros = [0; 64];
        let good = header("'<f4'", "False", "1, 1, 1, 2");
        assert_eq!(message("good", &good, &zeros[..8]), "[1, 1, 1, 2] [0.0, 0.0]");
        let cases: [(&str, String, &str); 9] = [
            (
                "f8",
                header("'<f8'", "False", "1, 1, 1, 2"),
                "holds '<f8', but must hold little-endian float32",
            ),
            ("big", header("'>f4'", "False", "1, 1, 1, 2"), "holds '>f4', but must"),
            ("object", header("'|O'", "False", "1, 1, 1, 2"), "holds '|O', but must"),
            ("struct", header("[('a', '<f4')]", "False", "1, 1, 1, 2"), "but must hold little-endian"),
            ("fortran", header("'<f4'", "True", "1, 2, 2, 1"), "is in Fortran order"),
            ("rank", header("'<f4'", "False", "2,"), "has shape [2], but must have 4 axes"),
            ("short", header("'<f4'", "False", "4, 4, 4, 4"), "is truncated"),
            (
                "huge",
                header("'<f4'", "False", "4294967296, 4294967296, 4294967296, 4294967296"),
                "is truncated",
            ),
            ("nonsense", "{'descr': ".to_owned(), "is no .npy file"),
        ];
        for (name, header, want) in cases {
            let got = message(name, &header, &zeros);
            assert!(got.contains(want) && got.lines().count() == 1, "{name}: {got}");
        }
        assert!(message("deep", &"(".repeat(5000), &[]).contains("has a header of 5000 bytes"));
        let long = b"\x93NUMPY\x02\x00\xff\xff\xff\xff";
        assert!(message_of("long", long).contains("has a header of 4294967295 bytes"));
        assert!(message_of("text", b"PK\x03\x04 is an archive").contains("is no .npy file"));
        assert!(message_of("empty", b"").contains("is no .npy file"));
        assert!(read(&path("absent"), 4).unwrap_err().contains("absent.npy: No such file"));
        assert!(read(&std::env::temp_dir(), 4).unwrap_err().contains("is not a file"));
    }
}
