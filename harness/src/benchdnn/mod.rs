//! Problems as benchdnn writes them, the test driver of oneDNN (its driver `conv`).
//!
//! A file holds problem descriptors and options, separated by blanks or lines, with `#` comments:
//!
//! ```text
//! --mb=1                                  # the batch of what follows, instead of its own
//! ic3ih224oc64oh112kh7sh2ph3n"conv1"
//! ic64ih56oc64kh3ph1n"conv2_3x3*3"        # three layers of this shape
//! g32_ic32ih112_oc32oh112_kh3ph1
//! --batch=more_shapes                     # another file, found from this one
//! ```
//!
//! A descriptor is numbers under their keys, with underscores anywhere between them: `g` groups, `mb` batch (2
//! if left out), `ic` and `oc` channels, and for each axis (`h`, `w`) `i` input, `o` output, `k` kernel, `s`
//! stride, `p` padding before the input, `d` dilation, which counts from 0 here; a name `n"…"` may come last.
//! What is left out follows: a width like the height; height 1 where only the width is given; padding and output
//! from each other. Where the output needs it, padding behind the input differs from that before it.
//!
//! Options that change how oneDNN runs a problem (`--stag`, `--alg`, `--attr-…`, `--mode` and so on) are read
//! over. Those that would make it another problem than a forward convolution in f32 are errors.

mod descriptor;

use std::fs;
use std::path::{Path, PathBuf};

use descriptor::Descriptor;

use crate::layers::{Collection, Layer, LayerError, Same, read_text, token};
use crate::machine;

/// Files within files within files.
const MOST_DEPTH: usize = 8;

/// Files that a file brings with it.
const MOST_FILES: usize = 1000;

/// Bytes of these together.
const MOST_BYTES: usize = 16 << 20;

/// Problems of a file and those that it brings with it, each counted with each of its batches.
const MOST_PROBLEMS: usize = 100_000;

/// Options that leave the convolution what it is. (`--attr-…` and `-v…` are others.)
const READ_OVER: [&str; 40] = [
    "alg",
    "allow-enum-tags-only",
    "allow-unimpl",
    "bitwise",
    "canonical",
    "check-ref-impl",
    "cold-cache",
    "conv",
    "cpu-isa-hints",
    "ctx-exe",
    "ctx-init",
    "dtag",
    "engine",
    "execution-mode",
    "fast-ref",
    "fast-ref-gpu",
    "fix-times-per-prb",
    "global-impl",
    "global-skip-impl",
    "impl",
    "inplace",
    "max-ms-per-prb",
    "mem-check",
    "memory-kind",
    "mode",
    "mode-modifier",
    "num-streams",
    "perf-template",
    "repeats-per-prb",
    "skip-impl",
    "skip-unimpl",
    "stag",
    "start",
    "stream-kind",
    "strides",
    "summary",
    "sycl-memory-kind",
    "verbose",
    "wtag",
    "zmalloc-expect-size",
];

/// Reads problems from text; `source` is its path, for errors and for finding other files from it.
///
/// # Errors
/// The first word that is no problem or no option that can be followed; no problem at all.
pub fn parse(text: &str, source: &str) -> Result<Vec<Layer>, LayerError> {
    let mut reader = Reader {
        collection: Collection::new(source, Same::NameAndSpec),
        batches: vec![0],
        open: vec![PathBuf::from(source)],
        files: 0,
        bytes: 0,
        problems: 0,
    };
    reader.read(text, source)?;
    let layers = reader.collection.into_layers();
    if layers.is_empty() {
        return Err(LayerError::whole(
            source,
            "no problem in it (a descriptor is e.g. ic3ih224oc64kh7sh2ph3)",
        ));
    }
    Ok(layers)
}

/// The layer of a single descriptor.
///
/// # Errors
/// What is wrong with it.
pub fn problem(text: &str) -> Result<Layer, String> {
    let descriptor = Descriptor::parse(text.trim())?;
    let spec = descriptor.spec(None)?;
    let (name, count) = name_and_count(&descriptor, text.trim());
    Ok(Layer { name, network: String::new(), count, spec })
}

/// Whether a text is of this format rather than one of layers, by its first line with anything in it.
pub(crate) fn looks_like(text: &str) -> bool {
    let mut lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let Some(line) = lines.find(|line| !line.is_empty()) else { return false };
    let mut words = line.split_whitespace();
    let (first, second) = (words.next().unwrap_or_default(), words.next());
    let counted = second.is_some_and(|word| word.bytes().all(|b| b.is_ascii_digit()));
    first.starts_with('-') || (descriptor::looks_like(first) && !counted)
}

