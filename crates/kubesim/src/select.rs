//! Selectors of labels and fields, as texts of a query and as objects of a spec.

use serde_json::Value;

use crate::{
    json::{entries, list, text},
    kinds::Kind,
    refusal::Refusal,
};

/// What a list, a watch or a deletion is limited to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    /// Pointer, value, and whether it has to be that one.
    fields: Vec<(&'static str, String, bool)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    /// The label has one of these values.
    In(String, Vec<String>),
    /// It has none of them, or is not there.
    NotIn(String, Vec<String>),
    /// It is there.
    Exists(String),
    /// It is not there.
    Absent(String),
}

impl Requirement {
    fn matches(&self, object: &Value) -> bool {
        let value = |key: &str| object["metadata"]["labels"][key].as_str();
        let one_of =
            |key: &str, values: &[String]| value(key).is_some_and(|found| values.iter().any(|value| value == found));
        match self {
            Self::In(key, values) => one_of(key, values),
            Self::NotIn(key, values) => !one_of(key, values),
            Self::Exists(key) => value(key).is_some(),
            Self::Absent(key) => value(key).is_none(),
        }
    }
}

/// The fields that can be selected by, beside name and namespace.
fn field(kind: &Kind, name: &str) -> Option<&'static str> {
    Some(match (kind.resource, name) {
        (_, "metadata.name") => "/metadata/name",
        (_, "metadata.namespace") => "/metadata/namespace",
        ("pods", "spec.nodeName") => "/spec/nodeName",
        ("pods", "spec.restartPolicy") => "/spec/restartPolicy",
        ("pods", "spec.schedulerName") => "/spec/schedulerName",
        ("pods", "spec.serviceAccountName") => "/spec/serviceAccountName",
        ("pods" | "namespaces", "status.phase") => "/status/phase",
        ("pods", "status.podIP") => "/status/podIP",
        ("secrets", "type") => "/type",
        ("events", "type") => "/type",
        ("events", "reason") => "/reason",
        ("events", "involvedObject.kind") => "/involvedObject/kind",
        ("events", "involvedObject.name") => "/involvedObject/name",
        ("events", "involvedObject.namespace") => "/involvedObject/namespace",
        ("events", "involvedObject.uid") => "/involvedObject/uid",
        _ => return None,
    })
}

impl Selector {
    /// Reads the selectors of a query.
    pub(crate) fn parse(kind: &Kind, labels: &str, fields: &str) -> Result<Self, Refusal> {
        let labels = requirements(labels)
            .map_err(|what| Refusal::bad_request(format!("unable to parse requirement: {what}")))?;
        let mut selected = Vec::new();
        for term in fields.split(',').filter(|term| !term.is_empty()) {
            let (name, value, equal) = if let Some((name, value)) = term.split_once("!=") {
                (name, value, false)
            } else if let Some((name, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
                (name, value, true)
            } else {
                return Err(Refusal::bad_request(format!("invalid selector: '{fields}'; can't understand '{term}'")));
            };
            let Some(pointer) = field(kind, name) else {
                return Err(Refusal::bad_request(format!("field label not supported: {name}")));
            };
            selected.push((pointer, value.to_owned(), equal));
        }
        Ok(Self { labels, fields: selected })
    }

    /// Whether it leaves everything in.
    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether this object is selected.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.labels.iter().all(|requirement| requirement.matches(object))
            && self.fields.iter().all(|(pointer, value, equal)| (text(object, pointer) == value) == *equal)
    }
}

/// Whether the `LabelSelector` of a spec selects this object. An empty one selects everything.
pub(crate) fn selects(selector: &Value, object: &Value) -> bool {
    let labels = entries(selector, "/matchLabels").all(|(key, value)| object["metadata"]["labels"][key] == *value);
    labels
        && list(selector, "/matchExpressions").iter().all(|expression| {
            let key = text(expression, "/key").to_owned();
            let values =
                list(expression, "/values").iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>();
            let requirement = match text(expression, "/operator") {
                "In" => Requirement::In(key, values),
                "NotIn" => Requirement::NotIn(key, values),
                "Exists" => Requirement::Exists(key),
                _ => Requirement::Absent(key),
            };
            requirement.matches(object)
        })
}

