//! One problem descriptor: `g1mb2_ic3ih224oc64oh112kh7sh2ph3_n"conv1"`.

use kernels::{ConvSpec, Padding};

/// Names of the numbers in a descriptor, in the order of oneDNN's canonical form.
const KEYS: [&str; 22] = [
    "g", "mb", "ic", "id", "ih", "iw", "oc", "od", "oh", "ow", "kd", "kh", "kw", "sd", "sh", "sw", "pd",
    "ph", "pw", "dd", "dh", "dw",
];

/// The batch of a descriptor that has none.
const DEFAULT_BATCH: usize = 2;

/// Largest number in a descriptor: sums of products of two still fit 128 bits.
const MOST: u64 = u32::MAX as u64;

/// A descriptor, taken apart.
pub(super) struct Descriptor {
    /// What is between the quotes of `n"…"`.
    pub(super) name: Option<String>,
    /// Each number that is there, under its key.
    numbers: Vec<(&'static str, usize)>,
}

/// An axis as the descriptor has it.
#[derive(Clone, Copy)]
struct Axis {
    letter: char,
    input: Option<usize>,
    output: Option<usize>,
    kernel: Option<usize>,
    stride: Option<usize>,
    padding: Option<usize>,
    dilation: Option<usize>,
}

/// An axis with everything that follows from it.
#[derive(Clone, Copy)]
struct Extents {
    input: usize,
    kernel: usize,
    stride: usize,
    /// Counted from 1.
    dilation: usize,
    before: usize,
    after: usize,
}

/// Whether a word looks like a descriptor: it begins with two numbers under their keys.
pub(super) fn looks_like(word: &str) -> bool {
    matches!(number(word), Ok(Some((_, _, rest))) if matches!(number(rest), Ok(Some(_))))
}

/// The number at the start, past underscores: its key, the number and what follows. `None` when there is no
/// key with a digit behind it.
fn number(text: &str) -> Result<Option<(&'static str, usize, &str)>, String> {
    let text = text.trim_start_matches('_');
    let found = KEYS.iter().find_map(|&key| {
        let rest = text.strip_prefix(key)?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        (digits > 0).then(|| (key, rest.split_at(digits)))
    });
    let Some((key, (digits, rest))) = found else { return Ok(None) };
    match digits.parse::<u64>() {
        Ok(value) if value <= MOST => Ok(Some((key, value as usize, rest))),
        _ => Err(format!("`{key}{}` is too large: numbers go up to {MOST}", shown(digits))),
    }
}

impl Descriptor {
    /// Takes a descriptor apart.
    ///
    /// # Errors
    /// A part that is no number under its key; a number that is given twice with two values.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut descriptor = Descriptor { name: None, numbers: Vec::new() };
        let mut rest = text.trim_matches('_');
        while !rest.is_empty() {
            if let Some((key, value, after)) = number(rest)? {
                match descriptor.get(key) {
                    // oneDNN's own files repeat themselves.
                    Some(before) if before != value => {
                        return Err(format!("{key} is both {before} and {value}"));
                    }
                    Some(_) => {}
                    None => descriptor.numbers.push((key, value)),
                }
                rest = after.trim_start_matches('_');
            } else if let Some(name) = rest.strip_prefix('n') {
                descriptor.name = self::name(name)?;
                break;
            } else {
                return Err(format!(
                    "`{}` is no part of a problem descriptor (parts are {} with a number, then n\"name\")",
                    shown(rest),
                    KEYS.join(" ")
                ));
            }
        }
        Ok(descriptor)
    }

    fn get(&self, key: &str) -> Option<usize> {
        self.numbers.iter().find(|(known, _)| *known == key).map(|&(_, value)| value)
    }

    fn axis(&self, letter: char) -> Axis {
        let get = |what: char| self.get(&format!("{what}{letter}"));
        Axis {
            letter,
            input: get('i'),
            output: get('o'),
            kernel: get('k'),
            stride: get('s'),
            padding: get('p'),
            dilation: get('d'),
        }
    }

    /// The convolution, with this batch instead of the descriptor's if one is given.
    ///
    /// # Errors
    /// What is missing, zero or contradictory; a 3-D problem.
    pub(super) fn spec(&self, batch: Option<usize>) -> Result<ConvSpec, String> {
        let depth = self.axis('d');
        if !depth.is_flat() {
            return Err("is a 3-D problem, but only 2-D and 1-D convolutions can be measured".to_owned());
        }
        let (height, width) = (self.axis('h'), self.axis('w'));
        let (height, width) = match (height.is_absent(), width.is_absent()) {
            (false, false) => (height.extents()?, width.extents()?),
            (false, true) => (height.extents()?, height.extents()?),
            (true, false) => (Extents::ONE, width.extents()?),
            (true, true) => return Err("ih and kh are missing: the sizes of input and kernel".to_owned()),
        };
        let channels = |key: &str| match self.get(key) {
            Some(n) if n > 0 => Ok(n),
            Some(_) => Err(format!("{key} is 0, but must be at least 1")),
            None => Err(format!("{key} is missing")),
        };
        ConvSpec::builder()
            .batch(batch.or(self.get("mb")).unwrap_or(DEFAULT_BATCH))
            .in_channels(channels("ic")?)
            .input_size(height.input, width.input)
            .out_channels(channels("oc")?)
            .kernel(height.kernel, width.kernel)
            .stride(height.stride, width.stride)
            .dilation(height.dilation, width.dilation)
            .padding(Padding {
                top: height.before,
                left: width.before,
                bottom: height.after,
                right: width.after,
            })
            .groups(self.get("g").unwrap_or(1))
            .build()
            .map_err(|error| error.to_string())
    }
}

