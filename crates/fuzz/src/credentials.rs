//! What callers show: an agent's token at the edge, the principal token between roles.

use std::{sync::LazyLock, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use mi_gateway::fuzzing;
use mi_kernel::{Actor, Time};
use mi_rpc::PrincipalKey;
use serde_json::Value;

/// The Unix second at which all tokens are read, so that a finding is one for ever.
const NOW: u64 = 1_800_000_000;

static NOW_TIME: LazyLock<Time> = LazyLock::new(|| Time::UNIX_EPOCH + Duration::from_secs(NOW));
static KEY: LazyLock<PrincipalKey> = LazyLock::new(PrincipalKey::random);

/// An agent's token: as it came, or one made of the JSON of a header and a line later that of claims.
pub fn token(data: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(data) else {
        return false;
    };
    match text.split_once('\n') {
        Some((header, claims)) => {
            let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
            whole_token(&format!("{}.{}.AAAA", part(header), part(claims)))
        }
        None => whole_token(text),
    }
}

fn whole_token(text: &str) -> bool {
    let claimed = fuzzing::claimed_agent(text);
    let Ok((agent, key_id, expires)) = fuzzing::token(text, *NOW_TIME) else {
        return false;
    };
    assert_eq!(claimed, Some(agent));
    let parts: Vec<&str> = text.split('.').collect();
    assert_eq!(parts.len(), 3, "{text}");
    let (header, claims) = (json(parts[0]), json(parts[1]));

    assert_eq!(header["alg"], "EdDSA");
    assert_eq!(header["kid"], key_id);
    let hex = key_id.strip_prefix('k').expect("kid starts with k");
    assert!(hex.len() == 16 && hex.bytes().all(|byte| b"0123456789abcdef".contains(&byte)), "{key_id}");

    assert_eq!(claims["iss"].as_str().map(str::to_lowercase), Some(agent.to_string()));
    let for_us = |audience: &Value| audience == "mi";
    assert!(for_us(&claims["aud"]) || claims["aud"].as_array().is_some_and(|all| all.iter().any(for_us)), "{claims}");
    let seconds = |claim: &str| claims[claim].as_f64().expect("a number");
    let (now, from, to) = (NOW as f64, seconds("iat"), seconds("exp"));
    assert!(to - from <= 300.0 && from <= now + 30.0 && to >= now - 30.0, "{claims}");
    assert_eq!(expires, to + 30.0);
    true
}

fn json(part: &str) -> Value {
    let text = URL_SAFE_NO_PAD.decode(part).expect("an accepted part is base64url");
    serde_json::from_slice(&text).expect("an accepted part is JSON")
}

/// The principal token, forged in several ways with a text: nothing passes but what the key signed, as it gave it out.
pub fn principal(data: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(data) else {
        return false;
    };
    let own = KEY.sign(&Actor::Service { role: "fuzz".into() }, *NOW_TIME);
    let (body, tag) = own.split_once('.').expect("two parts");
    let forgeries = [
        text.to_owned(),
        format!("{body}.{text}"),
        format!("{text}.{tag}"),
        format!("{own}{text}"),
        format!("{text}{own}"),
    ];
    let mut accepted = false;
    for token in forgeries {
        let verified = KEY.verify(&token, *NOW_TIME);
        assert_eq!(verified.is_ok(), token == own, "{token}");
        accepted |= verified.is_ok();
    }
    accepted
}
