//! What a request asks for, by its method and address.

use std::collections::BTreeMap;

use http::{Method, Uri};
use percent::decode;

use crate::{
    kinds::{KINDS, Kind},
    refusal::Refusal,
};

/// A request for a resource.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// The kind of the objects.
    pub(crate) kind: &'static Kind,
    /// The namespace, empty for all.
    pub(crate) namespace: String,
    /// The name, empty for a list.
    pub(crate) name: String,
    /// The subresource.
    pub(crate) subresource: String,
    /// The verb as RBAC names it.
    pub(crate) verb: &'static str,
}

/// The parameters of a request; of those that come twice the first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(BTreeMap<String, String>);

impl Query {
    /// Those of an address.
    pub(crate) fn of(uri: &Uri) -> Self {
        let mut found = BTreeMap::new();
        for (name, value) in url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
            found.entry(name.into_owned()).or_insert_with(|| value.into_owned());
        }
        Self(found)
    }

    /// A parameter, empty when it is not there.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.0.get(name).map(String::as_str).unwrap_or_default()
    }

    /// Whether a parameter is on.
    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.text(name), "true" | "1")
    }

    /// A parameter that is a number.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        match self.text(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                Refusal::bad_request(format!("strconv.ParseUint: parsing {text:?}: invalid syntax ({name})"))
            }),
        }
    }
}

/// The resource that a request is for; nothing when its address is that of none.
pub(crate) fn resource(method: &Method, uri: &Uri, query: &Query) -> Option<Result<Asked, Refusal>> {
    let parts: Vec<String> = uri.path().split('/').skip(1).map(decode).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        // A namespace is an object itself, and so are its subresources.
        ["namespaces", namespace, resource, rest @ ..] if !matches!(*resource, "status" | "finalize") => {
            (*namespace, [&[*resource], rest].concat())
        }
        rest => ("", rest.to_vec()),
    };
    let (resource, name, subresource) = match rest.as_slice() {
        [resource] if !resource.is_empty() => (*resource, "", ""),
        [resource, name] => (*resource, *name, ""),
        [resource, name, subresource] => (*resource, *name, *subresource),
        _ => return None,
    };
    let is = |kind: &&Kind| kind.group == group && kind.version == version && kind.resource == resource;
    let Some(kind) = KINDS.iter().find(is).filter(|kind| kind.namespaced || namespace.is_empty()) else {
        return Some(Err(Refusal::no_such_path()));
    };
    let has_subresource = match subresource {
        "" => true,
        "status" => kind.status,
        "scale" => kind.scale,
        "log" | "eviction" => kind.resource == "pods",
        _ => false,
    };
    if !has_subresource {
        return Some(Err(Refusal::no_such_path()));
    }
    let is_one = !name.is_empty();
    let verb = match *method {
        Method::GET if is_one => "get",
        Method::GET if query.flag("watch") => "watch",
        Method::GET => "list",
        Method::POST if !is_one || subresource == "eviction" => "create",
        Method::PUT if is_one => "update",
        Method::PATCH if is_one => "patch",
        Method::DELETE if is_one && subresource.is_empty() => "delete",
        Method::DELETE if !is_one => "deletecollection",
        _ => {
            let why = "the server does not allow this method on the requested resource";
            return Some(Err(Refusal::new(405, "MethodNotAllowed", why)));
        }
    };
    let (namespace, name) = (namespace.to_owned(), name.to_owned());
    Some(Ok(Asked { kind, namespace, name, subresource: subresource.to_owned(), verb }))
}

mod percent {
    //! Parts of paths as they are meant.

    /// Undoes the escapes of a part of a path.
    pub(super) fn decode(part: &str) -> String {
        // A plus is a plus in a path.
        let part = part.replace('+', "%2B");
        url::form_urlencoded::parse(format!("part={part}").as_bytes())
            .next()
            .map(|(_, value)| value.into_owned())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lead_to_resources() {
        for (method, address, expected) in [
            (Method::GET, "/api/v1/pods", "pods//// list"),
            (Method::GET, "/api/v1/namespaces/a/pods?watch=true", "pods/a/// watch"),
            (Method::POST, "/api/v1/namespaces/a/pods/b/eviction", "pods/a/b/eviction/ create"),
            (Method::PUT, "/api/v1/namespaces/a/status", "namespaces//a/status/ update"),
            (Method::GET, "/api/v1/namespaces/a", "namespaces//a// get"),
            (Method::PATCH, "/apis/apps/v1/namespaces/a/statefulsets/b/scale", "statefulsets/a/b/scale/ patch"),
            (Method::DELETE, "/apis/rbac.authorization.k8s.io/v1/namespaces/a/roles/x%3Ay", "roles/a/x:y// delete"),
            (Method::DELETE, "/api/v1/namespaces/a/secrets", "secrets/a/// deletecollection"),
        ] {
            let uri: Uri = address.parse().expect("an address");
            let asked = resource(&method, &uri, &Query::of(&uri)).expect("a resource").expect("a verb");
            let found = format!(
                "{}/{}/{}/{}/ {}",
                asked.kind.resource, asked.namespace, asked.name, asked.subresource, asked.verb
            );
            assert_eq!(found, expected, "{address}");
        }
    }

    #[test]
    fn other_addresses_do_not() {
        for (address, code) in
            [("/api/v1/widgets", 404), ("/apis/apps/v1/pods", 404), ("/api/v1/namespaces/a/secrets/b/scale", 404)]
        {
            let uri: Uri = address.parse().expect("an address");
            let refusal =
                resource(&Method::GET, &uri, &Query::default()).expect("like a resource").expect_err("refused");
            assert_eq!(refusal.code, code, "{address}");
        }
        assert!(resource(&Method::GET, &Uri::from_static("/version"), &Query::default()).is_none());
    }
}