impl Axis {
    /// Whether nothing is said of this axis but what every axis has anyway.
    fn is_absent(&self) -> bool {
        let nothing = |n: Option<usize>| n.unwrap_or(0) == 0;
        nothing(self.input)
            && nothing(self.output)
            && nothing(self.kernel)
            && nothing(self.dilation)
            && self.stride.unwrap_or(1) == 1
            && nothing(self.padding)
    }

    /// Whether it is absent, or of one layer.
    fn is_flat(&self) -> bool {
        let at_most_one = |n: Option<usize>| n.unwrap_or(0) <= 1;
        at_most_one(self.input)
            && at_most_one(self.output)
            && at_most_one(self.kernel)
            && self.dilation.unwrap_or(0) == 0
            && self.stride.unwrap_or(1) == 1
            && self.padding.unwrap_or(0) == 0
    }

    /// What is left out follows from what is there.
    fn extents(&self) -> Result<Extents, String> {
        let letter = self.letter;
        let needed = |what: char, n: Option<usize>| match n {
            Some(n) if n > 0 => Ok(n),
            Some(_) => Err(format!("{what}{letter} is 0, but must be at least 1")),
            None => Err(format!("{what}{letter} is missing, as other numbers of this axis are there")),
        };
        let (input, kernel) = (needed('i', self.input)?, needed('k', self.kernel)?);
        let stride = needed('s', self.stride.or(Some(1)))?;
        let dilation = self.dilation.unwrap_or(0) + 1;
        let [before, after] = match self.output {
            None | Some(0) => [self.padding.unwrap_or(0); 2],
            Some(output) => self.padding_for(output, input, kernel, stride, dilation)?,
        };
        Ok(Extents { input, kernel, stride, dilation, before, after })
    }

    /// The padding before and after with which `output` comes out.
    fn padding_for(
        &self,
        output: usize,
        input: usize,
        kernel: usize,
        stride: usize,
        dilation: usize,
    ) -> Result<[usize; 2], String> {
        let [input, stride] = [input as i128, stride as i128];
        let extent = (kernel as i128 - 1) * dilation as i128 + 1;
        let total = (output as i128 - 1) * stride + extent - input;
        let before = match self.padding {
            Some(before) => before as i128,
            None => (total / 2).max(0),
        };
        let comes_out = |after: i128| (input + before + after - extent).div_euclid(stride) + 1;
        // Where the stride leaves rows over, padding is taken to be the same on both sides, as networks
        // have it, and not short by the rows that no window touches.
        let after = if comes_out(before) == output as i128 { before } else { (total - before).max(0) };
        if comes_out(after) != output as i128 {
            let letter = self.letter;
            return Err(format!(
                "o{letter} is {output}, but {} come out even without padding behind the input",
                comes_out(0)
            ));
        }
        match (usize::try_from(before), usize::try_from(after)) {
            (Ok(before), Ok(after)) => Ok([before, after]),
            _ => Err(format!("o{} is {output}, which needs too much padding", self.letter)),
        }
    }
}

impl Extents {
    /// An axis that is not there.
    const ONE: Self = Extents { input: 1, kernel: 1, stride: 1, dilation: 1, before: 0, after: 0 };
}

/// What is between the quotes, or all of it if there are none.
fn name(text: &str) -> Result<Option<String>, String> {
    let name = match text.strip_prefix('"') {
        None => text,
        Some(quoted) => match quoted.split_once('"') {
            None => return Err(format!("the name {} has no second quote", shown(text))),
            Some((name, "")) => name,
            Some((_, more)) => {
                return Err(format!("`{}` stands behind the name, which must come last", shown(more)));
            }
        },
    };
    Ok((!name.is_empty()).then(|| name.to_owned()))
}

