//! `mi chat`.

use std::cell::RefCell;

use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};
use mi_kernel::page::MAX_PAGE_SIZE;
use mi_proto::v1::{ChatMessage, ListMessagesRequest, SendMessageRequest, WatchMessagesRequest};
use uuid::Uuid;

use crate::{
    answer::ask,
    context::Context,
    failure::Failure,
    follow::follow,
    input::standard_input,
    known::{Known, by},
    options::ColonyArg,
    output::Output,
    text::{escape, escape_lines, precise_time},
};

#[derive(Debug, Subcommand)]
pub(crate) enum ChatCommand {
    /// Send a message to the group or to one agent; whoever is named as @NAME in the group gets a task to answer
    Send(SendArgs),
    /// Show a conversation, oldest first
    History(HistoryArgs),
    /// Show a conversation and go on with new messages as they come
    Follow(FollowArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    #[command(flatten)]
    colony: ColonyArg,
    /// The agent to write to [default: the group]
    #[arg(long, value_name = "AGENT", value_parser = NonEmptyStringValueParser::new(), add = by(&[Known::Agents]))]
    to: Option<String>,
    /// The same one again answers the same message and sends nothing [default: a fresh one]
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// What to say; - reads it from standard input
    #[arg(value_name = "TEXT|-")]
    body: String,
}

#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    #[command(flatten)]
    colony: ColonyArg,
    /// All direct messages from and to this agent, or `operator` [default: the group]
    #[arg(long, value_name = "AGENT", value_parser = NonEmptyStringValueParser::new(), add = by(&[Known::Agents]))]
    with: Option<String>,
    /// The newest this many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    limit: i32,
}

#[derive(Debug, Args)]
pub(crate) struct FollowArgs {
    #[command(flatten)]
    colony: ColonyArg,
    /// All direct messages from and to this agent, or `operator` [default: the group]
    #[arg(long, value_name = "AGENT", value_parser = NonEmptyStringValueParser::new(), add = by(&[Known::Agents]))]
    with: Option<String>,
    /// Every conversation of the colony, from its first message on
    #[arg(long, conflicts_with_all = ["with", "limit"])]
    all: bool,
    /// Begin with the newest this many
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(i32).range(0..=10_000))]
    limit: i32,
}

/// What is shown of what the platform streams.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Shown {
    All,
    Group,
    With(String),
}

impl Shown {
    fn new(with: Option<&str>) -> Self {
        with.map_or(Self::Group, |name| Self::With(name.to_ascii_lowercase()))
    }

    fn takes(&self, message: &ChatMessage) -> bool {
        match self {
            Self::All => true,
            Self::Group => message.to_agent.is_empty(),
            Self::With(name) => !message.to_agent.is_empty() && (message.to_agent == *name || message.from == *name),
        }
    }
}

pub(crate) async fn run(command: ChatCommand, context: &Context) -> Result<(), Failure> {
    match command {
        ChatCommand::Send(args) => send(args, context).await,
        ChatCommand::History(args) => history(args, context).await,
        ChatCommand::Follow(args) => follow_chat(args, context).await,
    }
}

async fn send(args: SendArgs, context: &Context) -> Result<(), Failure> {
    let body = if args.body == "-" { standard_input()? } else { args.body };
    let request = SendMessageRequest {
        office_id: context.colony(&args.colony).await?,
        to_agent: args.to.unwrap_or_default(),
        body,
        request_id: args.request_id.unwrap_or_else(|| Uuid::new_v4().to_string()),
    };
    context.out.one(&ask!(context, chat.send_message(request).message).await?)
}

async fn history(args: HistoryArgs, context: &Context) -> Result<(), Failure> {
    let office_id = context.colony(&args.colony).await?;
    let messages = newest(context, &office_id, args.with.as_deref(), args.limit).await?;
    match context.out.is_for_programs() || messages.is_empty() {
        true => context.out.list(&messages),
        false => messages.iter().try_for_each(|message| show(context.out, message)),
    }
}

