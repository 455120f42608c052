//! Texts of settings as values, and back.

/// Reads bytes: a number, with KiB, MiB or GiB if wanted.
pub fn bytes(text: &str) -> Option<u64> {
    with_units(
        text,
        &[
            ("GiB", 1 << 30),
            ("MiB", 1 << 20),
            ("KiB", 1 << 10),
            ("B", 1),
        ],
    )
}

/// Reads milliseconds: a number, with ms, s or min if wanted.
pub fn millis(text: &str) -> Option<u64> {
    with_units(text, &[("ms", 1), ("min", 60_000), ("s", 1000)])
}

/// The number, if it is in the range.
pub fn within(value: Option<u64>, from: u64, to: u64) -> Option<u64> {
    value.filter(|v| (from..=to).contains(v))
}

fn with_units(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let (number, factor) = units
        .iter()
        .find_map(|(unit, factor)| text.strip_suffix(unit).map(|number| (number, *factor)))
        .unwrap_or((text, 1));
    number.trim().parse::<u64>().ok()?.checked_mul(factor)
}

/// Reads a boolean.
pub fn boolean(text: &str) -> Option<bool> {
    match text.trim() {
        "true" | "1" | "yes" => Some(true),
        "false" | "0" | "no" => Some(false),
        _ => None,
    }
}