/// The text of a `LabelSelector`.
pub(crate) fn as_text(selector: &Value) -> String {
    let labels = entries(selector, "/matchLabels");
    labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect::<Vec<_>>().join(",")
}

/// Cuts at commas that are in no parentheses.
fn terms(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let (mut depth, mut start) = (0_i32, 0);
    for (place, char) in text.char_indices() {
        match char {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                found.push(&text[start..place]);
                start = place + 1;
            }
            _ => {}
        }
    }
    found.push(&text[start..]);
    found.into_iter().map(str::trim).filter(|term| !term.is_empty()).collect()
}

fn requirements(text: &str) -> Result<Vec<Requirement>, String> {
    terms(text).into_iter().map(requirement).collect()
}

fn requirement(term: &str) -> Result<Requirement, String> {
    let one = |key: &str, value: &str| (key.trim().to_owned(), vec![value.trim().to_owned()]);
    let found = if let Some(key) = term.strip_prefix('!') {
        Requirement::Absent(key.trim().to_owned())
    } else if let Some((key, value)) = term.split_once("!=") {
        let (key, values) = one(key, value);
        Requirement::NotIn(key, values)
    } else if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        let (key, values) = one(key, value);
        Requirement::In(key, values)
    } else if let Some((head, rest)) = term.split_once('(') {
        let values = rest.strip_suffix(')').ok_or_else(|| format!("found '{term}', expected: ')'"))?;
        let values = values.split(',').map(|value| value.trim().to_owned()).collect();
        match head.split_whitespace().collect::<Vec<_>>().as_slice() {
            [key, "in"] => Requirement::In((*key).to_owned(), values),
            [key, "notin"] => Requirement::NotIn((*key).to_owned(), values),
            _ => return Err(format!("found '{head}', expected: in, notin, =, ==, !=, gt, lt")),
        }
    } else if term.contains(char::is_whitespace) {
        return Err(format!("found '{term}', expected: in, notin, =, ==, !=, gt, lt"));
    } else {
        Requirement::Exists(term.to_owned())
    };
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn selected(selector: &str) -> Vec<&'static str> {
        let pods = [
            json!({"metadata": {"name": "a", "labels": {"app": "web", "tier": "front"}}}),
            json!({"metadata": {"name": "b", "labels": {"app": "db"}}}),
            json!({"metadata": {"name": "c"}}),
        ];
        let kind = Kind::of("pods").expect("a kind");
        let selector = Selector::parse(kind, selector, "").expect("a selector");
        let names = ["a", "b", "c"];
        names.into_iter().zip(&pods).filter(|(_, pod)| selector.matches(pod)).map(|(name, _)| name).collect()
    }

    #[test]
    fn labels_are_selected_by_equality_and_by_sets() {
        assert_eq!(selected(""), ["a", "b", "c"]);
        assert_eq!(selected("app=web"), ["a"]);
        assert_eq!(selected("app == db"), ["b"]);
        assert_eq!(selected("app!=web"), ["b", "c"]);
        assert_eq!(selected("app in (web, db),tier"), ["a"]);
        assert_eq!(selected("app notin (web,other)"), ["b", "c"]);
        assert_eq!(selected("!app"), ["c"]);
        assert_eq!(selected("app,!tier"), ["b"]);
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        let kind = Kind::of("pods").expect("a kind");
        for (labels, fields) in [("app in web", ""), ("app in (web", ""), ("", "spec.foo=1"), ("", "metadata.name")] {
            let refusal = Selector::parse(kind, labels, fields).expect_err("refused");
            assert_eq!(refusal.code, 400, "{labels} {fields}");
        }
    }
}