/// So much of a text that it fits in a line.
fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> String {
        match Descriptor::parse(text).and_then(|descriptor| descriptor.spec(None)) {
            Ok(spec) => spec.to_string(),
            Err(error) => error,
        }
    }

    #[test]
    fn numbers_that_are_left_out_follow() {
        let same = [
            // Of oneDNN's documentation and its files.
            (
                "ic3ih227iw227_oc96oh55ow55_kh11kw11_sh4sw4ph0pw0_n\"alexnet:conv1\"",
                "n2 c3 h227 w227 o96 k11 s4",
            ),
            ("mb50ic3ih224iw224oc64oh112ow112kh7kw7sh2sw2ph3pw3", "n50 c3 h224 w224 o64 k7 s2 p3"),
            ("g17ic17oc17_ih8oh4kh3ph1sh2_n\"dw\"", "n2 c17 h8 w8 o17 k3 s2 p1 g17"),
            ("g1ic16oc16_ih5oh8kh3ph3", "n2 c16 h5 w5 o16 k3 p3,3,2,2"),
            ("mb1ic16oc16_ih10kh5_kh5ph7sh1", "n1 c16 h10 w10 o16 k5 p7"),
            // A 1x1 of stride 2 leaves the last row alone.
            ("ic17oc17_ih8oh4kh1ph0sh2", "n2 c17 h8 w8 o17 k1 s2"),
            // The output says what the padding behind the input is.
            ("ic32oc13_ih13oh12kh3ph0", "n2 c32 h13 w13 o13 k3 p0,0,1,1"),
            ("ic32oc13_ih13oh13kh3", "n2 c32 h13 w13 o13 k3 p1"),
            ("ic32oc13_ih14oh7kh3sh2", "n2 c32 h14 w14 o13 k3 s2 p0,0,1,1"),
            // Dilation from 0.
            ("ic8oc8_iw5ow2kw3sw1dw2pw3", "n2 c8 h1 w5 o8 k1x3 p0,3,0,0 d1x3"),
            ("ic512oc512ih14kh3ph2dh1", "n2 c512 h14 w14 o512 k3 p2 d2"),
            // One axis alone, and each with its own numbers.
            ("g6_ic24oc24_iw11kw3", "n2 c24 h1 w11 o24 k1x3 g6"),
            ("ic8ih9iw7oc8kh3kw1ph1sw2", "n2 c8 h9 w7 o8 k3x1 s1x2 p1,0"),
            // The canonical form, with a depth of one.
            (
                "g1mb2_ic3id1ih5iw5_oc16od1oh5ow5_kd1kh3kw3_sd1sh1sw1_pd0ph1pw1_dd0dh0dw0",
                "n2 c3 h5 w5 o16 k3 p1",
            ),
        ];
        for (text, want) in same {
            assert_eq!(spec(text), want.parse::<ConvSpec>().unwrap().to_string(), "{text}");
        }
    }

    #[test]
    fn what_is_no_problem_is_refused() {
        let cases = [
            ("ic3ih9oc4", "kh is missing"),
            ("ic3kh9oc4", "ih is missing"),
            ("ic3ih9iw9kh3oc4", "kw is missing"),
            ("ih9kh3oc4", "ic is missing"),
            ("ic3ih9kh3", "oc is missing"),
            ("ic0ih9kh3oc4", "ic is 0"),
            ("ic3oc4", "ih and kh are missing"),
            ("ic3ih9kh3oc4sh0", "sh is 0"),
            ("ic3ih9kh3oc4kh5", "kh is both 3 and 5"),
            ("ic3ih9kh3oc4zz5", "`zz5` is no part of a problem descriptor"),
            ("ic3ih9kh3oc", "`oc` is no part"),
            ("ic3ih-9kh3oc4", "`ih-9kh3oc4` is no part"),
            ("ic3id9kd3oc4", "is a 3-D problem"),
            ("ic3id9ih9kd3kh3oc4", "is a 3-D problem"),
            ("ic3ih9kh3oc4oh3", "oh is 3, but 7 come out"),
            ("ic3ih9kh11oc4", "11"),
            ("g2ic3ih9kh3oc4", "groups"),
            ("g0ic3ih9kh3oc4", "groups"),
            ("ic99999999999999999999ih9kh3oc4", "is too large"),
            ("ic4294967295ih4294967295kh4294967295oc4294967295oh4294967295dh4294967295", "does not fit"),
            ("ic3ih9kh3oc4n\"a", "has no second quote"),
            ("ic3ih9kh3oc4n\"a\"ph1", "`ph1` stands behind the name"),
            ("", "ih and kh are missing"),
        ];
        for (text, want) in cases {
            let message = spec(text);
            assert!(message.contains(want) && message.lines().count() == 1, "{text}: {message}");
        }
    }

    #[test]
    fn words_of_layer_files_are_no_descriptors() {
        assert!(looks_like("ic3ih9") && looks_like("g1_mb2") && looks_like("ic3oc4zz"));
        for word in ["conv1", "g1", "c3", "layer", "1", "", "ic3", "ihx"] {
            assert!(!looks_like(word), "{word}");
        }
    }
}
