//! Which public keys an agent may have, and how a key is named.

use crate::{Error, Result, receipt::sha256_hex};

/// Length of an Ed25519 public key, in bytes.
const LENGTH: usize = 32;

/// The points whose order divides the cofactor 8, by their y-coordinate alone: little-endian, canonical, without the sign
/// of x. Each but ±1 is that of two points. Signatures that fit such a key can be made by anybody.
const SMALL_ORDER: [[u8; LENGTH]; 5] = [
    // 0, of order 4.
    [0; LENGTH],
    // 1, the neutral element.
    {
        let mut one = [0; LENGTH];
        one[0] = 1;
        one
    },
    // -1, of order 2.
    [
        0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
    ],
    // The two of order 8.
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
        0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
        0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
];

/// Refuses what is no public key that only its holder can sign for: not 32 bytes, a point of small order in any encoding,
/// and every other encoding that is not the canonical one, in which a key could be shown for a second one.
///
/// # Errors
/// `Invalid`, naming the field.
pub fn check(field: &'static str, key: &[u8]) -> Result<()> {
    let Ok(mut y) = <[u8; LENGTH]>::try_from(key) else {
        return Err(Error::invalid(field, "must be the 32 raw bytes of an Ed25519 public key"));
    };
    // The highest bit is the sign of x.
    y[LENGTH - 1] &= 0x7f;
    // The prime is 2^255 - 19: what has all these bits is not below it from 0xed on.
    let is_canonical = y[0] < 0xed || y[1..LENGTH - 1].iter().any(|&byte| byte != 0xff) || y[LENGTH - 1] != 0x7f;
    if !is_canonical || SMALL_ORDER.contains(&y) {
        let problem = "is a weak Ed25519 key, which signatures of anybody may fit (a point of small order, or not in its \
                       canonical encoding); generate a key pair and send its public key";
        return Err(Error::invalid(field, problem));
    }
    Ok(())
}

/// Names a public key in the header of a token: `k` and the first 16 hex digits of its SHA-256.
pub fn key_id(public_key: &[u8]) -> String {
    format!("k{}", &sha256_hex(public_key)[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes that hexadecimal digits write.
    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal")).collect()
    }

    #[test]
    fn weak_keys_are_refused_in_every_encoding() {
        let high = |first: &str, last: &str| format!("{first}{}{last}", "ff".repeat(30));
        let low = |first: &str, last: &str| format!("{first}{}{last}", "00".repeat(30));
        let mut weak = vec![low("00", "00"), low("00", "80"), low("01", "00"), low("01", "80")];
        for first in ["ec", "ed", "ee", "ef", "ff"] {
            weak.extend([high(first, "7f"), high(first, "ff")]);
        }
        for start in [
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03",
        ] {
            let ends = if start.starts_with("26") { ["05", "85"] } else { ["7a", "fa"] };
            weak.extend(ends.map(|end| format!("{start}{end}")));
        }
        for key in weak {
            let refused = check("public_key", &bytes(&key)).expect_err(&key);
            assert_eq!(refused.field, Some("public_key"));
            assert!(refused.message.contains("small order"), "{key}: {refused}");
        }
    }

    #[test]
    fn keys_of_another_length_are_refused_and_others_are_taken() {
        for length in [0, 31, 33, 64] {
            let refused = check("public_key", &vec![1; length]).expect_err("not 32 bytes");
            assert_eq!(refused.message, "public_key must be the 32 raw bytes of an Ed25519 public key");
        }
        // The first two of RFC 8032, and the neighbours of what is refused.
        for key in [
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a".to_owned(),
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c".to_owned(),
            format!("02{}", "00".repeat(31)),
            format!("eb{}7f", "ff".repeat(30)),
            format!("ed{}7e", "ff".repeat(30)),
        ] {
            check("public_key", &bytes(&key)).expect("a key");
        }
    }

    #[test]
    fn a_key_is_named_by_its_digest() {
        // SHA-256 of 32 zero bytes.
        assert_eq!(key_id(&[0; 32]), "k66687aadf862bd77");
    }
}
