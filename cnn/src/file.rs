//! Files of no more than so many bytes when read, complete or as they were when written.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

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

/// Writes a file through a neighbour with `.partial` at the end of its name.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = path.with_file_name(name);
    let result = (|| {
        let mut file = File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    })();
    result.map_err(|error| {
        // It may not exist; the error worth reporting is the first.
        let _ = fs::remove_file(&partial);
        Error::File { path: path.to_owned(), what: error.to_string() }
    })
}
