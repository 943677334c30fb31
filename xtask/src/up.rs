//! `cargo xtask up`: a release build that serves, with a working colony to look at.

use std::process::ExitCode;

use serde_json::Value;

use crate::{
    Result,
    example::office_file,
    platform::{self, Client, Platform},
    process,
};

const ONCE: &str = "--once";
const COLONY: &str = "My Colony";
const AGENT: &str = "analyst";
/// The example whose work is shown: it takes seconds.
const EXAMPLE: &str = "pipeline";

pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    let mi = platform::build(true)?;
    let passed: Vec<String> = args.iter().filter(|arg| *arg != ONCE).cloned().collect();
    let (mut platform, client) = Platform::start(&mi, &passed)?;
    show(&client)?;
    if args.iter().any(|arg| arg == ONCE) {
        return platform.stop().map(process::exit_code);
    }
    println!("mi is serving at {}; Ctrl-C stops it", client.endpoint);
    platform.wait().map(process::exit_code)
}

/// Makes sure of a colony with an agent and of one that works, and shows what there is to see of them.
fn show(client: &Client) -> Result {
    let colonies = client.json(&["colonies", "list", "-o", "json"])?;
    let id = match named(&colonies, COLONY) {
        Some(colony) => text(colony, "id")?,
        None => text(&client.json(&["colonies", "create", "--name", COLONY, "-o", "json"])?, "id")?,
    };
    let agents = client.json(&["agents", "list", "--colony", &id, "-o", "json"])?;
    if named(&agents, AGENT).is_none() {
        client.run(&["agents", "hire", "--colony", &id, "--name", AGENT, "--model", "sonnet", "--wait"])?;
    }
    client.run(&["agents", "list", "--colony", &id])?;
    client.run(&["agents", "logs", &id, AGENT])?;
    client.run(&["agents", "activity", &id, AGENT, "--limit", "5"])?;
    client.run(&["apply", "-f", &office_file(EXAMPLE), "--wait"])?;
    client.run(&["status"])
}

/// The resource with this name.
fn named<'a>(list: &'a Value, name: &str) -> Option<&'a Value> {
    list.as_array()?.iter().find(|resource| resource["name"] == name)
}

fn text(resource: &Value, field: &str) -> Result<String> {
    resource[field].as_str().map(str::to_owned).ok_or_else(|| format!("`mi` shows no {field}: {resource}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn resources_are_found_by_name() {
        let list = json!([{"id": "1", "name": "Other"}, {"id": "2", "name": COLONY}]);
        assert_eq!(text(named(&list, COLONY).expect("listed"), "id").expect("id"), "2");
        assert!(named(&json!([]), COLONY).is_none());
    }
}
