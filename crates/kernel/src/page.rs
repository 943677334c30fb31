//! Lists page by key: a token is the key of the last row of the page before, opaque to clients.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Error, Result};

/// Page size when the request names none.
pub const DEFAULT_PAGE_SIZE: i32 = 50;
/// Largest page.
pub const MAX_PAGE_SIZE: i32 = 200;

/// One page to read: the rows after a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<K> {
    /// At most this many rows.
    pub size: i32,
    /// Key of the last row already seen; none: from the start.
    pub after: Option<K>,
}

impl<K: Serialize + DeserializeOwned> Page<K> {
    /// Reads `page_size` and `page_token` of a request. Sizes above the cap are cut to it.
    ///
    /// # Errors
    /// `Invalid` for a size below 1, or a token that this list did not give out.
    pub fn parse(size: Option<i32>, token: &str) -> Result<Self> {
        Ok(Self {
            size: bounded("page_size", size, DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)?,
            after: if token.is_empty() { None } else { Some(decode(token)?) },
        })
    }

    /// Rows to ask the database for: one more than the page, to know whether there is another.
    pub fn fetch(&self) -> i64 {
        i64::from(self.size) + 1
    }

    /// Cuts the rows to the page and makes the token of the next one, empty when there is none.
    pub fn finish<T>(&self, mut rows: Vec<T>, key: impl Fn(&T) -> K) -> (Vec<T>, String) {
        let size = usize::try_from(self.size).unwrap_or_default();
        if rows.len() <= size {
            return (rows, String::new());
        }
        rows.truncate(size);
        let token = rows.last().map(|row| encode(&key(row))).unwrap_or_default();
        (rows, token)
    }
}

/// A count from a request: `default` when unset, cut to `most`.
///
/// # Errors
/// `Invalid`, naming the field, when below 1.
pub fn bounded(field: &'static str, value: Option<i32>, default: i32, most: i32) -> Result<i32> {
    match value {
        None => Ok(default),
        Some(n) if n >= 1 => Ok(n.min(most)),
        Some(_) => Err(Error::invalid(field, format!("must be between 1 and {most}"))),
    }
}

fn encode<K: Serialize>(key: &K) -> String {
    // Keys are ids, names and times: their JSON cannot fail.
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(key).unwrap_or_default())
}

/// Longest token: the longest key is a path on the drive.
const MAX_TOKEN: usize = 4096;

fn decode<K: DeserializeOwned>(token: &str) -> Result<K> {
    let unknown = || Error::invalid("page_token", "is not one this list gave out; start again without it");
    if token.len() > MAX_TOKEN {
        return Err(unknown());
    }
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| unknown())?;
    serde_json::from_slice(&bytes).map_err(|_| unknown())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_hand_over_by_key() {
        let page = Page::<i32>::parse(Some(2), "").expect("first page");
        let (rows, token) = page.finish(vec![1, 2, 3], |row| *row);
        assert_eq!(rows, [1, 2]);
        let next = Page::<i32>::parse(Some(2), &token).expect("own token");
        assert_eq!(next.after, Some(2));
        assert_eq!(next.finish(vec![3], |row| *row), (vec![3], String::new()));
    }

    #[test]
    fn sizes_are_bounded_and_tokens_are_checked() {
        assert_eq!(Page::<i32>::parse(None, "").expect("default").size, 50);
        assert_eq!(Page::<i32>::parse(Some(100_000), "").expect("cut").size, 200);
        assert_eq!(Page::<i32>::parse(Some(0), "").expect_err("zero").field, Some("page_size"));
        for bad in ["x", "????", "bm90anNvbg", &"A".repeat(5000)] {
            assert_eq!(Page::<i32>::parse(None, bad).expect_err(bad).field, Some("page_token"));
        }
    }
}
