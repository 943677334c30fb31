//! A model for the research team of the examples: the same every time, and good enough to show the work.

use serde_json::json;

use super::{ModelRequest, Reply};

/// What the leader splits a question into.
const ASPECTS: [&str; 2] = ["background", "open questions"];

/// A leader splits its task and sums up what comes back; everybody else answers at once.
///
/// Whoever is told `Your role: leader` leads. It goes by what the agent says of the task: its title, and the results of
/// its subtasks.
pub fn reply(request: &ModelRequest) -> Reply {
    let texts = request.texts();
    let line = |start: &str| {
        let lines = texts.iter().flat_map(|text| text.lines());
        lines.filter_map(|line| line.strip_prefix(start)).next_back().map(str::to_owned)
    };
    let title = line("Task: ").unwrap_or_default();
    let leads = texts.iter().any(|text| text.contains("Your role: leader"));
    // Of the last part of the conversation that was the agent's word.
    let created = texts.iter().filter(|text| text.starts_with("created task ")).count();
    let findings: Vec<&str> =
        texts.iter().flat_map(|text| text.lines()).filter_map(|line| line.strip_prefix("Finding: ")).collect();
    // A leader may come to look into a part itself, and splits that no further.
    let is_part = ASPECTS.iter().any(|aspect| title.ends_with(aspect));
    if !leads || is_part {
        let result = format!("Finding: {title} was looked into.");
        return Reply::call("complete_task", json!({ "result": result }));
    }
    if !findings.is_empty() {
        let result = format!("Report on {title}\n{}", findings.join("\n"));
        return Reply::call("complete_task", json!({ "result": result }));
    }
    if created > 0 {
        return Reply::call("wait_for_subtasks", json!({}));
    }
    let calls: Vec<_> = ASPECTS
        .iter()
        .map(|aspect| {
            let title = format!("{title}: {aspect}");
            ("create_task", json!({ "title": title, "description": "Look into it.", "kind": "research" }))
        })
        .collect();
    Reply::calls(&calls)
}