/// A descriptor's name, and the layers that it stands for: oneDNN's files end the name of a shape that a network
/// has several times in `*3`.
fn name_and_count(descriptor: &Descriptor, text: &str) -> (String, usize) {
    let name = descriptor.name.as_deref().unwrap_or(text);
    let counted = name.rsplit_once('*').and_then(|(name, count)| Some((name, count.parse::<u32>().ok()?)));
    match counted {
        Some((name, count)) if count > 0 && !name.is_empty() => (token(name), count as usize),
        _ => (token(name), 1),
    }
}

struct Reader {
    collection: Collection,
    /// Batches of the problems that follow; 0 is a problem's own.
    batches: Vec<usize>,
    /// The files that are being read, the innermost last.
    open: Vec<PathBuf>,
    /// Files read besides the first.
    files: usize,
    /// Bytes of these.
    bytes: usize,
    /// Problems so far.
    problems: usize,
}

impl Reader {
    fn read(&mut self, text: &str, source: &str) -> Result<(), LayerError> {
        for (line, word) in words(text) {
            let error = |what: String| LayerError { source: source.to_owned(), line, what };
            match word.strip_prefix('-') {
                Some(option) => match option.strip_prefix("-batch=") {
                    Some(file) => self.include(file, source, line)?,
                    None => self.option(&word).map_err(error)?,
                },
                None => self.problem(&word).map_err(|what| error(format!("`{}`: {what}", clipped(&word))))?,
            }
        }
        Ok(())
    }

    fn problem(&mut self, text: &str) -> Result<(), String> {
        let descriptor = Descriptor::parse(text)?;
        let (name, count) = name_and_count(&descriptor, text);
        self.problems = self.problems.saturating_add(self.batches.len());
        if self.problems > MOST_PROBLEMS {
            return Err(format!("is more than can be followed: {MOST_PROBLEMS} problems, in all batches"));
        }
        for &batch in &self.batches {
            let spec = descriptor.spec((batch > 0).then_some(batch))?;
            let name = match self.batches.len() {
                1 => name.clone(),
                _ => format!("{name}_mb{}", spec.batch()),
            };
            self.collection.add(&name, count, spec);
        }
        Ok(())
    }

    fn option(&mut self, word: &str) -> Result<(), String> {
        let shown = clipped(word);
        let option = word.trim_start_matches('-');
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let name = name.replace('_', "-");
        let wrong = |right: &dyn Fn(&str) -> bool| {
            value.split(',').map(str::trim).find(|value| !value.is_empty() && !right(&value.to_lowercase()))
        };
        match name.as_str() {
            "reset" => self.batches = vec![0],
            "mb" => {
                let batches: Option<Vec<usize>> =
                    value.split(',').map(|n| n.trim().parse::<u32>().ok().map(|n| n as usize)).collect();
                self.batches = match batches {
                    _ if value.is_empty() => vec![0],
                    Some(batches) => batches,
                    None => {
                        return Err(format!(
                            "`{shown}` is no batch, which is a number (0: the problem's own)"
                        ));
                    }
                };
            }
            "dir" => {
                if let Some(wrong) = wrong(&|dir| matches!(dir, "fwd_b" | "fwd_d" | "fwd_i")) {
                    return Err(format!(
                        "`{shown}`: {} is not measured, only forward convolutions are (FWD_B, FWD_D, FWD_I)",
                        clipped(wrong)
                    ));
                }
            }
            "cfg" | "dt" | "bia-dt" => {
                let f32 = |dt: &str| {
                    matches!(dt, "f32_wino") || dt.split(':').all(|dt| matches!(dt, "f32" | "" | "undef"))
                };
                if let Some(wrong) = wrong(&f32) {
                    return Err(format!("`{shown}`: {} is not measured, only f32 is", clipped(wrong)));
                }
            }
            "match" if !value.is_empty() => {
                return Err(format!(
                    "`{shown}` chooses problems by a pattern, which cannot be followed here; choose them yourself"
                ));
            }
            "match" => {}
            _ if name.starts_with("attr") || READ_OVER.contains(&name.as_str()) => {}
            _ if word.starts_with("-v") => {}
            _ => {
                return Err(format!(
                    "`{shown}` is no known option of benchdnn's convolutions (known are --mb, --batch, --dir, --dt, --reset and those that leave the problem as it is)"
                ));
            }
        }
        Ok(())
    }

