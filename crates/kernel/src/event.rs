//! What services report to the activity feed.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use strum::{EnumString, IntoStaticStr, VariantArray};

use crate::{EventId, OfficeId, Time};

/// Category of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, EnumString, IntoStaticStr, VariantArray)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Category {
    /// Tasks.
    Task,
    /// Offices and agents come, change and go.
    Lifecycle,
    /// Messages.
    Chat,
    /// The drive.
    File,
    /// Money.
    Credit,
    /// Providers and their secrets.
    Integration,
    /// Who may do what, and who tried.
    Security,
    /// Model calls.
    Model,
}

impl Category {
    /// All of them, in the order of the specification.
    pub const ALL: &[Self] = Self::VARIANTS;

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Something that happened, as written to the outbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Decides whether two deliveries are the same event.
    pub id: EventId,
    /// Where it happened.
    pub office_id: OfficeId,
    /// Name of the agent it concerns; empty: the office itself.
    pub agent: String,
    /// Category.
    pub category: Category,
    /// noun.past-verb.
    #[serde(rename = "type")]
    pub kind: String,
    /// A sentence for people.
    pub summary: String,
    /// When it happened.
    pub time: Time,
    /// A JSON object.
    pub metadata: Value,
    /// Trace of the call that caused it; empty: none did.
    pub trace_id: String,
}

impl Event {
    /// An event of category lifecycle, the most common one, with no metadata.
    pub fn lifecycle(office_id: OfficeId, agent: &str, kind: &str, summary: impl Into<String>, time: Time) -> Self {
        Self {
            id: EventId::new(),
            office_id,
            agent: agent.to_owned(),
            category: Category::Lifecycle,
            kind: kind.to_owned(),
            summary: summary.into(),
            time,
            metadata: Value::Object(serde_json::Map::new()),
            trace_id: String::new(),
        }
    }

    /// The same event with metadata, which must be a JSON object.
    pub fn with(mut self, metadata: Value) -> Self {
        self.metadata = metadata;
        self
    }

    /// The same event with another category.
    pub fn category(mut self, category: Category) -> Self {
        self.category = category;
        self
    }

    /// The same event with the trace of the call that caused it.
    pub fn traced(mut self, trace_id: &str) -> Self {
        self.trace_id = trace_id.to_owned();
        self
    }
}