async fn follow_chat(args: FollowArgs, context: &Context) -> Result<(), Failure> {
    let (client, out) = (&context.client, context.out);
    let office_id = context.colony(&args.colony).await?;
    let (shown, past) = match args.all {
        true => (Shown::All, Vec::new()),
        // Where to go on is asked for also when nothing of what was before is to be shown.
        false => {
            let with = args.with.as_deref();
            (Shown::new(with), newest(context, &office_id, with, args.limit.max(1)).await?)
        }
    };
    if args.limit > 0 {
        past.iter().try_for_each(|message| show(out, message))?;
    }
    // From here on nothing is lost: with no message so far, the watch starts at the beginning.
    let seen = RefCell::new(past.last().map_or_else(String::new, |message| message.id.clone()));
    let open = async || {
        let request = WatchMessagesRequest { office_id: office_id.clone(), after_id: Some(seen.borrow().clone()) };
        client.chat().watch_messages(request).await
    };
    follow(out, open, |answer| {
        let Some(message) = answer.message else { return Ok(()) };
        seen.borrow_mut().clone_from(&message.id);
        if shown.takes(&message) { show(out, &message) } else { Ok(()) }
    })
    .await
}

/// A message for people, who read texts of several lines as such, or a line for programs.
fn show(out: Output, message: &ChatMessage) -> Result<(), Failure> {
    if out.is_for_people() { out.print(&spoken(message)) } else { out.next(message) }
}

fn spoken(message: &ChatMessage) -> String {
    let to = if message.to_agent.is_empty() { String::new() } else { format!(" -> {}", escape(&message.to_agent)) };
    let time = precise_time(message.time.as_ref());
    // What follows a line break is indented: it cannot be taken for another message.
    let body = escape_lines(message.body.trim_end()).replace('\n', "\n    ");
    format!("{time}  {}{to}: {body}", escape(&message.from))
}

/// The newest messages of a conversation, oldest first, over as many pages as it takes.
async fn newest(
    context: &Context,
    office_id: &str,
    with: Option<&str>,
    limit: i32,
) -> Result<Vec<ChatMessage>, Failure> {
    let limit = usize::try_from(limit).unwrap_or_default();
    let (mut messages, mut before_id) = (Vec::new(), String::new());
    loop {
        let left = i32::try_from(limit - messages.len()).unwrap_or(MAX_PAGE_SIZE).min(MAX_PAGE_SIZE);
        let request = ListMessagesRequest {
            office_id: office_id.to_owned(),
            with_agent: with.unwrap_or_default().to_owned(),
            limit: Some(left),
            before_id,
        };
        let page = ask!(context, chat.list_messages(request)).await?;
        // A page may end early, for its size: there are no more when it is empty.
        let is_empty = page.messages.is_empty();
        messages.extend(page.messages);
        if is_empty || messages.len() == limit {
            messages.reverse();
            return Ok(messages);
        }
        before_id = messages.last().map(|message| message.id.clone()).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;

    fn message(from: &str, to: &str, body: &str) -> ChatMessage {
        let time = Some(Timestamp { seconds: 1_767_225_600, nanos: 0 });
        ChatMessage { from: from.into(), to_agent: to.into(), body: body.into(), time, ..ChatMessage::default() }
    }

    #[test]
    fn nothing_that_is_said_moves_the_cursor_or_looks_like_another_message() {
        let time = "2026-01-01T00:00:00.000Z";
        let said = spoken(&message("analyst", "", "two\nlines\r\n\u{1b}[2J\u{202e}x\r\n\n"));
        assert_eq!(said, format!("{time}  analyst: two\n    lines\n    \\u{{1b}}[2J\\u{{202e}}x"));
        assert_eq!(spoken(&message("operator", "analyst", "hi\n")), format!("{time}  operator -> analyst: hi"));
    }

    #[test]
    fn a_conversation_is_what_history_shows_of_it() {
        let group = message("a", "", "x");
        let [to, from, other] =
            [("operator", "a"), ("a", "b"), ("b", "operator")].map(|(from, to)| message(from, to, "x"));
        let all = [&group, &to, &from, &other];
        let taken = |shown: Shown| all.map(|message| shown.takes(message));
        assert_eq!(taken(Shown::All), [true; 4]);
        assert_eq!(taken(Shown::new(None)), [true, false, false, false]);
        assert_eq!(taken(Shown::new(Some("A"))), [false, true, true, false]);
        assert_eq!(taken(Shown::new(Some("operator"))), [false, true, false, true]);
    }
}
