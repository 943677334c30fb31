//! `mi agents logs`, `activity` and `watch`.

use std::cell::Cell;

use clap::Args;
use mi_kernel::page::MAX_PAGE_SIZE;
use mi_proto::v1::{
    ActivityEvent, ListActivityRequest, ListLogsRequest, TailLogsRequest, WatchActivityRequest, WatchAgentsRequest,
};

use super::{AgentArg, get, target};
use crate::{answer::ask, context::Context, failure::Failure, follow::follow, options::ColonyArg};

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    #[command(flatten)]
    agent: AgentArg,
    /// Go on with new lines as they are written
    #[arg(short, long)]
    follow: bool,
    /// The last this many lines
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    limit: i32,
}

#[derive(Debug, Args)]
pub(crate) struct ActivityArgs {
    #[command(flatten)]
    agent: AgentArg,
    /// Only these categories: task, lifecycle, chat, file, credit, integration, security, model
    #[arg(long, value_name = "CATEGORY,...", value_delimiter = ',')]
    category: Vec<String>,
    /// The newest this many events
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    limit: i32,
    /// Oldest first, then go on with new events as they happen
    #[arg(short, long)]
    follow: bool,
}

pub(crate) async fn logs(args: LogsArgs, context: &Context) -> Result<(), Failure> {
    let (client, out) = (&context.client, context.out);
    let (office_id, agent) = target(&args.agent, context).await?;
    if !args.follow {
        let request = ListLogsRequest {
            office_id: office_id.clone(),
            agent: agent.clone(),
            limit: Some(args.limit),
            start_time: None,
            end_time: None,
        };
        let lines = ask!(context, logs.list_logs(request)).await?.lines;
        if lines.is_empty() {
            known(context, &office_id, &agent).await?;
        }
        // Lines are no table: nobody wants a head over them, and programs may cut them as they come.
        return if out.is_for_programs() { out.list(&lines) } else { lines.iter().try_for_each(|line| out.next(line)) };
    }
    known(context, &office_id, &agent).await?;
    let seen = Cell::new(None);
    let open = async || {
        let request = TailLogsRequest {
            office_id: office_id.clone(),
            agent: agent.clone(),
            after_sequence: seen.get(),
            limit: Some(args.limit),
        };
        client.logs().tail_logs(request).await
    };
    follow(out, open, |answer| {
        let Some(line) = answer.line else { return Ok(()) };
        seen.set(Some(line.sequence));
        out.next(&line)
    })
    .await
}

pub(crate) async fn activity(args: ActivityArgs, context: &Context) -> Result<(), Failure> {
    let (client, out) = (&context.client, context.out);
    let (office_id, agent) = target(&args.agent, context).await?;
    let categories = args.category;
    let mut events = newest(context, &office_id, &agent, &categories, args.limit).await?;
    if events.is_empty() {
        known(context, &office_id, &agent).await?;
    }
    if !args.follow {
        return if out.is_for_programs() {
            out.list(&events)
        } else {
            events.iter().try_for_each(|event| out.next(event))
        };
    }
    events.reverse();
    events.iter().try_for_each(|event| out.next(event))?;
    // From here on nothing is lost: with no event so far, the watch starts at the beginning of the feed.
    let seen = Cell::new(events.iter().map(|event| event.cursor).max().unwrap_or(0));
    let open = async || {
        let request = WatchActivityRequest {
            office_id: office_id.clone(),
            agent: agent.clone(),
            categories: categories.clone(),
            after_cursor: Some(seen.get()),
        };
        client.activity().watch_activity(request).await
    };
    follow(out, open, |answer| {
        let Some(event) = answer.event else { return Ok(()) };
        seen.set(event.cursor);
        out.next(&event)
    })
    .await
}

/// Tells a quiet agent from one that never was. One that was fired is known by its events.
async fn known(context: &Context, office_id: &str, agent: &str) -> Result<(), Failure> {
    match get(context, office_id, agent).await {
        Err(failure) if failure.is_not_found() => {
            let events = newest(context, office_id, agent, &[], 1).await?;
            if events.is_empty() { Err(failure) } else { Ok(()) }
        }
        looked => looked.map(drop),
    }
}

/// The newest events, newest first, over as many pages as it takes.
async fn newest(
    context: &Context,
    office_id: &str,
    agent: &str,
    categories: &[String],
    limit: i32,
) -> Result<Vec<ActivityEvent>, Failure> {
    let limit = usize::try_from(limit).unwrap_or_default();
    let mut events = Vec::new();
    let mut page_token = String::new();
    loop {
        let left = i32::try_from(limit - events.len()).unwrap_or(MAX_PAGE_SIZE);
        let request = ListActivityRequest {
            office_id: office_id.to_owned(),
            agent: agent.to_owned(),
            categories: categories.to_vec(),
            start_time: None,
            end_time: None,
            page_size: Some(left.min(MAX_PAGE_SIZE)),
            page_token,
        };
        let page = ask!(context, activity.list_activity(request)).await?;
        events.extend(page.events);
        events.truncate(limit);
        if page.next_page_token.is_empty() || events.len() == limit {
            return Ok(events);
        }
        page_token = page.next_page_token;
    }
}

pub(crate) async fn watch(arg: ColonyArg, context: &Context) -> Result<(), Failure> {
    let office_id = context.colony(&arg).await?;
    let open = async || {
        let office_id = office_id.clone();
        context.client.agents().watch_agents(WatchAgentsRequest { office_id }).await
    };
    // A resumed watch shows every agent again as it is now: what was missed meanwhile is in that.
    follow(context.out, open, |answer| context.out.next(&answer)).await
}