    fn include(&mut self, file: &str, source: &str, line: usize) -> Result<(), LayerError> {
        let error = |what: String| LayerError { source: source.to_owned(), line, what };
        let shown = clipped(file);
        let folder = Path::new(source).parent().unwrap_or(Path::new(""));
        let path = folder.join(file);
        self.files += 1;
        if self.files > MOST_FILES {
            return Err(error(format!("`--batch={shown}` is one file too many: {MOST_FILES} are read")));
        }
        if self.open.len() > MOST_DEPTH {
            return Err(error(format!(
                "`--batch={shown}` lies too deep: {MOST_DEPTH} files within each other are read"
            )));
        }
        // Two names of a file may differ.
        let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if self.open.iter().any(|open| real(open) == real(&path)) {
            return Err(error(format!("`--batch={shown}` is being read already: a file cannot hold itself")));
        }
        let text = read_text(&path)
            .map_err(|what| error(format!("`--batch={shown}`: {}: {what}", path.display())))?;
        self.bytes = self.bytes.saturating_add(text.len());
        if self.bytes > MOST_BYTES {
            let most = machine::bytes(MOST_BYTES as u64);
            return Err(error(format!("`--batch={shown}` is too much: {most} of files are read")));
        }
        let name = path.display().to_string();
        self.open.push(path);
        self.read(&text, &name)?;
        self.open.pop();
        Ok(())
    }
}

/// So much of a word that it fits in a line.
fn clipped(word: &str) -> String {
    match word.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", word.get(..end).unwrap_or_default()),
        None => word.to_owned(),
    }
}

