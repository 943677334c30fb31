//! Addresses of REST.

use http::Method;
use mi_http::fuzzing;

/// A text as an HTTP method and a target: what leads to a method is as the path says, and its query is bound or refused.
pub fn route(data: &[u8]) -> bool {
    let Some((method, target)) = str::from_utf8(data).ok().and_then(|text| text.split_once(' ')) else {
        return false;
    };
    let Ok(method) = method.parse::<Method>() else {
        return false;
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let Some((rpc, variables)) = fuzzing::route(&method, path) else {
        return false;
    };
    // Nothing leads anywhere but by its own first words, as they are written.
    assert!(path.starts_with("/v1/") && !path.starts_with("/v1//"), "{path:?} leads to {rpc}");
    for (name, value) in &variables {
        // A path is at the end of its target, and is all that may be empty.
        assert!(name == "path" || !value.is_empty(), "{name} of {path:?}");
        if !path.contains('%') {
            assert!(path.contains(value.as_str()), "{name} of {path:?} is {value:?}");
            assert!(name == "path" || !value.contains('/'), "{name} of {path:?} is {value:?}");
        }
    }
    query.is_empty() || fuzzing::query(rpc, query)
}
