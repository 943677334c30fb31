//! Amounts of credits as people write them. Everything else counts micro-credits.

/// Micro-credits of one credit.
pub const CREDIT: i64 = 1_000_000;
/// Most micro-credits of one grant, budget or call: a thousand million credits.
pub const MOST: i64 = 1000 * CREDIT * CREDIT;

/// Reads credits: `2.5` is 2,500,000 micro-credits. Read as digits: a float would lose some.
///
/// # Errors
/// What an amount looks like.
pub fn read(text: &str) -> Result<i64, String> {
    let refusal = || {
        let most = MOST / CREDIT;
        format!("must be credits like 5 or 0.25, from 0 to {most}, with at most six places behind the point")
    };
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(part) || part.len() > 6 {
        return Err(refusal());
    }
    let whole = whole.parse::<i64>().ok().and_then(|whole| whole.checked_mul(CREDIT));
    let amount = whole.zip(format!("{part:0<6}").parse().ok()).and_then(|(whole, part)| whole.checked_add(part));
    amount.filter(|amount| *amount <= MOST).ok_or_else(refusal)
}

/// Micro-credits as credits, without zeros at the end.
pub fn shown(micro: i64) -> String {
    let (sign, amount) = (if micro < 0 { "-" } else { "" }, micro.unsigned_abs());
    let (whole, part) = (amount / CREDIT.unsigned_abs(), amount % CREDIT.unsigned_abs());
    let part = format!("{part:06}");
    match part.trim_end_matches('0') {
        "" => format!("{sign}{whole}"),
        part => format!("{sign}{whole}.{part}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credits_are_read_and_shown_to_the_last_micro_credit() {
        for (text, micro) in [
            ("0", 0),
            ("5", 5_000_000),
            ("0.25", 250_000),
            ("0.000001", 1),
            ("1.5", 1_500_000),
            ("999999999.999999", MOST - 1),
            ("1000000000", MOST),
        ] {
            assert_eq!((read(text), shown(micro)), (Ok(micro), text.to_owned()));
        }
        assert_eq!(shown(-2_500_000), "-2.5");
        for text in
            ["", "-1", "+1", "1.", ".5", "1.0000001", "1e3", "1,5", "1000000000.000001", "9223372036854775808", "٣"]
        {
            let refused = read(text).expect_err(text);
            assert!(refused.starts_with("must be credits like 5 or 0.25, from 0 to 1000000000"), "{refused}");
        }
    }
}
