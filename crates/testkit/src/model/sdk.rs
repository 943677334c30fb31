//! A model that vendors' libraries are tried with: it always says the same, or calls the one tool that it is offered.

use serde_json::json;

use super::{ModelRequest, Reply};

/// Calls a tool if there is one, and says hello otherwise.
pub fn reply(request: &ModelRequest) -> Reply {
    match request.tools().first() {
        Some(name) => Reply::call(name, json!({ "place": "Paris" })),
        None => Reply::text("Hello, world."),
    }
}
