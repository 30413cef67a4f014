//! Numbers as people read them: three digits, and units.

/// Three significant digits; whole numbers keep all of theirs.
pub fn digits(value: f64) -> String {
    let size = value.abs();
    let decimals = match size {
        size if size == 0.0 || size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.9995 => 2,
        size if size >= 0.09995 => 3,
        _ => 4,
    };
    format!("{value:.decimals$}")
}

/// As [`digits`], without zeros at the end of a fraction.
pub fn short(value: f64) -> String {
    let text = digits(value);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Time in the unit that reads best.
pub fn time(ns: f64) -> String {
    match ns {
        ns if ns < 999.5 => format!("{} ns", digits(ns)),
        ns if ns < 999.5e3 => format!("{} µs", digits(ns / 1e3)),
        ns if ns < 999.5e6 => format!("{} ms", digits(ns / 1e6)),
        ns => format!("{} s", digits(ns / 1e9)),
    }
}

/// A share in percent.
pub fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    match percent.abs() {
        size if size >= 9.95 => format!("{percent:.0} %"),
        size if size >= 0.095 || size == 0.0 => format!("{percent:.1} %"),
        _ => format!("{percent:.2} %"),
    }
}

/// How many times.
pub fn times(ratio: f64) -> String {
    format!("{}×", digits(ratio))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits() {
        let cases = [(0.0, "0"), (1234.4, "1234"), (99.96, "100"), (31.26, "31.3"), (9.999, "10.0")];
        for (value, want) in
            cases.into_iter().chain([(1.006, "1.01"), (0.1234, "0.123"), (0.01234, "0.0123")])
        {
            assert_eq!(digits(value), want);
        }
        assert_eq!([short(1.0), short(1.5), short(100.0)], ["1", "1.5", "100"]);
        let times = [(12.3, "12.3 ns"), (312_800.0, "313 µs"), (999_600.0, "1.00 ms"), (2.5e9, "2.50 s")];
        for (ns, want) in times {
            assert_eq!(time(ns), want);
        }
        assert_eq!([percent(1.5), percent(0.012), percent(0.0)], ["150 %", "1.2 %", "0.0 %"]);
    }
}
