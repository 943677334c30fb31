//! Rules of names, labels and annotations.

use serde_json::{Value, json};

use crate::{
    json::{entries, list, text},
    kinds::{Kind, Names},
    refusal::Cause,
};

const LABEL_RULE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
    start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
    '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_1035_RULE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
    alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
    validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_RULE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
    with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE_RULE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
    and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for \
    validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
/// Bytes of all annotations of an object.
const MOST_ANNOTATION_BYTES: usize = 256 * 1024;
const MOST_LABEL: usize = 63;
const MOST_SUBDOMAIN: usize = 253;

/// Why this is no label as of RFC 1123.
pub(crate) fn label(name: &str) -> Option<String> {
    shaped(name, MOST_LABEL, is_label, LABEL_RULE)
}

/// Why this is no name of that rule.
pub(crate) fn name(rule: Names, name: &str) -> Option<String> {
    match rule {
        Names::Label => label(name),
        Names::Label1035 => {
            let starts = |name: &str| is_label(name) && name.starts_with(|first: char| first.is_ascii_lowercase());
            shaped(name, MOST_LABEL, starts, LABEL_1035_RULE)
        }
        Names::Subdomain => shaped(name, MOST_SUBDOMAIN, |name| name.split('.').all(is_label), SUBDOMAIN_RULE),
        Names::Segment if matches!(name, "." | "..") => Some(format!("may not be '{name}'")),
        Names::Segment => {
            name.chars().find(|char| matches!(char, '/' | '%')).map(|char| format!("may not contain '{char}'"))
        }
    }
}

fn shaped(name: &str, most: usize, is_right: impl Fn(&str) -> bool, rule: &str) -> Option<String> {
    if name.len() > most {
        Some(format!("must be no more than {most} bytes"))
    } else if is_right(name) {
        None
    } else {
        Some(rule.to_owned())
    }
}

fn is_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !name.is_empty() && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

fn is_word(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let ends = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    name.bytes().all(inner) && ends(name.bytes().next()) && ends(name.bytes().last())
}

/// Why this is no key of labels, annotations or finalizers.
fn qualified(key: &str) -> Option<String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if name.contains('/') {
        return Some(
            "a qualified name must consist of alphanumeric characters with an optional DNS subdomain prefix \
                and '/' (e.g. 'example.com/MyName')"
                .to_owned(),
        );
    }
    if let Some(why) = prefix.and_then(|prefix| self::name(Names::Subdomain, prefix)) {
        return Some(format!("prefix part {why}"));
    }
    if name.is_empty() {
        return Some("name part must be non-empty".to_owned());
    }
    if name.len() > MOST_LABEL {
        return Some(format!("name part must be no more than {MOST_LABEL} bytes"));
    }
    (!is_word(name)).then(|| QUALIFIED_RULE.to_owned())
}

/// What is wrong with labels at this place.
pub(crate) fn labels(object: &Value, pointer: &str, field: &str, causes: &mut Vec<Cause>) {
    for (key, value) in entries(object, pointer) {
        if let Some(why) = qualified(key) {
            causes.push(Cause::invalid(field, &json!(key), &why));
        }
        let text = value.as_str().unwrap_or_default();
        let is_right = |value: &str| value.is_empty() || is_word(value);
        if let Some(why) = shaped(text, MOST_LABEL, is_right, VALUE_RULE) {
            causes.push(Cause::invalid(field, value, &why));
        }
    }
}

/// What is wrong with the metadata of an object.
pub(crate) fn metadata(kind: &Kind, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let found = text(object, "/metadata/name");
    if found.is_empty() {
        causes.push(Cause::required("metadata.name", "name or generateName is required"));
    } else if let Some(why) = name(kind.names, found) {
        causes.push(Cause::invalid("metadata.name", &json!(found), &why));
    }
    labels(object, "/metadata/labels", "metadata.labels", &mut causes);
    let mut bytes = 0;
    for (key, value) in entries(object, "/metadata/annotations") {
        // Their keys may have capitals in the prefix.
        if let Some(why) = qualified(&key.to_lowercase()) {
            causes.push(Cause::invalid("metadata.annotations", &json!(key), &why));
        }
        bytes += key.len() + value.as_str().unwrap_or_default().len();
    }
    if bytes > MOST_ANNOTATION_BYTES {
        let message = format!("Too long: may not be more than {MOST_ANNOTATION_BYTES} bytes");
        causes.push(Cause::forbidden("metadata.annotations", &message));
    }
    for finalizer in list(object, "/metadata/finalizers") {
        let name = finalizer.as_str().unwrap_or_default();
        let standard = matches!(name, "foregroundDeletion" | "orphan" | "kubernetes");
        if !standard && (!name.contains('/') || qualified(name).is_some()) {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            causes.push(Cause::invalid("metadata.finalizers", finalizer, why));
        }
    }
    owners(object, &mut causes);
    causes
}

fn owners(object: &Value, causes: &mut Vec<Cause>) {
    let mut controllers = 0;
    for owner in list(object, "/metadata/ownerReferences") {
        for (pointer, field) in [("/apiVersion", "apiVersion"), ("/kind", "kind"), ("/name", "name"), ("/uid", "uid")] {
            if text(owner, pointer).is_empty() {
                let why = "must not be empty";
                causes.push(Cause::invalid(format!("metadata.ownerReferences.{field}"), &json!(""), why));
            }
        }
        controllers += usize::from(owner["controller"] == true);
    }
    if controllers > 1 {
        let why = "Only one reference can have Controller set to true";
        causes.push(Cause::invalid("metadata.ownerReferences", &object["metadata"]["ownerReferences"], why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule_of_their_kind() {
        for (rule, good) in [
            (Names::Label, "a-1"),
            (Names::Label, "1a"),
            (Names::Label1035, "a1"),
            (Names::Subdomain, "a.b-c.1"),
            (Names::Segment, "system:Anything_at all"),
        ] {
            assert_eq!(name(rule, good), None, "{good}");
        }
        for (rule, bad) in [
            (Names::Label, ""),
            (Names::Label, "A"),
            (Names::Label, "a-"),
            (Names::Label, "a.b"),
            (Names::Label1035, "1a"),
            (Names::Subdomain, "a..b"),
            (Names::Subdomain, "a_b"),
            (Names::Segment, ".."),
            (Names::Segment, "a/b"),
        ] {
            assert!(name(rule, bad).is_some(), "{bad}");
        }
        assert_eq!(name(Names::Label, &"a".repeat(64)).as_deref(), Some("must be no more than 63 bytes"));
    }

    #[test]
    fn keys_of_labels_have_a_prefix_or_none() {
        for good in ["app", "example.com/My_Name.1", "A"] {
            assert_eq!(qualified(good), None, "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "Example.com/a", "-a", "a b"] {
            assert!(qualified(bad).is_some(), "{bad}");
        }
    }
}
