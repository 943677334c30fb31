//! `mi.v1.ActivityService`.

use futures::TryStreamExt;
use mi_base::Tasks;
use mi_kernel::{Error, Result, chain::Ends, event::Category, page::Page, text};
use mi_proto::v1::{
    ActivityHead, GetActivityHeadRequest, GetActivityHeadResponse, ListActivityRequest, ListActivityResponse,
    WatchActivityRequest, WatchActivityResponse, activity_service_server::ActivityService,
};
use mi_rpc::{Caller, Reply, convert, handle, outgoing, status};
use tonic::{Request, codegen::BoxStream};

use super::{BUFFER, time_span};
use crate::{
    feed::{Feed, Filter},
    offices::Offices,
};

/// The feed as its readers see it.
pub(super) struct Activity {
    pub(super) offices: Offices,
    pub(super) feed: Feed,
    pub(super) tasks: Tasks,
}

#[tonic::async_trait]
impl ActivityService for Activity {
    async fn list_activity(&self, request: Request<ListActivityRequest>) -> Reply<ListActivityResponse> {
        handle!(request, |caller, body| self.list(&caller, body).await?)
    }

    type WatchActivityStream = BoxStream<WatchActivityResponse>;

    async fn watch_activity(&self, request: Request<WatchActivityRequest>) -> Reply<Self::WatchActivityStream> {
        handle!(request, |caller, body| self.watch(&caller, body).await?)
    }

    async fn get_activity_head(&self, request: Request<GetActivityHeadRequest>) -> Reply<GetActivityHeadResponse> {
        handle!(request, |caller, body| self.head(&caller, body).await?)
    }
}

impl Activity {
    async fn head(&self, caller: &Caller, request: GetActivityHeadRequest) -> Result<GetActivityHeadResponse> {
        let office_id = self.offices.enter(caller, &request.office_id).await?.office_id();
        let Ends { anchor, head } = self.feed.ends(office_id).await?;
        let head = ActivityHead {
            cursor: head.cursor,
            hash: head.hash.to_vec().into(),
            anchor_cursor: anchor.cursor,
            anchor_hash: anchor.hash.to_vec().into(),
        };
        Ok(GetActivityHeadResponse { head: Some(head) })
    }

    async fn list(&self, caller: &Caller, request: ListActivityRequest) -> Result<ListActivityResponse> {
        let office_id = self.offices.enter(caller, &request.office_id).await?.office_id();
        let filter = filter(&request.agent, &request.categories)?;
        let span = time_span(request.start_time.as_ref(), request.end_time.as_ref())?;
        let page = Page::parse(request.page_size, &request.page_token)?;
        let (events, next_page_token) = self.feed.list(office_id, &filter, span, &page).await?;
        Ok(ListActivityResponse { events, next_page_token })
    }

    async fn watch(&self, caller: &Caller, request: WatchActivityRequest) -> Result<BoxStream<WatchActivityResponse>> {
        let office_id = self.offices.enter(caller, &request.office_id).await?.office_id();
        let filter = filter(&request.agent, &request.categories)?;
        if request.after_cursor.is_some_and(|cursor| cursor < 0) {
            return Err(Error::invalid("after_cursor", "must be a cursor of an event, or 0 for the whole feed"));
        }
        let events = self.feed.watch(office_id, filter, request.after_cursor).await?;
        let messages = events.map_ok(|event| WatchActivityResponse { event: Some(event) });
        Ok(outgoing(&self.tasks, BUFFER, messages.map_err(status)))
    }
}

fn filter(agent: &str, categories: &[String]) -> Result<Filter> {
    let agent = if agent.is_empty() { String::new() } else { text::lookup_name("agent", agent)? };
    let mut wanted: Vec<Category> = Vec::new();
    for name in categories.iter().flat_map(|entry| entry.split(',')).map(str::trim) {
        let category = convert::category("categories", name)?;
        if !wanted.contains(&category) {
            wanted.push(category);
        }
    }
    Ok(Filter { agent, categories: wanted })
}
