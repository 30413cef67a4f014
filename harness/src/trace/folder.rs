//! A folder that is whole or not there.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use super::html::GENERATOR;
use crate::file::partial_path;
use crate::report::PAGE;

/// Fails where a folder of this name may not be written: something is there that is not an earlier trace.
pub(super) fn check(folder: &Path) -> Result<(), String> {
    let named = |what: &str| format!("{}: {what}", folder.display());
    if folder.file_name().is_none() {
        return Err(named("must be the name of a folder"));
    }
    match fs::metadata(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(named(&error.to_string())),
        Ok(what) if !what.is_dir() => return Err(named("is not a folder")),
        Ok(_) => {}
    }
    let page = fs::read_to_string(folder.join(PAGE)).unwrap_or_default();
    let own = |name: &str| {
        page.contains(GENERATOR) && (name == PAGE || page.contains(&format!("data-file=\"{name}\"")))
    };
    for entry in fs::read_dir(folder).map_err(|error| named(&error.to_string()))? {
        let name = entry.map_err(|error| named(&error.to_string()))?.file_name();
        if !own(&name.to_string_lossy()) {
            let name = name.to_string_lossy();
            return Err(named(&format!("holds {name}, which no trace has written: name a new folder")));
        }
    }
    Ok(())
}

/// Writes a page and the pictures beside it. An earlier trace of this name goes when the new one is complete.
pub(super) fn write<'a>(
    folder: &Path,
    page: &'a str,
    pictures: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> Result<(), String> {
    check(folder)?;
    let partial = partial_path(folder);
    check(&partial)?;
    let written = (|| {
        remove(&partial)?;
        fs::create_dir_all(&partial)?;
        // The page first: it tells whose the others are.
        for (name, bytes) in [(PAGE, page.as_bytes())].into_iter().chain(pictures) {
            let mut file = File::create(partial.join(name))?;
            file.write_all(bytes)?;
            file.sync_all()?;
        }
        remove(folder)?;
        fs::rename(&partial, folder)
    })();
    written.map_err(|error: io::Error| {
        // The error worth reporting is the first.
        let _ = remove(&partial);
        format!("{}: {error}", folder.display())
    })
}

/// Removes a folder, if it is there.
fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_or_not_there() {
        let root = std::env::temp_dir().join(format!("harness-folder-{}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        let folder = root.join("trace");
        let page = format!("{GENERATOR}<img data-file=\"a.png\">");
        write(&folder, &page, [("a.png", &b"a"[..])].into_iter()).unwrap();
        assert_eq!(fs::read(folder.join("a.png")).unwrap(), b"a");
        // A file that cannot be written: the earlier trace stays, and nothing else.
        let broken = [("a.png", &b"b"[..]), ("no/folder.png", &b""[..])];
        assert!(write(&folder, &page, broken.into_iter()).is_err());
        assert_eq!(fs::read(folder.join("a.png")).unwrap(), b"a");
        assert!(!partial_path(&folder).exists());
        // Another trace takes its place; somebody's file does not go.
        write(&folder, &page.replace("a.png", "b.png"), [("b.png", &b"b"[..])].into_iter()).unwrap();
        assert!(!folder.join("a.png").exists());
        fs::write(folder.join("mine.png"), "mine").unwrap();
        let refusal = write(&folder, &page, std::iter::empty()).unwrap_err();
        assert!(refusal.contains("holds mine.png"), "{refusal}");
        assert!(folder.join("mine.png").exists() && folder.join("b.png").exists());
        assert!(check(&root.join("trace/b.png")).unwrap_err().contains("is not a folder"));
        fs::remove_dir_all(&root).unwrap();
    }
}
