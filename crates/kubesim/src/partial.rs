//! Objects as a client wants them: whole, or their metadata alone.

use bytes::Bytes;
use serde_json::{Value, json};

/// How much of an object is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// All of it.
    Whole,
    /// `PartialObjectMetadata`.
    Metadata,
}

impl Shape {
    /// What the header `accept` asks for.
    pub(crate) fn accepted(accept: &str) -> Self {
        if accept.contains("as=PartialObjectMetadata") { Self::Metadata } else { Self::Whole }
    }

    /// An object, or a list of objects.
    pub(crate) fn show(self, value: Value) -> Value {
        match self {
            Self::Whole => value,
            Self::Metadata if value["kind"] == "Status" => value,
            Self::Metadata => match value["items"].as_array() {
                None => json!({
                    "kind": "PartialObjectMetadata",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": value["metadata"],
                }),
                Some(items) => json!({
                    "kind": "PartialObjectMetadataList",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": value["metadata"],
                    "items": items.iter().map(|item| self.show(item.clone())).collect::<Vec<_>>(),
                }),
            },
        }
    }

    /// A line of a watch.
    pub(crate) fn line(self, event: &str, object: &Value) -> Bytes {
        let line = match self {
            Self::Whole => format!("{{\"type\":\"{event}\",\"object\":{object}}}\n"),
            Self::Metadata => format!("{}\n", json!({"type": event, "object": self.show(object.clone())})),
        };
        Bytes::from(line)
    }
}
