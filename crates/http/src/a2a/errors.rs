//! What is refused, in the words of the protocol.

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::refusal::reason;

/// Whose words the reasons are.
const DOMAIN: &str = "a2a-protocol.org";

/// The reasons of the protocol, and the codes that JSON-RPC has for them.
const CODES: [(&str, i32); 8] = [
    ("TASK_NOT_FOUND", -32001),
    ("TASK_NOT_CANCELABLE", -32002),
    ("PUSH_NOTIFICATION_NOT_SUPPORTED", -32003),
    ("UNSUPPORTED_OPERATION", -32004),
    ("CONTENT_TYPE_NOT_SUPPORTED", -32005),
    ("EXTENDED_AGENT_CARD_NOT_CONFIGURED", -32007),
    ("VERSION_NOT_SUPPORTED", -32009),
    ("INVALID_PARAMS", -32602),
];
/// Codes of JSON-RPC itself.
pub(super) const PARSE_ERROR: i32 = -32700;
pub(super) const INVALID_REQUEST: i32 = -32600;
pub(super) const METHOD_NOT_FOUND: i32 = -32601;
const INTERNAL_ERROR: i32 = -32603;

fn refused(code: Code, reason: &str, text: impl Into<String>) -> Status {
    Status::with_error_details(code, text, ErrorDetails::with_error_info(reason, DOMAIN, []))
}

pub(super) fn task_not_found(id: &str) -> Status {
    refused(Code::NotFound, "TASK_NOT_FOUND", format!("there is no task {id:?} that this agent works on"))
}

pub(super) fn not_cancelable(status: &str) -> Status {
    refused(Code::FailedPrecondition, "TASK_NOT_CANCELABLE", format!("the task is {status} already"))
}

pub(super) fn no_push() -> Status {
    let text = "nothing is pushed; stream the message, subscribe to the task, or ask for it by and by";
    refused(Code::FailedPrecondition, "PUSH_NOTIFICATION_NOT_SUPPORTED", text)
}

pub(super) fn unsupported(text: &str) -> Status {
    refused(Code::FailedPrecondition, "UNSUPPORTED_OPERATION", text)
}

pub(super) fn content_type(text: &str) -> Status {
    refused(Code::InvalidArgument, "CONTENT_TYPE_NOT_SUPPORTED", text)
}

pub(super) fn no_extended_card() -> Status {
    let text = "agents have one card, which says all there is to say";
    refused(Code::FailedPrecondition, "EXTENDED_AGENT_CARD_NOT_CONFIGURED", text)
}

pub(super) fn version(asked: &str) -> Status {
    let text = format!("version {asked:?} is not spoken here, but 1.0");
    refused(Code::FailedPrecondition, "VERSION_NOT_SUPPORTED", text)
}

/// A field is wrong; `problem` completes the sentence that begins with its name.
pub(super) fn invalid(field: &str, problem: &str) -> Status {
    in_words(crate::refusal::invalid(field, problem))
}

pub(super) fn nothing_there() -> Status {
    let text = "there is nothing at this path; an agent is at /a2a/OFFICE_ID/AGENT, its card below that at \
                /.well-known/agent-card.json";
    refused(Code::NotFound, "METHOD_NOT_FOUND", text)
}

/// A refusal of the platform, with the protocol's word for it where there is one.
pub(super) fn in_words(status: Status) -> Status {
    let mut details = status.get_error_details();
    match details.error_info() {
        Some(info) if info.domain == DOMAIN => status,
        // What is not found here is whom the request names: tasks have a word of their own.
        info if matches!(status.code(), Code::InvalidArgument | Code::NotFound) => {
            let own = info.map(|info| info.reason.clone()).unwrap_or_default();
            details.set_error_info("INVALID_PARAMS", DOMAIN, [("reason".to_owned(), own)]);
            Status::with_error_details(status.code(), status.message(), details)
        }
        _ => status,
    }
}

/// What JSON-RPC calls it.
pub(super) fn json_rpc_code(status: &Status) -> i32 {
    let reason = reason(status).unwrap_or_default();
    match CODES.iter().find(|(name, _)| *name == reason) {
        Some((_, code)) => *code,
        None => INTERNAL_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use mi_kernel::Error;

    use super::*;

    #[test]
    fn refusals_have_the_words_and_codes_of_the_protocol() {
        for (status, reason_of, code) in [
            (task_not_found("x"), "TASK_NOT_FOUND", -32001),
            (not_cancelable("done"), "TASK_NOT_CANCELABLE", -32002),
            (no_push(), "PUSH_NOTIFICATION_NOT_SUPPORTED", -32003),
            (unsupported("no"), "UNSUPPORTED_OPERATION", -32004),
            (content_type("no"), "CONTENT_TYPE_NOT_SUPPORTED", -32005),
            (no_extended_card(), "EXTENDED_AGENT_CARD_NOT_CONFIGURED", -32007),
            (version("0.3"), "VERSION_NOT_SUPPORTED", -32009),
            (invalid("message", "is missing"), "INVALID_PARAMS", -32602),
            (in_words(mi_rpc::status(Error::invalid("title", "is wrong"))), "INVALID_PARAMS", -32602),
            (in_words(mi_rpc::status(Error::not_found("agent", "bob"))), "INVALID_PARAMS", -32602),
            (in_words(mi_rpc::status(Error::denied("no"))), "PERMISSION_DENIED", -32603),
        ] {
            assert_eq!((reason(&status).as_deref(), json_rpc_code(&status)), (Some(reason_of), code), "{status}");
        }
        let details = in_words(mi_rpc::status(Error::invalid("title", "is wrong"))).get_error_details();
        let violations = &details.bad_request().expect("kept").field_violations;
        assert_eq!(violations[0].field, "title");
    }
}
