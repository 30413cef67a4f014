//! Files that are complete or absent when written, and of no more than so many bytes when read.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::Error;

/// The bytes of a file that may have so many at most.
pub(crate) fn read_most(path: &Path, most: u64) -> Result<Vec<u8>, Error> {
    let wrong = |what: String| Error::File { path: path.to_owned(), what };
    let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
    let mut bytes = Vec::new();
    // One more than allowed, so that a file that is too long shows.
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| wrong(error.to_string()))?;
    match bytes.len() as u64 > most {
        true => Err(wrong(format!("has more than the {most} bytes that are right here"))),
        false => Ok(bytes),
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
    fn complete_or_absent() {
        let folder = std::env::temp_dir().join(format!("cnn-file-{}", std::process::id()));
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
