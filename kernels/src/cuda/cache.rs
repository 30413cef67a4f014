//! Compiled kernels kept on disk, so that only the first process compiles them: that takes about a second for each.
//!
//! One file for each, complete or absent: written beside and moved into place. A file tells what it was made from and
//! a hash of its code; one that is not exactly what was asked for counts as none. A folder that cannot be written is
//! no failure: then every process compiles.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::driver::named;

/// No kernel's code is nearly as large.
const MOST_BYTES: u64 = 64 << 20;

/// A folder of compiled kernels, or none.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: Option<PathBuf>,
}

impl Cache {
    /// The folder that `CONV_CUDA_CACHE` names, or one in the user's cache folder. `CONV_CUDA_CACHE` set to nothing
    /// keeps nothing.
    pub(crate) fn of_user() -> Cache {
        let folder = match std::env::var_os("CONV_CUDA_CACHE") {
            Some(folder) => (!folder.is_empty()).then(|| PathBuf::from(folder)),
            None => user_folder().map(|folder| folder.join("convolution-kernels").join("cuda")),
        };
        Cache { folder }
    }

    /// The code that was put under this key, and that nothing has happened to since.
    pub(crate) fn get(&self, name: &str, key: &str) -> Option<Vec<u8>> {
        let path = self.path(name, key)?;
        if fs::metadata(&path).ok()?.len() > MOST_BYTES {
            return None;
        }
        let file = fs::read(path).ok()?;
        let (start, code) = file.split_at_checked(head(key, &[]).len())?;
        (start == head(key, code)).then(|| code.to_vec())
    }

    /// Keeps code under a key, if it can.
    pub(crate) fn put(&self, name: &str, key: &str, code: &[u8]) {
        if let (Some(folder), Some(path)) = (&self.folder, self.path(name, key)) {
            // Who cannot write compiles again; nothing else is lost.
            let _ = write_whole(folder, &path, &[&head(key, code), code]);
        }
    }

    fn path(&self, name: &str, key: &str) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(format!("{name}-{:032x}", hash(key.as_bytes()))))
    }
}

/// What stands before the code; its length depends on the key alone.
fn head(key: &str, code: &[u8]) -> Vec<u8> {
    format!("convolution kernel, format 1\n{key}\n{:016x} bytes {:032x}\n", code.len(), hash(code))
        .into_bytes()
}

/// FNV-1a: tells apart what differs by accident. Who can write to the folder can run code as its owner anyway.
pub(crate) fn hash(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash: u128, &byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    })
}

fn user_folder() -> Option<PathBuf> {
    if cfg!(windows) {
        return named("LOCALAPPDATA").map(PathBuf::from);
    }
    let absolute = |folder: &PathBuf| folder.is_absolute();
    named("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(absolute)
        .or_else(|| named("HOME").map(|home| PathBuf::from(home).join(".cache")).filter(absolute))
}

/// Writes a file beside its place, under a name of this call's own, and moves it there.
fn write_whole(folder: &Path, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    fs::create_dir_all(folder)?;
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let beside = path.with_extension(format!("{}-{call}", std::process::id()));
    let write = || -> io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&beside)?;
        parts.iter().try_for_each(|part| file.write_all(part))?;
        drop(file);
        fs::rename(&beside, path)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of a test's own that goes with it.
    struct Temporary(PathBuf);

    impl Temporary {
        fn new(name: &str) -> Temporary {
            let folder = std::env::temp_dir().join(format!("conv-cuda-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&folder);
            Temporary(folder)
        }

        fn cache(&self) -> Cache {
            Cache { folder: Some(self.0.clone()) }
        }

        fn files(&self) -> Vec<PathBuf> {
            fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path()).collect()
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_is_put_is_found_under_its_key_alone() {
        let folder = Temporary::new("found");
        let cache = folder.cache();
        assert_eq!(cache.get("conv", "key"), None);
        cache.put("conv", "key", b"code");
        cache.put("conv", "other", b"");
        assert_eq!(cache.get("conv", "key").as_deref(), Some(&b"code"[..]));
        assert_eq!(cache.get("conv", "other").as_deref(), Some(&b""[..]));
        assert_eq!(cache.get("conv", "third"), None);
        assert_eq!(cache.get("gemm", "key"), None);
        cache.put("conv", "key", b"later");
        assert_eq!(cache.get("conv", "key").as_deref(), Some(&b"later"[..]));
        assert_eq!(folder.files().len(), 2, "nothing is left beside");
    }

    /// Each byte changed, each length, another entry's file: nothing of it is taken, and `put` mends it.
    #[test]
    fn damage_is_as_good_as_nothing() {
        let folder = Temporary::new("damage");
        let cache = folder.cache();
        cache.put("conv", "key", b"code");
        let path = folder.files().remove(0);
        let whole = fs::read(&path).unwrap();
        for i in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[i] ^= 1;
            fs::write(&path, &damaged).unwrap();
            assert_eq!(cache.get("conv", "key"), None, "byte {i}");
            fs::write(&path, &whole[..i]).unwrap();
            assert_eq!(cache.get("conv", "key"), None, "{i} bytes");
        }
        fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
        assert_eq!(cache.get("conv", "key"), None);
        cache.put("conv", "other", b"code");
        let other = folder.files().into_iter().find(|file| *file != path).unwrap();
        fs::copy(other, &path).unwrap();
        assert_eq!(cache.get("conv", "key"), None);
        cache.put("conv", "key", b"code");
        assert_eq!(cache.get("conv", "key").as_deref(), Some(&b"code"[..]));
    }

    #[test]
    fn no_folder_is_no_failure() {
        let cache = Cache { folder: None };
        cache.put("conv", "key", b"code");
        assert_eq!(cache.get("conv", "key"), None);
        // A folder that can be no folder.
        let folder = Temporary::new("file");
        fs::write(&folder.0, b"a file").unwrap();
        let cache = folder.cache();
        cache.put("conv", "key", b"code");
        assert_eq!(cache.get("conv", "key"), None);
        fs::remove_file(&folder.0).unwrap();
    }

    /// Figures of the hash's own authors.
    #[test]
    fn the_hash_is_fnv_1a() {
        assert_eq!(hash(b""), 0x6c62272e07bb014262b821756295c58d);
        assert_eq!(hash(b"a"), 0xd228cb696f1a8caf78912b704e4a8964);
    }
}
