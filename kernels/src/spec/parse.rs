//! Spec strings: `n1 c64 h56 w56 o64 k3x3 s1x1 p1,1,1,1 d1x1 g1`, the repro line everywhere.

use std::fmt;
use std::str::FromStr;

use super::{ConvSpec, ConvSpecBuilder, Layout, Padding};
use crate::error::SpecError;

impl fmt::Display for ConvSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Padding { top, left, bottom, right } = self.padding;
        write!(
            f,
            "n{} c{} h{} w{} o{} k{}x{} s{}x{} p{top},{left},{bottom},{right} d{}x{} g{}",
            self.batch,
            self.in_channels,
            self.in_height,
            self.in_width,
            self.out_channels,
            self.kernel[0],
            self.kernel[1],
            self.stride[0],
            self.stride[1],
            self.dilation[0],
            self.dilation[1],
            self.groups,
        )?;
        match self.layout {
            Layout::Nchw => Ok(()),
            Layout::Nhwc => f.write_str(" nhwc"),
        }
    }
}

/// Reads a spec string.
///
/// Tokens are separated by blanks, in any order: `c`, `h`, `w`, `o` and `k` are required; `n`, `s`,
/// `p`, `d`, `g` default to 1, 1, 0, 1, 1. `k3` means `k3x3`, `s2` means `s2x2`; padding is `p1`
/// (all sides), `p1,2` (vertical, horizontal), `p1,2,3,4` (top, left, bottom, right) or `psame`.
/// A token `nhwc` or `nchw` sets the layout. Unknown and repeated tokens are errors.
///
/// ```
/// use kernels::ConvSpec;
/// let spec: ConvSpec = "c64 h56 w56 o64 k3 psame nhwc".parse()?;
/// assert_eq!(spec.to_string(), "n1 c64 h56 w56 o64 k3x3 s1x1 p1,1,1,1 d1x1 g1 nhwc");
/// # Ok::<(), kernels::SpecError>(())
/// ```
impl FromStr for ConvSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let mut builder = ConvSpecBuilder::default();
        let mut seen: Vec<&str> = Vec::new();
        for token in text.split_whitespace() {
            let (key, value) = split(token)?;
            if seen.contains(&key) {
                return Err(parse_error(token, "a token that was not given before"));
            }
            seen.push(key);
            builder = match key {
                "layout" => builder.layout(if token == "nhwc" { Layout::Nhwc } else { Layout::Nchw }),
                "n" => builder.batch(number(token, value)?),
                "c" => builder.in_channels(number(token, value)?),
                "h" => builder.in_height(number(token, value)?),
                "w" => builder.in_width(number(token, value)?),
                "o" => builder.out_channels(number(token, value)?),
                "g" => builder.groups(number(token, value)?),
                "k" => pair(token, value).map(|[h, w]| builder.kernel(h, w))?,
                "s" => pair(token, value).map(|[h, w]| builder.stride(h, w))?,
                "d" => pair(token, value).map(|[h, w]| builder.dilation(h, w))?,
                _ if value == "same" => builder.padding_same(),
                _ => builder.padding(padding(token, value)?),
            };
        }
        builder.build()
    }
}

/// Splits `k3x3` into `k` and `3x3`; the layout words have the key `layout`.
fn split(token: &str) -> Result<(&str, &str), SpecError> {
    if token == "nhwc" || token == "nchw" {
        return Ok(("layout", token));
    }
    match token.split_at_checked(1) {
        Some((key @ ("n" | "c" | "h" | "w" | "o" | "k" | "s" | "p" | "d" | "g"), value)) => Ok((key, value)),
        _ => Err(parse_error(token, "one of n c h w o k s p d g with its number, or nchw, or nhwc")),
    }
}

fn parse_error(token: &str, expected: &'static str) -> SpecError {
    // A hostile token must not become a page of error text.
    let shown: String = token.chars().take(40).collect();
    SpecError::Parse { token: shown, expected }
}

fn number(token: &str, value: &str) -> Result<usize, SpecError> {
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
        return Err(parse_error(token, "a letter followed by a whole number, such as c64"));
    }
    value.parse().map_err(|_| parse_error(token, "a number that fits this machine's address space"))
}

fn pair(token: &str, value: &str) -> Result<[usize; 2], SpecError> {
    match value.split_once('x') {
        None => number(token, value).map(|n| [n, n]),
        Some((h, w)) => Ok([number(token, h)?, number(token, w)?]),
    }
    .map_err(|_| parse_error(token, "a letter with one number or two, such as k3 or k3x5"))
}

fn padding(token: &str, value: &str) -> Result<Padding, SpecError> {
    const EXPECTED: &str = "p with 1, 2 or 4 numbers (p1; p1,2 vertical,horizontal; p1,2,3,4 \
                            top,left,bottom,right) or psame";
    let numbers = value
        .split(',')
        .map(|part| number(token, part))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| parse_error(token, EXPECTED))?;
    match numbers[..] {
        [all] => Ok(Padding::uniform(all)),
        [vertical, horizontal] => {
            Ok(Padding { top: vertical, left: horizontal, bottom: vertical, right: horizontal })
        }
        [top, left, bottom, right] => Ok(Padding { top, left, bottom, right }),
        _ => Err(parse_error(token, EXPECTED)),
    }
}
