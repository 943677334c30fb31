//! What changed on the drive since a time. The drive counts its changes; the time of a change grows with its number, so the
//! first one after a time is found by halves.

use mi_kernel::Error;
use mi_rpc::status;
use serde_json::{Value, json};
use tonic::Status;

use super::{
    Reply, answer,
    ask::Ask,
    shape::{entries, int, micros, millis, text, word},
};

const RPC: &str = "DriveService/ListChanges";
/// Changes of one call.
const PAGE: usize = 200;
/// Calls for changes of one answer; what is left comes with the next.
const MOST_PAGES: usize = 5;

/// The changes after `since`, in milliseconds. `serverTime` is where to go on from: the time of the last change that there
/// is or that is answered, to the microsecond, so that none is missed between two answers and none comes twice.
pub(super) async fn since(ask: Ask) -> Reply {
    let since = match ask.query("since") {
        None => 0,
        Some(text) => micros_of(text).map_err(status)?,
    };
    let first = after(&ask, 0, 1).await?;
    let kept_after = int(&first["kept_after"]);
    // What is after the time begins after this cursor.
    let start = match first_change(&first) {
        Some(change) if change.time <= since => found(&ask, since, change.cursor).await?,
        Some(change) if kept_after > 0 && change.cursor > 0 => {
            let last = found(&ask, i64::MAX, change.cursor).await?;
            let newest = first_change(&after(&ask, last - 1, 1).await?);
            let time = newest.map_or(since, |change| change.time);
            // Older ones are forgotten: the client reads the list.
            return Ok(answer::found(&json!({"events": [], "serverTime": millis(time), "full_refresh": true})));
        }
        _ => kept_after,
    };
    let (mut events, mut time, mut cursor) = (Vec::new(), since, start);
    for _ in 0..MOST_PAGES {
        let page = after(&ask, cursor, PAGE).await?;
        let changes = entries(&page["changes"]);
        for change in changes {
            time = micros(&change["time"]).unwrap_or(time).max(time);
            events.push(event(change));
        }
        cursor = int(&page["next_cursor"]);
        if changes.len() < PAGE {
            break;
        }
    }
    Ok(answer::found(&json!({"events": events, "serverTime": millis(time)})))
}

/// A number of milliseconds, which may have three places, in microseconds.
fn micros_of(text: &str) -> Result<i64, Error> {
    let given = text.parse::<f64>().ok().filter(|millis| (0.0..1e15).contains(millis));
    let millis = given.ok_or_else(|| Error::invalid("since", "must be milliseconds since 1970"))?;
    Ok((millis * 1000.0).round() as i64)
}

#[derive(Debug, Clone, Copy)]
struct At {
    cursor: i64,
    time: i64,
}

async fn after(ask: &Ask, cursor: i64, most: usize) -> Result<Value, Status> {
    ask.call(RPC, json!({"office_id": ask.office(), "cursor": cursor, "page_size": most})).await
}

fn first_change(page: &Value) -> Option<At> {
    let change = entries(&page["changes"]).first()?;
    Some(At { cursor: int(&change["cursor"]), time: micros(&change["time"]).unwrap_or_default() })
}

/// The cursor of the last change that is not after a time; `from` is the cursor of one that is not. Twice as many calls as
/// the number of changes has binary digits.
async fn found(ask: &Ask, since: i64, from: i64) -> Result<i64, Status> {
    let (mut low, mut step) = (from, 1);
    let mut high = loop {
        match first_change(&after(ask, low + step, 1).await?) {
            Some(change) if change.time <= since => (low, step) = (change.cursor, step * 2),
            // Nothing after it, or something later.
            _ => break low + step,
        }
    };
    // The last one is in [low, high].
    while low < high {
        let middle = low + (high - low) / 2;
        match first_change(&after(ask, middle, 1).await?) {
            Some(change) if change.time <= since && change.cursor <= high => low = change.cursor,
            _ => high = middle,
        }
    }
    Ok(low)
}

fn event(change: &Value) -> Value {
    let kind = match &*word(&change["type"], "CHANGE_TYPE_") {
        "updated" => "modified".to_owned(),
        kind => kind.to_owned(),
    };
    let time = micros(&change["time"]).unwrap_or_default();
    json!({"type": kind, "name": text(&change["path"]), "timestamp": time / 1000})
}
