//! Page sizes and page tokens of lists.

use std::fmt::Debug;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use mi_kernel::{
    AgentId,
    page::{MAX_PAGE_SIZE, Page},
};
use serde::{Serialize, de::DeserializeOwned};

/// A page size in four bytes, then a page token: as it came, and as what it would be for the JSON of a key.
pub fn page_token(data: &[u8]) -> bool {
    let Some((size, text)) = data.split_first_chunk() else {
        return false;
    };
    let Ok(text) = str::from_utf8(text) else {
        return false;
    };
    let size = i32::from_le_bytes(*size);
    // No `any`: all of them are to be tried.
    [text.to_owned(), URL_SAFE_NO_PAD.encode(text)].iter().fold(false, |accepted, token| {
        accepted | page::<i64>(size, token) | page::<String>(size, token) | page::<(String, AgentId)>(size, token)
    })
}

/// A page of a list with such keys.
fn page<K: Serialize + DeserializeOwned + Clone + PartialEq + Debug>(size: i32, token: &str) -> bool {
    let page = match Page::<K>::parse(Some(size), token) {
        Ok(page) => page,
        Err(error) => {
            assert_eq!(error.field, Some(if size < 1 { "page_size" } else { "page_token" }));
            return false;
        }
    };
    assert_eq!(page.size, size.min(MAX_PAGE_SIZE));
    assert_eq!(page.after.is_none(), token.is_empty());
    if let Some(key) = page.after {
        // The list gives the key out again: whoever reads on from there gets the same page.
        let first = Page::<K> { size: 1, after: None };
        let (_, again) = first.finish(vec![(), ()], |()| key.clone());
        assert_eq!(Page::parse(Some(1), &again).expect("own token").after, Some(key));
    }
    true
}
