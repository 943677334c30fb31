//! Kinds of caller, what they go for, and what the rule of an RPC makes of that.

use mi_proto::v1::Caller;

use super::{call::Outcome, cases::Row};

/// A caller. Agents are seen from the one that requests name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Who {
    Nobody,
    Guesser,
    RevokedKey,
    FiredAgent,
    Administrator,
    Owner,
    Self_,
    Ancestor,
    Descendant,
    Sibling,
    OtherOperator,
    Neighbour,
    OtherAgent,
}

/// What requests are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    /// The office of the owner and of the agents.
    Home,
    /// An office of another account.
    Abroad,
    /// An office that does not exist.
    Nowhere,
}

/// One caller going for one thing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    pub(super) title: &'static str,
    pub(super) who: Who,
    pub(super) at: At,
}

const fn column(title: &'static str, who: Who, at: At) -> Column {
    Column { title, who, at }
}

/// Callers who have, or had, something to do with the office. The administrator's account owns none.
pub(super) const OWN: &[Column] = &[
    column("nobody", Who::Nobody, At::Home),
    column("guesser", Who::Guesser, At::Home),
    column("revoked key", Who::RevokedKey, At::Home),
    column("fired agent", Who::FiredAgent, At::Home),
    column("administrator", Who::Administrator, At::Home),
    column("owner", Who::Owner, At::Home),
    column("self", Who::Self_, At::Home),
    column("ancestor", Who::Ancestor, At::Home),
    column("descendant", Who::Descendant, At::Home),
    column("sibling", Who::Sibling, At::Home),
];

/// Callers whose office it is not.
pub(super) const FOREIGN: &[Column] = &[
    column("other operator", Who::OtherOperator, At::Home),
    column("agent next door", Who::Neighbour, At::Home),
    column("other's agent", Who::OtherAgent, At::Home),
    column("owner abroad", Who::Owner, At::Abroad),
    column("agent abroad", Who::Self_, At::Abroad),
    column("administrator, no such", Who::Administrator, At::Nowhere),
    column("owner, no such", Who::Owner, At::Nowhere),
    column("agent, no such", Who::Self_, At::Nowhere),
];

impl Column {
    /// Whether there is anything to ask: what is about nothing of anybody is the same everywhere.
    pub(super) fn concerns(&self, row: &Row) -> bool {
        self.at == At::Home || row.subject().is_some()
    }

    /// Whether what the request is about is not the caller's, though it exists.
    pub(super) fn is_foreign(&self) -> bool {
        match self.at {
            At::Home => matches!(self.who, Who::OtherOperator | Who::Neighbour | Who::OtherAgent),
            At::Abroad => true,
            At::Nowhere => false,
        }
    }

    /// What the RPC's rule says of this caller.
    pub(super) fn expected(&self, row: &Row) -> Outcome {
        use Caller::{Administrator, Ancestor, Anyone, Authenticated, Member, Operator, Owner, Self_, Service};
        if row.lists(&[Service]) {
            return Outcome::NoSuchRpc;
        }
        match self.who {
            // A credential that is nobody's is refused even where none is needed.
            Who::Guesser | Who::RevokedKey | Who::FiredAgent => return Outcome::Unauthenticated,
            Who::Nobody if row.lists(&[Anyone]) => return Outcome::LetIn,
            Who::Nobody => return Outcome::Unauthenticated,
            _ if row.lists(&[Anyone, Authenticated]) => return Outcome::LetIn,
            _ => {}
        }
        let itself = !row.names_agent() && row.lists(&[Self_]);
        let is_listed = match self.who {
            Who::Administrator => row.lists(&[Administrator, Operator, Owner]),
            Who::Owner | Who::OtherOperator => row.lists(&[Operator, Owner]),
            Who::Self_ => row.lists(&[Member, Self_]),
            Who::Ancestor => itself || row.lists(&[Member, Ancestor]),
            _ => itself || row.lists(&[Member]),
        };
        let is_theirs = row.subject().is_none() || !(self.is_foreign() || self.at == At::Nowhere);
        // Of offices, strangers learn nothing; RPCs about accounts are closed to agents whatever they name.
        match is_listed || row.lists(&[Owner, Member, Self_, Ancestor]) {
            true if !is_theirs => Outcome::NotFound,
            _ if is_listed => Outcome::LetIn,
            _ => Outcome::Denied,
        }
    }
}
