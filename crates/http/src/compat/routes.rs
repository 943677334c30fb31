//! The table: which request is whose. `P` is an office, `E` one of its agents; `{}` is one part of a path, `{..}` the rest.

use std::{future::Future, pin::Pin, sync::LazyLock};

use http::{HeaderValue, Method, StatusCode, header};
use mi_kernel::Error;
use mi_rpc::{HttpResponse, status};

use super::{
    Reply, agents, answer, ask::Ask, backups, changes, chat, credits, files, integrations, invites, offices,
    task_notes, tasks,
};

/// Answers a request.
pub(super) type Handler = fn(Ask) -> Pin<Box<dyn Future<Output = Reply> + Send>>;

/// A route that a request takes.
pub(super) struct Found {
    pub(super) handler: Handler,
    /// What the path says where the pattern leaves it open.
    pub(super) parts: Vec<String>,
}

const OFFICE: &str = "/api/v1/offices/{}";

struct Route {
    method: Method,
    pattern: Vec<&'static str>,
    handler: Handler,
}

macro_rules! routes {
    ($($method:ident $pattern:literal => $handler:path;)*) => {
        vec![$(Route { method: Method::$method, pattern: pattern($pattern), handler: |ask| Box::pin($handler(ask)) }),*]
    };
}

/// The first one that fits counts, so what is said in full stands before what is left open.
static ROUTES: LazyLock<Vec<Route>> = LazyLock::new(|| {
    routes! {
        GET "/healthz" => offices::health;
        GET "/api/v1/offices" => offices::list;
        POST "/api/v1/offices" => offices::create;
        GET "P" => offices::get;
        DELETE "P" => offices::delete;
        GET "P/status" => offices::status;
        GET "P/settings" => offices::settings;
        PATCH "P/settings" => offices::update_settings;
        POST "P/suspend" => offices::suspend;
        POST "P/resume" => offices::resume;

        GET "P/employees" => agents::list;
        POST "P/employees" => agents::hire;
        GET "E" => agents::get;
        PATCH "E" => agents::update;
        DELETE "E" => agents::fire;
        GET "E/logs" => agents::logs;
        GET "E/activity" => agents::activity;
        POST "E/promote" => agents::promote;
        POST "E/skills" => agents::set_skills;
        POST "E/lifecycle" => agents::lifecycle;
        GET "E/presence" => agents::presence;
        GET "E/last-error" => agents::last_error;
        POST "E/credentials/rotate" => agents::rotate;
        GET "E/integrations" => integrations::of_agent;

        GET "P/tasks" => tasks::list;
        POST "P/tasks" => tasks::create;
        GET "P/tasks/stats" => tasks::stats;
        POST "P/tasks/claim" => tasks::claim;
        GET "P/tasks/{}" => tasks::get;
        PATCH "P/tasks/{}" => tasks::update;
        GET "P/tasks/{}/subtasks" => tasks::subtasks;
        POST "P/tasks/{}/verify" => tasks::verify;
        POST "P/tasks/{}/retry" => tasks::retry;
        POST "P/tasks/{}/log" => task_notes::log;
        POST "P/tasks/{}/comments" => task_notes::comment;
        GET "P/tasks/{}/artifacts" => task_notes::artifacts;
        POST "P/tasks/{}/artifacts" => task_notes::add_artifact;

        GET "P/files" => files::list;
        POST "P/files" => files::upload;
        GET "P/files/_changes" => changes::since;
        GET "P/files/{..}" => files::download;
        DELETE "P/files/{..}" => files::delete;

        GET "/api/offices/{}/integrations" => integrations::list;
        GET "P/integrations" => integrations::list;
        POST "P/integrations/{}/secret" => integrations::set_secret;
        DELETE "P/integrations/{}/secret" => integrations::delete_secrets;
        POST "P/integrations/{}/agents/{}" => integrations::toggle;
        GET "P/provider-models" => integrations::models;

        GET "P/credits" => credits::balance;
        POST "P/credits" => credits::grant;
        GET "P/credits/history" => credits::history;
        GET "P/usage/summary" => credits::usage;
        GET "P/usage/llm/summary" => credits::model_usage;

        GET "P/backups" => backups::list;
        GET "P/backups/{}" => backups::get;
        DELETE "P/backups/{}" => backups::delete;

        GET "P/xmtp/groups" => chat::groups;
        GET "P/xmtp/groups/{}/messages" => chat::group_messages;
        POST "P/xmtp/groups/{}/send" => chat::send_to_group;
        POST "P/xmtp/send" => chat::send;
        GET "P/xmtp/stream" => chat::stream;

        POST "P/invites" => invites::create;
        POST "/api/agents/join" => invites::join;
        POST "/api/agents/heartbeat" => invites::heartbeat;
    }
});

