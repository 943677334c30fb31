//! Pages by `limit` and `offset`, out of lists that go on by tokens.

use mi_kernel::Error;
use mi_rpc::status;
use serde_json::{Value, json};
use tonic::Status;

use super::{ask::Ask, shape};

/// Entries without a `limit`.
const DEFAULT: usize = 50;
/// Most entries of one answer, and of one call.
const CAP: usize = 200;
/// Farthest that a list is walked: a page costs all pages before it.
const MAX_OFFSET: usize = 10_000;
/// Most calls that one request becomes on the way there; pages of large entries end early.
const MAX_CALLS: usize = 100;
/// Most calls after that, to tell how long the list is.
const MAX_COUNTING: usize = 4;

/// Most bytes of the entries of one answer: whoever does not read it has them held for as long.
const MAX_BYTES: usize = 4 << 20;

/// Which part of a list is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) offset: usize,
    pub(super) limit: usize,
}

impl Window {
    pub(super) fn of(ask: &Ask) -> Result<Self, Status> {
        let limit = match ask.number("limit")? {
            Some(0) => return Err(status(Error::invalid("limit", "must be at least 1"))),
            given => given.unwrap_or(DEFAULT).min(CAP),
        };
        let offset = ask.number("offset")?.unwrap_or(0);
        if offset > MAX_OFFSET {
            let text = format!("is at most {MAX_OFFSET}; ask for a narrower list");
            return Err(status(Error::invalid("offset", text)));
        }
        Ok(Self { offset, limit })
    }

    /// That part of a list that is here in whole.
    pub(super) fn cut(self, entries: Vec<Value>) -> Page {
        let total = Some(entries.len());
        Page { entries: entries.into_iter().skip(self.offset).take(self.limit).collect(), total }
    }
}

/// A part of a list, and how long the list is if that was found out.
pub(super) struct Page {
    pub(super) entries: Vec<Value>,
    pub(super) total: Option<usize>,
}

/// Walks a list as far as a window reaches, over the entries that are wanted, and some calls further to count. `field` has
/// the entries of an answer.
pub(super) async fn walk(
    ask: &Ask,
    rpc: &str,
    mut request: Value,
    field: &str,
    window: Window,
    is_wanted: impl Fn(&Value) -> bool,
) -> Result<Page, Status> {
    let end = window.offset + window.limit;
    let (mut entries, mut seen, mut counting, mut bytes) = (Vec::new(), 0, 0, 0);
    request["page_size"] = json!(CAP);
    for _ in 0..MAX_CALLS {
        let mut answer = ask.call(rpc, request.clone()).await?;
        for entry in answer[field].as_array_mut().into_iter().flat_map(std::mem::take) {
            if is_wanted(&entry) {
                if (window.offset..end).contains(&seen) {
                    bytes += entry.to_string().len();
                    entries.push(entry);
                }
                seen += 1;
                if bytes > MAX_BYTES && entries.len() > 1 {
                    let text = format!("of {} is more than one answer takes; ask for fewer entries", window.limit);
                    return Err(status(Error::invalid("limit", text)));
                }
            }
        }
        let next = shape::text(&answer["next_page_token"]);
        if next.is_empty() {
            return Ok(Page { entries, total: Some(seen) });
        }
        if seen >= end {
            counting += 1;
            if counting > MAX_COUNTING {
                return Ok(Page { entries, total: None });
            }
        }
        request["page_token"] = json!(next);
    }
    let text = "reaches further than a list is walked; ask for a narrower list";
    Err(status(Error::invalid("offset", text)))
}

/// Whatever it is.
pub(super) fn any(_: &Value) -> bool {
    true
}
