//! Lists page by key: a token is the key of the last row of the page before, opaque to clients.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Error, Result};

/// Page size when the request names none.
pub const DEFAULT_PAGE_SIZE: i32 = 50;
/// Largest page.
pub const MAX_PAGE_SIZE: i32 = 200;
/// Where a page of rows that may be long ends: below the 4 MiB that gRPC clients take by default.
pub const MAX_PAGE_BYTES: usize = 3 << 20;
/// What a message takes in a list besides itself, at most.
const OVERHEAD: usize = 8;

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

    /// The token of a page that begins after this key, for a list that ends a page where it has read enough.
    pub fn token(after: &K) -> String {
        encode(after)
    }

    /// Rows to ask the database for: one more than the page, to know whether there is another.
    pub fn fetch(&self) -> i64 {
        i64::from(self.size) + 1
    }

    /// Cuts the rows to the page and makes the token of the next one, empty when there is none.
    pub fn finish<T>(&self, rows: Vec<T>, key: impl Fn(&T) -> K) -> (Vec<T>, String) {
        self.finish_within(rows, usize::MAX, |_| 0, key)
    }

    /// The same for rows that may be long: the page ends before the row with which it would have more than so many bytes,
    /// but has one row at least.
    pub fn finish_within<T>(
        &self,
        mut rows: Vec<T>,
        bytes: usize,
        length: impl Fn(&T) -> usize,
        key: impl Fn(&T) -> K,
    ) -> (Vec<T>, String) {
        let size = usize::try_from(self.size).unwrap_or_default().min(fitting(&rows, bytes, length));
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
        Some(_) => Err(Error::invalid(field, format!("must be at least 1; more than {most} counts as {most}"))),
    }
}

/// Refuses a place to go on from that is ahead of all there is. Whoever has it saw what is gone, since the database was restored
/// or made anew, and would wait for as long as that takes to come back, and then miss what came first.
///
/// # Errors
/// `FailedPrecondition` `CURSOR_EXPIRED`.
pub fn not_ahead(after: i64, newest: i64) -> Result<()> {
    match after > newest {
        false => Ok(()),
        true => {
            let text = format!("the newest cursor is {newest}: what came after it is gone; begin anew, with cursor 0");
            Err(Error::precondition("CURSOR_EXPIRED", text))
        }
    }
}

/// How many of the rows, from the first on, have so many bytes together at most; the first one counts whatever it has.
pub fn fitting<T>(rows: &[T], bytes: usize, length: impl Fn(&T) -> usize) -> usize {
    let mut left = bytes;
    let fits = |row: &&T| match left.checked_sub(length(row).saturating_add(OVERHEAD)) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    };
    rows.iter().take_while(fits).count().max(rows.len().min(1))
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
    fn a_page_of_long_rows_ends_early() {
        let page = Page::<usize>::parse(Some(3), "").expect("first page");
        let pages = |rows: &[usize]| {
            let (rows, token) = page.finish_within(rows.to_vec(), 100, |row| *row, |row| *row);
            (rows, Page::parse(Some(3), &token).expect("own token").after)
        };
        assert_eq!(pages(&[42, 42, 1]), (vec![42, 42], Some(42)));
        assert_eq!(pages(&[42, 43]), (vec![42], Some(42)));
        assert_eq!(pages(&[usize::MAX, 1]), (vec![usize::MAX], Some(usize::MAX)));
        assert_eq!(pages(&[usize::MAX]), (vec![usize::MAX], None));
        assert_eq!(pages(&[1, 2, 3, 4]), (vec![1, 2, 3], Some(3)));
        assert_eq!(pages(&[1, 2, 3]), (vec![1, 2, 3], None));
        assert_eq!(pages(&[]), (vec![], None));
    }

    #[test]
    fn sizes_are_bounded_and_tokens_are_checked() {
        assert_eq!(Page::<i32>::parse(None, "").expect("default").size, 50);
        assert_eq!(Page::<i32>::parse(Some(100_000), "").expect("cut").size, 200);
        for bad in [0, -1, i32::MIN] {
            let refused = Page::<i32>::parse(Some(bad), "").expect_err("below one");
            assert_eq!(refused.message, "page_size must be at least 1; more than 200 counts as 200");
        }
        for bad in ["x", "????", "bm90anNvbg", &"A".repeat(5000)] {
            assert_eq!(Page::<i32>::parse(None, bad).expect_err(bad).field, Some("page_token"));
        }
    }
}