/// What that product has and this one does not: everything below these paths.
const ABSENT: [&str; 35] = [
    "/api/marketplace",
    "/api/v1/marketplace",
    "/api/snapshots",
    "/api/v1/snapshots",
    "/api/wallets",
    "/api/agents/clone",
    "/api/whatsapp",
    "P/marketplace",
    "P/extensions",
    "P/whatsapp",
    "P/browser",
    "P/chromium",
    "P/wallet",
    "P/wallets",
    "P/terminal",
    "P/snapshots",
    "P/kubeconfig",
    "P/transfer",
    "P/delegates",
    "P/env",
    "P/quota",
    "P/workspace",
    "P/xmtp/conversations",
    "P/xmtp/messages",
    "E/archive",
    "E/restore",
    "E/debug",
    "E/chat",
    "E/exec",
    "E/browser",
    "E/chromium",
    "E/wallet",
    "E/terminal",
    "E/whatsapp",
    "E/snapshots",
];

/// The parts of a pattern.
fn pattern(text: &'static str) -> Vec<&'static str> {
    let (prefix, rest) = match text.split_at_checked(1) {
        Some(("P", rest)) => (OFFICE, rest),
        Some(("E", rest)) => ("/api/v1/offices/{}/employees/{}", rest),
        _ => ("", text),
    };
    prefix.split('/').chain(rest.split('/')).filter(|part| !part.is_empty()).collect()
}

/// What a path says where the pattern leaves it open; none: it is another path.
fn fits(pattern: &[&str], path: &[String]) -> Option<Vec<String>> {
    let mut open = Vec::new();
    for (place, part) in pattern.iter().enumerate() {
        match (*part, path.get(place)?) {
            ("{..}", _) => {
                let rest = path[place..].join("/");
                open.push(rest);
                return Some(open);
            }
            ("{}", given) if !given.is_empty() => open.push(given.clone()),
            (part, given) if part == given => {}
            _ => return None,
        }
    }
    (pattern.len() == path.len()).then_some(open)
}

/// The parts of a path, decoded; none: they are no text.
fn parts(path: &str) -> Option<Vec<String>> {
    let decoded = |part: &str| Some(percent_encoding::percent_decode_str(part).decode_utf8().ok()?.into_owned());
    path.strip_prefix('/')?.split('/').map(decoded).collect()
}

/// Who answers a request.
///
/// # Errors
/// The answer when nobody does.
pub(super) fn find(method: &Method, path: &str) -> Result<Found, HttpResponse> {
    let Some(parts) = parts(path) else {
        return Err(answer::refused(&status(Error::invalid("path", "is not UTF-8"))));
    };
    let mut allowed = Vec::new();
    for route in ROUTES.iter() {
        if let Some(open) = fits(&route.pattern, &parts) {
            if route.method == *method {
                return Ok(Found { handler: route.handler, parts: open });
            }
            allowed.push(route.method.as_str());
        }
    }
    if let [first, ..] = &*allowed {
        let text = format!("{path} takes {}, not {method}", allowed.join(" and "));
        let mut response = answer::plain(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", &text);
        let allow = HeaderValue::try_from(allowed.join(", ")).unwrap_or(HeaderValue::from_static(first));
        response.headers_mut().insert(header::ALLOW, allow);
        return Err(response);
    }
    if ABSENT.iter().any(|prefix| is_below(&pattern(prefix), &parts)) {
        let text = format!("this platform has nothing that answers {path}");
        return Err(answer::plain(StatusCode::NOT_IMPLEMENTED, "NOT_IMPLEMENTED", &text));
    }
    Err(answer::plain(StatusCode::NOT_FOUND, "ROUTE_NOT_FOUND", &format!("there is no route {path}")))
}

fn is_below(prefix: &[&str], path: &[String]) -> bool {
    prefix.len() <= path.len() && fits(prefix, &path[..prefix.len()]).is_some()
}

#[cfg(test)]
pub(super) fn all() -> impl Iterator<Item = (&'static Method, String)> {
    ROUTES.iter().map(|route| (&route.method, format!("/{}", route.pattern.join("/"))))
}
