//! Quantities of resources, such as `500m` and `2Gi`.

/// In thousand-millionths.
const UNIT: i128 = 1_000_000_000;
const BINARY: &[(&str, i128)] =
    &[("Ei", 1 << 60), ("Pi", 1 << 50), ("Ti", 1 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10), ("", 1)];
/// In thousand-millionths, largest first.
const DECIMAL: &[(&str, i128)] = &[
    ("E", UNIT * 1_000_000_000_000_000_000),
    ("P", UNIT * 1_000_000_000_000_000),
    ("T", UNIT * 1_000_000_000_000),
    ("G", UNIT * 1_000_000_000),
    ("M", UNIT * 1_000_000),
    ("k", UNIT * 1000),
    ("", UNIT),
    ("m", UNIT / 1000),
    ("u", UNIT / 1_000_000),
    ("n", 1),
];

/// An amount of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Quantity {
    /// In thousand-millionths.
    amount: i128,
    /// Whether it is written in powers of 1024.
    binary: bool,
}

impl Quantity {
    /// None of it.
    pub(crate) const ZERO: Self = Self { amount: 0, binary: false };

    /// So many of them.
    pub(crate) fn count(count: usize) -> Self {
        Self { amount: i128::try_from(count).unwrap_or(i128::MAX / UNIT) * UNIT, binary: false }
    }

    /// Reads one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let end = text.find(|char: char| !matches!(char, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        if let Some(exponent) = suffix.strip_prefix(['e', 'E']).filter(|rest| !rest.is_empty()) {
            let factor = 10_i128.checked_pow(exponent.parse().ok()?)?;
            return Some(Self { amount: scaled(number, UNIT.checked_mul(factor)?)?, binary: false });
        }
        if let Some((_, unit)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
            return Some(Self { amount: scaled(number, *unit)?, binary: false });
        }
        let (_, unit) = BINARY.iter().find(|(name, _)| *name == suffix)?;
        Some(Self { amount: scaled(number, unit.checked_mul(UNIT)?)?, binary: true })
    }

    /// Both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { amount: self.amount.saturating_add(other.amount), binary: self.binary || other.binary }
    }

    /// As the server writes it: with the largest unit that leaves a whole number.
    pub(crate) fn canonical(self) -> String {
        if self.amount == 0 {
            return "0".to_owned();
        }
        if self.binary && self.amount % UNIT == 0 {
            let amount = self.amount / UNIT;
            let found = BINARY.iter().find(|(_, unit)| amount % unit == 0);
            return found.map_or_else(|| amount.to_string(), |(name, unit)| format!("{}{name}", amount / unit));
        }
        let found = DECIMAL.iter().find(|(_, unit)| self.amount % unit == 0);
        found.map_or_else(|| format!("{}n", self.amount), |(name, unit)| format!("{}{name}", self.amount / unit))
    }
}

/// A decimal number times a unit, rounded up.
fn scaled(number: &str, unit: i128) -> Option<i128> {
    let (sign, digits) = match number.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && part.is_empty() {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut amount = whole.checked_mul(unit)?;
    if !part.is_empty() {
        let scale = 10_i128.checked_pow(u32::try_from(part.len()).ok()?)?;
        let numerator = part.parse::<i128>().ok()?.checked_mul(unit)?;
        amount = amount.checked_add(numerator / scale + i128::from(numerator % scale != 0))?;
    }
    Some(sign * amount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_is_written_in_one_way() {
        for (given, canonical) in [
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1000", "1k"),
            ("1024", "1024"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("512", "512"),
            ("1e3", "1k"),
            ("0", "0"),
            ("100M", "100M"),
        ] {
            assert_eq!(Quantity::parse(given).map(Quantity::canonical).as_deref(), Some(canonical), "{given}");
        }
        for bad in ["", "x", "1x", "Gi", "1.2.3"] {
            assert_eq!(Quantity::parse(bad), None, "{bad}");
        }
        assert!(Quantity::parse("1Gi") > Quantity::parse("1G"));
    }
}
