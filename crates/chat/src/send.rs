//! Sending: one transaction for the message, its event, and the tasks of whom it wakes.

use mi_kernel::{
    AgentId, Error, OfficeId, Result,
    event::{Category, Event},
    text::{self, OPERATOR},
};
use mi_proto::{internal::v1::Member, v1::SendMessageRequest};
use mi_rpc::Caller;
use mi_store::{OfficeConn, OfficeTx, Topic, idempotency, outbox};
use mi_tasks::{Cause, LOOP_DEPTH, wake::Wake};
use mi_tenancy::{Author, offices::repo::office_get};
use serde_json::json;

use super::{Chat, TOPIC, mentions, model::Message, repo, rules};

/// Whom a message reaches.
struct Addressed {
    /// Whom it is to; none: the group.
    to: Option<Author>,
    /// The agents that have to answer it.
    woken: Vec<Woken>,
}

/// An agent that has a message to answer.
struct Woken {
    id: AgentId,
    name: String,
}

impl Woken {
    fn new(member: Member) -> Result<Self> {
        Ok(Self { id: AgentId::parse(&member.agent_id)?, name: member.name })
    }
}

impl Chat {
    /// Sends a message.
    pub(super) async fn send(&self, caller: &Caller, request: &SendMessageRequest, content: &[u8]) -> Result<Message> {
        let (access, office) = self.offices.get(caller, &request.office_id).await?;
        let (office_id, from) = (office.id, Author::of(&access));
        rules::body(&request.body)?;
        let scope = format!("{}/SendMessage", access.key());
        let replay = idempotency::Request::new(scope, &request.request_id, content)?;
        // Asked before the transaction, which waits for no other role, and judged in it: what was sent before is answered
        // whatever has become of whom it was to.
        let addressed = self.addressed(office_id, &from, request).await;

        let mut tx = self.db.office(office_id).begin().await?;
        if let Some(replay) = &replay
            && let Some(known) = replay.replayed(&mut tx).await?
        {
            let message = repo::message_get(&mut tx, known.into()).await?;
            return message.ok_or_else(|| Error::not_found("message", known));
        }
        let office = office_get(&mut tx).await?.ok_or_else(|| Error::not_found("office", office_id))?;
        rules::open(&office)?;
        let Addressed { to, woken } = addressed?;
        let cause = self.cause(&mut tx, &from, !woken.is_empty()).await?;
        // The tasks of those who are woken are one further.
        let deepest = cause.depth + i32::from(!woken.is_empty());
        if deepest > LOOP_DEPTH {
            return Err(self.loop_detected(tx, access.trace_id(), &from, &cause, deepest).await?);
        }

        let next = repo::chat_advance(&mut tx).await?;
        let (seq, id) = next.ok_or_else(|| Error::not_found("office", office_id))?;
        // Once nobody else is in between, so that times follow the order, too.
        let now = self.clock.now();
        let Cause { text: cause, depth } = cause;
        let message = Message { seq, id, from, to, body: request.body.clone(), time: now, cause, depth };
        repo::message_insert(&mut tx, &message).await?;
        outbox::push(&mut tx, &sent(office_id, &message).traced(access.trace_id())).await?;
        let wakes = !woken.is_empty();
        for Woken { id: agent_id, name: agent } in woken {
            let call = Wake {
                agent,
                agent_id,
                from: message.from.clone(),
                direct: message.to.is_some(),
                cause: Cause { text: format!("message/{id}"), depth: depth + 1 },
                body: message.body.clone(),
                trace_id: access.trace_id().to_owned(),
            };
            self.tasks.wake_agent(&mut tx, &call).await?;
        }
        if let Some(replay) = &replay {
            replay.remember(&mut tx, id.0, now).await?;
        }
        tx.commit().await?;
        self.db.notify(Topic::of(office_id, TOPIC));
        if wakes {
            self.tasks.woken(office_id);
        }
        self.outbox.notify_one();
        Ok(message)
    }