/// Words with the numbers of their lines. A backslash joins what follows to what was before.
fn words(text: &str) -> Vec<(usize, String)> {
    let mut words: Vec<(usize, String)> = Vec::new();
    let mut joined = false;
    for (index, line) in text.lines().enumerate() {
        for word in line.split_whitespace().take_while(|word| !word.starts_with('#')) {
            let (word, joins) = word.strip_suffix('\\').map_or((word, false), |word| (word, true));
            match words.last_mut() {
                // A backslash on its own belongs to the word before it.
                Some((_, last)) if joined || (joins && word.is_empty()) => last.push_str(word),
                _ if word.is_empty() => {}
                _ => words.push((index + 1, word.to_owned())),
            }
            joined = joins;
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(text: &str) -> Vec<String> {
        match parse(text, "folder/net.txt") {
            Ok(layers) => {
                layers.iter().map(|layer| format!("{} {} {}", layer.name, layer.count, layer.spec)).collect()
            }
            Err(error) => vec![error.to_string()],
        }
    }

    #[test]
    fn files_are_read() {
        let got = layers(
            "# a network\n--reset --cfg=f32 --dir=FWD_B,FWD_D -v1 # options\n\
             --attr-post-ops=, \\\n        sum:0.5, \\\n   relu\n\
             mb1ic3ih8oc4kh3n\"a:conv1\"\n\
             mb1ic3ih8oc4kh3n\"a:conv1\" mb1ic3ih8oc4kh3n\"same shape\n\"\n",
        );
        // A blank ends a word, also within quotes.
        assert_eq!(got.len(), 1);
        assert!(got[0].starts_with("folder/net.txt:7: `mb1ic3ih8oc4kh3n\"same`: the name"), "{got:?}");
        let spec = |n: usize| format!("n{n} c3 h8 w8 o4 k3x3 s1x1 p0,0,0,0 d1x1 g1");
        let got = layers(
            "ic3ih8oc4kh3n\"a\" ic3ih8oc4kh3n\"a\"\nic3ih8oc4kh3n\"b*3\"\n--mb=1\nic3ih8oc4kh3n\"a\"\n--mb=4,0\n\
             mb7ic3ih8oc4kh3n\"c\"\n--reset\nic3ih8oc4kh3",
        );
        let want = [
            format!("a 2 {}", spec(2)),
            format!("b 3 {}", spec(2)),
            format!("a-2 1 {}", spec(1)),
            format!("c_mb4 1 {}", spec(4)),
            format!("c_mb7 1 {}", spec(7)),
            format!("ic3ih8oc4kh3 1 {}", spec(2)),
        ];
        assert_eq!(got, want);
    }

    #[test]
    fn errors_name_line_and_word() {
        let cases = [
            ("\n--dir=FWD_D,BWD_W", "net.txt:2: `--dir=FWD_D,BWD_W`: BWD_W is not measured"),
            ("--dt=f32,bf16", "`--dt=f32,bf16`: bf16 is not measured, only f32 is"),
            ("--cfg=u8s8u8", "u8s8u8 is not measured"),
            ("--dt=f32:s8:f32", "f32:s8:f32 is not measured"),
            ("--mb=many", "`--mb=many` is no batch"),
            ("--match=.*kh3.*", "chooses problems by a pattern"),
            ("--frobnicate=1", "`--frobnicate=1` is no known option"),
            ("--mb=1\nic3ih9kh3oc4\nic3id9kd3oc4", "net.txt:3: `ic3id9kd3oc4`: is a 3-D problem"),
            ("conv1", "net.txt:1: `conv1`: `conv1` is no part of a problem descriptor"),
            ("--batch=absent", "net.txt:1: `--batch=absent`: folder/absent: No such file"),
            ("--mb=1", "net.txt: no problem in it"),
        ];
        for (text, want) in cases {
            let got = layers(text);
            assert!(
                got.len() == 1 && got[0].contains(want) && got[0].lines().count() == 1,
                "{text}: {got:?}"
            );
        }
    }

    #[test]
    fn files_bring_files() {
        let folder = std::env::temp_dir().join(format!("harness-benchdnn-{}", std::process::id()));
        fs::create_dir_all(folder.join("more")).unwrap();
        let path = |name: &str| folder.join(name).display().to_string();
        let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
        write("more/b", "ic3ih8oc4kh3\n--batch=c");
        write("more/c", "--mb=5\nic3ih8oc4kh1");
        let read = |text: &str| parse(text, &path("a"));
        let batches: Vec<usize> = read("--mb=1 --batch=more/b ic4ih4kh1oc4")
            .unwrap()
            .iter()
            .map(|layer| layer.spec.batch())
            .collect();
        assert_eq!(batches, [1, 5, 5]);
        write("more/c", "--batch=../more/b");
        assert!(
            read("--batch=more/b")
                .unwrap_err()
                .to_string()
                .contains("c:1: `--batch=../more/b` is being read already")
        );
        for depth in 0..9 {
            write(&format!("deep{depth}"), &format!("--batch=deep{}", depth + 1));
        }
        assert!(read("--batch=deep0").unwrap_err().to_string().contains("lies too deep"));
        write("wrong", "--dir=BWD_D");
        assert!(read("--batch=wrong").unwrap_err().to_string().contains("wrong:1: `--dir=BWD_D`"));
        write("empty", "");
        assert!(read(&"--batch=empty\n".repeat(1001)).unwrap_err().to_string().contains("a:1001: "));
        write("large", &"#\n".repeat(5 << 20));
        let twice = read("--batch=large\n--batch=large").unwrap_err().to_string();
        assert!(twice.ends_with("a:2: `--batch=large` is too much: 16 MiB of files are read"), "{twice}");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn no_list_of_batches_is_followed_without_end() {
        let batches = |count: usize| format!("--mb={}1\n", "1,".repeat(count - 1));
        // All of one shape, which is one layer.
        assert_eq!(layers(&(batches(50_000) + "ic3ih8oc4kh3\nic3ih8oc4kh3")).len(), 1);
        let got = layers(&(batches(50_001) + "ic3ih8oc4kh3\nic3ih8oc4kh3"));
        let want = "folder/net.txt:3: `ic3ih8oc4kh3`: is more than can be followed: 100000 problems";
        assert!(got.len() == 1 && got[0].starts_with(want), "{got:?}");
    }

    #[test]
    fn a_file_is_known_by_its_first_line() {
        for text in
            ["--mb=1", "# c\n\n  --reset", "ic3ih8oc4kh3", "g1mb2ic3_ih8kk", "ic3ih8oc4kh3 ic3ih8oc4kh1"]
        {
            assert!(looks_like(text), "{text}");
        }
        for text in ["conv1 1 c3 h8 w8 o4 k3", "", "# --mb=1\n", "kh1kw7 2 c3 h8 w8 o4 k1x7", "a"] {
            assert!(!looks_like(text), "{text}");
        }
    }

    #[test]
    fn a_problem_stands_alone() {
        let layer = problem(" ic3ih8oc4kh3n\"two words*2\" ").unwrap();
        assert_eq!((layer.name.as_str(), layer.count, layer.spec.batch()), ("two_words", 2, 2));
        assert_eq!(
            problem("ic3ih8oc4").unwrap_err(),
            "kh is missing, as other numbers of this axis are there"
        );
        assert!(problem("ic3ih8 oc4kh3").unwrap_err().contains("` oc4kh3` is no part"));
    }
}
