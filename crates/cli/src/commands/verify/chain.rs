//! The feed as a chain of hashes, computed anew here; and that what the neighbour tried is on record in it.

use mi_client::list_all;
use mi_kernel::chain::{self, End, Ends, Link};
use mi_proto::v1::{ActivityEvent, ActivityHead, GetActivityHeadRequest, IsolationState, ListActivityRequest};
use mi_rpc::convert::event_from_wire;

use super::Report;
use crate::{answer::resource, context::Context, failure::Failure};

const MAX_PAGE_SIZE: i32 = 200;
/// A refusal is in the feed a moment after it happened.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

pub(super) async fn verify(report: &mut Report, office_id: &str, context: &Context) -> Result<(), Failure> {
    recorded(report, office_id, context).await?;
    let (state, detail) = loop {
        let head = head(office_id, context).await?;
        let events = events(office_id, "", context).await?;
        // Retention took something in between: read again.
        if self::head(office_id, context).await?.anchor_cursor != head.anchor_cursor {
            continue;
        }
        break judge(&head, events);
    };
    report.add("audit", "the feed's chain of hashes", state, detail);
    Ok(())
}

fn judge(head: &ActivityHead, events: Vec<ActivityEvent>) -> (IsolationState, String) {
    let end = |cursor, hash: &[u8]| hash.try_into().ok().map(|hash| End { cursor, hash });
    let ends = end(head.anchor_cursor, &head.anchor_hash).zip(end(head.cursor, &head.hash));
    let Some((anchor, newest)) = ends else {
        return (IsolationState::Hole, "the ends of the chain are no hashes".into());
    };
    let links: Result<Vec<Link>, _> = events
        .into_iter()
        // What came after the head was asked for.
        .filter(|event| event.cursor <= head.cursor)
        .map(|event| {
            let (cursor, prev_hash, hash) = (event.cursor, event.prev_hash.to_vec(), event.hash.to_vec());
            event_from_wire(event).map(|event| Link { event, cursor, prev_hash, hash })
        })
        .collect();
    let mut links = match links {
        Ok(links) => links,
        Err(error) => return (IsolationState::Hole, error.message),
    };
    links.sort_by_key(|link| link.cursor);
    match chain::verify(&Ends { anchor, head: newest }, &links) {
        Ok(()) => (
            IsolationState::Holds,
            format!("{} events, whole from {} to {}", links.len(), anchor.cursor, newest.cursor),
        ),
        Err(broken) => (IsolationState::Hole, broken.to_string()),
    }
}

/// What the neighbour was refused must be told in the office that it was aimed at.
async fn recorded(report: &mut Report, office_id: &str, context: &Context) -> Result<(), Failure> {
    let waited = tokio::time::timeout(PATIENCE, async {
        loop {
            let security = events(office_id, "security", context).await?;
            if security.iter().any(|event| event.r#type == "access.refused") {
                return Ok::<_, Failure>(());
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    });
    let (state, detail) = match waited.await {
        Ok(found) => found.map(|()| (IsolationState::Holds, "access.refused is in the feed"))?,
        Err(_) => (IsolationState::Hole, "no event tells of the refused calls"),
    };
    report.add("audit", "refused calls are on record", state, detail);
    Ok(())
}

async fn head(office_id: &str, context: &Context) -> Result<ActivityHead, Failure> {
    let request = GetActivityHeadRequest { office_id: office_id.to_owned() };
    resource(context.client.activity().get_activity_head(request).await?, |answer| answer.head)
}

async fn events(office_id: &str, category: &str, context: &Context) -> Result<Vec<ActivityEvent>, Failure> {
    let categories: Vec<String> = [category].into_iter().filter(|name| !name.is_empty()).map(str::to_owned).collect();
    let all = list_all(async |page_token| {
        let request = ListActivityRequest {
            office_id: office_id.to_owned(),
            categories: categories.clone(),
            page_size: Some(MAX_PAGE_SIZE),
            page_token,
            ..ListActivityRequest::default()
        };
        let page = context.client.activity().list_activity(request).await?.into_inner();
        Ok((page.events, page.next_page_token))
    });
    Ok(all.await?)
}
