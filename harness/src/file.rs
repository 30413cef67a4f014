//! Files that are complete or absent when written, and of no more than so many bytes when read.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

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

/// Where a file is written until it is complete.
pub fn partial_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    path.with_file_name(name)
}

/// Writes a file through a neighbour with `.partial` at the end of its name, which takes the file's
/// place when it is complete and goes away when writing fails.
///
/// # Errors
/// When it cannot be written; what was at `path` is then as it was.
pub fn write_whole(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let partial = partial_path(path);
    let result = (|| {
        let mut file = BufWriter::new(File::create(&partial)?);
        write(&mut file)?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&partial, path)
    })();
    if result.is_err() {
        // It may not exist; the error worth reporting is the first.
        let _ = fs::remove_file(&partial);
    }
    result
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn complete_or_absent() {
        let folder = std::env::temp_dir().join(format!("harness-file-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("a.txt");
        write_whole(&path, |file| file.write_all(b"one")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
        let failed = write_whole(&path, |file| {
            file.write_all(b"two")?;
            Err(io::Error::other("no more"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert!(!partial_path(&path).exists());
        fs::remove_dir_all(&folder).unwrap();
    }
}