    /// Whom the request reaches, as far as they are in the office. An agent is not woken by what it writes itself.
    async fn addressed(&self, office_id: OfficeId, from: &Author, request: &SendMessageRequest) -> Result<Addressed> {
        if from.agent_id.is_some() {
            self.may_write(office_id, &from.name).await?;
        }
        if !request.to_agent.is_empty() {
            let name = text::lookup_name("to_agent", &request.to_agent)?;
            if name == from.name {
                let problem = match from.agent_id {
                    None => "is the caller itself; operators write to agents or to the group",
                    Some(_) => "is the caller itself; keep notes in the workspace",
                };
                return Err(Error::invalid("to_agent", problem));
            }
            if name == OPERATOR {
                return Ok(Addressed { to: Some(Author::operator()), woken: Vec::new() });
            }
            let agent = Woken::new(self.members.find(office_id, &name).await?)?;
            let to = Author::agent(agent.id, agent.name.clone());
            return Ok(Addressed { to: Some(to), woken: vec![agent] });
        }
        let mut names = mentions::called(&request.body);
        names.remove(&from.name);
        names.remove(OPERATOR);
        let called = match names.is_empty() {
            true => Vec::new(),
            false => self.members.among(office_id, &names).await?,
        };
        let woken = called.into_iter().map(Woken::new).collect::<Result<Vec<Woken>>>()?;
        if woken.len() > mentions::MAX_MENTIONS {
            let problem = format!("calls {} agents by @name; it may call {}", woken.len(), mentions::MAX_MENTIONS);
            return Err(Error::invalid("body", problem));
        }
        Ok(Addressed { to: None, woken })
    }

    /// Refuses an agent that is stopped or paused: it may run elsewhere and go on in circles.
    async fn may_write(&self, office_id: OfficeId, name: &str) -> Result<()> {
        if self.members.find(office_id, name).await?.working {
            return Ok(());
        }
        // It may have been started again since.
        self.members.forget(office_id);
        if self.members.find(office_id, name).await?.working {
            return Ok(());
        }
        let text = format!("agent {name:?} is stopped or paused; its status says why, and an operator can start it");
        Err(Error::precondition("AGENT_NOT_WORKING", text))
    }

    /// Tells of an agent that goes in circles and has it paused; the answer to it.
    async fn loop_detected(
        &self,
        mut tx: OfficeTx,
        trace_id: &str,
        from: &Author,
        cause: &Cause,
        depth: i32,
    ) -> Result<Error> {
        let (office_id, agent) = (tx.office_id(), from.name.as_str());
        let text = format!("{depth} causes lead from here back to an operator, and {LOOP_DEPTH} may");
        let summary = format!("Loop detected: agent {agent:?} wrote a message, and {text}");
        let event = Event::lifecycle(office_id, agent, "loop.detected", summary, self.clock.now())
            .category(Category::Security)
            .with(json!({ "cause": cause.text, "depth": depth }))
            .traced(trace_id);
        outbox::push(&mut tx, &event).await?;
        tx.commit().await?;
        self.outbox.notify_one();
        self.tasks.pause(office_id, agent.to_owned(), text.clone());
        Ok(Error::precondition(
            "LOOP_DETECTED",
            format!("{text}; agent {agent:?} is paused until an operator starts it"),
        ))
    }

    /// What the message is sent for. Whoever takes the locks of both queue and chat takes that of the queue first.
    async fn cause(&self, tx: &mut OfficeConn, from: &Author, wakes: bool) -> Result<Cause> {
        if let Some(agent) = from.agent_id {
            return self.tasks.cause_of(tx, agent).await;
        }
        if wakes {
            self.tasks.lock(tx).await?;
        }
        Ok(Cause::default())
    }
}

/// What the feed tells of a message: not what it says.
fn sent(office_id: OfficeId, message: &Message) -> Event {
    let described = |author: &Author| match author.agent_id {
        None => "an operator".to_owned(),
        Some(_) => format!("{:?}", author.name),
    };
    let (from, to) = (&message.from, message.to.as_ref());
    let whom = to.map_or_else(|| "the group".to_owned(), described);
    let summary = match from.agent_id {
        None => format!("An operator wrote to {whom}"),
        Some(_) => format!("Agent {:?} wrote to {whom}", from.name),
    };
    let kind = "message.sent";
    Event::lifecycle(office_id, from.agent_name(), kind, summary, message.time).category(Category::Chat).with(json!({
        "id": message.id, "to_agent": to.map_or("", |to| &to.name), "length": message.body.len(),
    }))
}
