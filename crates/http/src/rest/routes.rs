//! The routes of REST: made once, from what the descriptors are annotated with.

use std::{cmp::Ordering, sync::LazyLock};

use http::Method as HttpMethod;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor};

use super::template::{Template, cut};
use crate::methods::{self, Method};

/// One way to ask for an RPC.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) http: HttpMethod,
    pub(crate) template: Template,
    pub(crate) rpc: MethodDescriptor,
    pub(crate) method: &'static Method,
    /// The fields that the path has, in its order.
    pub(crate) variables: Vec<FieldDescriptor>,
    pub(crate) body: Body,
    /// The field that is answered instead of the whole answer.
    pub(crate) response: Option<FieldDescriptor>,
    pub(crate) form: Form,
}

/// What the body of a request is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    None,
    /// All fields that the path does not have.
    Whole,
    Field(FieldDescriptor),
}

/// How a request is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Form {
    /// With one message.
    Unary,
    /// With messages, one by one; and how a client goes on where it was.
    Events(Option<Resume>),
    /// With bytes, which are what a message describes.
    Download { about: FieldDescriptor, chunk: FieldDescriptor },
    /// With one message, to bytes.
    Upload { header: FieldDescriptor, chunk: FieldDescriptor },
}

/// A stream that can be resumed: the request says after what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resume {
    /// Such as `after_cursor`.
    pub(crate) after: FieldDescriptor,
    /// Where each message has its own, such as `event` and `cursor`.
    pub(crate) id: Vec<FieldDescriptor>,
}

impl Route {
    /// The message whose fields a request gives.
    pub(crate) fn input(&self) -> MessageDescriptor {
        match &self.form {
            Form::Upload { header, .. } => message_of(header).unwrap_or_else(|| self.method.input.clone()),
            _ => self.method.input.clone(),
        }
    }

    /// The route that a method is annotated with.
    pub(crate) fn of(rpc: &MethodDescriptor, method: &'static Method) -> Option<Self> {
        let option = rpc.parent_pool().get_extension_by_name("google.api.http")?;
        let options = rpc.options();
        if !options.has_extension(&option) {
            return None;
        }
        let value = options.get_extension(&option);
        let rule = value.as_message()?;
        let text = |name: &str| rule.get_field_by_name(name).and_then(|value| value.as_str().map(str::to_owned));
        let (http, path) = [
            ("get", HttpMethod::GET),
            ("put", HttpMethod::PUT),
            ("post", HttpMethod::POST),
            ("delete", HttpMethod::DELETE),
            ("patch", HttpMethod::PATCH),
        ]
        .into_iter()
        .find_map(|(name, method)| Some((method, text(name).filter(|path| !path.is_empty())?)))?;
        let template = Template::parse(&path)?;
        let form = Form::of(method)?;
        let input = match &form {
            Form::Upload { header, .. } => message_of(header)?,
            _ => method.input.clone(),
        };
        let variables: Option<Vec<_>> = template.variables().map(|name| input.get_field_by_name(name)).collect();
        let body = match text("body")?.as_str() {
            "" => Body::None,
            "*" => Body::Whole,
            name => Body::Field(input.get_field_by_name(name).filter(|field| message_of(field).is_some())?),
        };
        let response = match text("response_body")?.as_str() {
            "" => None,
            name => Some(method.output.get_field_by_name(name)?),
        };
        Some(Self { http, template, rpc: rpc.clone(), method, variables: variables?, body, response, form })
    }
}

impl Form {
    fn of(method: &Method) -> Option<Self> {
        let bytes = |message: &MessageDescriptor| message.fields().find(|field| field.kind() == Kind::Bytes);
        let described = |message: &MessageDescriptor| message.fields().find(|field| message_of(field).is_some());
        match (method.client_streams, method.server_streams) {
            (false, false) => Some(Self::Unary),
            (false, true) => Some(match (bytes(&method.output), described(&method.output)) {
                (Some(chunk), Some(about)) => Self::Download { about, chunk },
                _ => Self::Events(Resume::of(method)),
            }),
            (true, false) => Some(Self::Upload { header: described(&method.input)?, chunk: bytes(&method.input)? }),
            (true, true) => None,
        }
    }
}

impl Resume {
    fn of(method: &Method) -> Option<Self> {
        let after = method.input.fields().find(|field| field.name().starts_with("after_"))?;
        let own = after.name().strip_prefix("after_")?.to_owned();
        if let Some(field) = method.output.get_field_by_name(&own) {
            return Some(Self { after, id: vec![field] });
        }
        let inner = method.output.fields().find_map(|field| {
            let id = message_of(&field)?.get_field_by_name(&own)?;
            Some(vec![field, id])
        });
        inner.map(|id| Self { after, id })
    }

    /// The place of a message in its stream.
    pub(crate) fn id(&self, message: &DynamicMessage) -> Option<String> {
        let (last, outer) = self.id.split_last()?;
        let mut message = message.clone();
        for field in outer {
            let inner = message.get_field(field).as_message()?.clone();
            message = inner;
        }
        let value = message.get_field(last);
        value.as_str().map(str::to_owned).or_else(|| value.as_i64().map(|number| number.to_string()))
    }
}

/// The message that a field holds one of.
pub(crate) fn message_of(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    if field.is_list() || field.is_map() {
        return None;
    }
    field.kind().as_message().cloned()
}

/// All ways to ask at one path.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) routes: Vec<Route>,
}

impl Place {
    /// The route for an HTTP method; what only wants the head asks as with GET.
    pub(crate) fn route(&'static self, method: &HttpMethod) -> Option<&'static Route> {
        let method = if method == HttpMethod::HEAD { &HttpMethod::GET } else { method };
        self.routes.iter().find(|route| route.http == method)
    }

    /// The HTTP methods that there are here, as in `Allow`.
    pub(crate) fn allowed(&self) -> String {
        let mut names: Vec<&str> = self.routes.iter().map(|route| route.http.as_str()).collect();
        if names.contains(&"GET") {
            names.push("HEAD");
        }
        names.sort_unstable();
        names.join(", ")
    }
}

/// Every path, those first that say more.
pub(crate) static PLACES: LazyLock<Vec<Place>> =
    LazyLock::new(|| places(methods::public().filter_map(|rpc| Route::of(&rpc, methods::find(&methods::path(&rpc))?))));

/// The places of these routes.
pub(crate) fn places(routes: impl Iterator<Item = Route>) -> Vec<Place> {
    let mut routes: Vec<Route> = routes.collect();
    routes.sort_by(|a, b| a.template.compare(&b.template));
    let mut places: Vec<Place> = Vec::new();
    for route in routes {
        let here = places.last_mut().filter(|place| {
            place.routes.iter().any(|other| other.template.compare(&route.template) == Ordering::Equal)
        });
        match here {
            Some(place) => place.routes.push(route),
            None => places.push(Place { routes: vec![route] }),
        }
    }
    places
}

/// The place at a path, and what its variables stand for, not decoded; none: there is nothing there.
pub(crate) fn find(path: &str) -> Option<(&'static Place, Vec<String>)> {
    find_in(&PLACES, path)
}

/// The same among others.
pub(crate) fn find_in(places: &'static [Place], path: &str) -> Option<(&'static Place, Vec<String>)> {
    let path = cut(path)?;
    places.iter().find_map(|place| {
        // All templates of a place match the same paths.
        let values = place.routes.first()?.template.matches(&path)?;
        Some((place, values))
    })
}

#[cfg(test)]
mod tests {
    use mi_proto::rules::POOL;

    use super::*;

    fn found(method: HttpMethod, path: &str) -> Option<(&'static str, Vec<String>)> {
        let (place, values) = find(path)?;
        let route = place.route(&method)?;
        Some((route.method.path.rsplit('/').next()?, values))
    }

    #[test]
    fn every_annotated_method_has_a_route() {
        let option = POOL.get_extension_by_name("google.api.http").expect("compiled in");
        let annotated: Vec<_> = methods::public()
            .filter(|rpc| rpc.options().has_extension(&option))
            .map(|rpc| rpc.full_name().to_owned())
            .collect();
        let mut routed: Vec<_> =
            PLACES.iter().flat_map(|place| &place.routes).map(|route| route.rpc.full_name().to_owned()).collect();
        let mut expected = annotated.clone();
        routed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(routed, expected);
        // What is not annotated are streams in both directions, which HTTP has no form for, and what agents of the platform's
        // own call alone.
        let without: Vec<_> = methods::public()
            .filter(|rpc| !annotated.contains(&rpc.full_name().to_owned()))
            .filter(|rpc| !(rpc.is_client_streaming() && rpc.is_server_streaming()))
            .map(|rpc| rpc.name().to_owned())
            .collect();
        assert_eq!(without, ["SaveWorkspace", "LoadWorkspace"]);
    }

    #[test]
    fn one_place_calls_its_variables_by_the_same_names() {
        for place in PLACES.iter() {
            let names = |route: &Route| route.variables.iter().map(|field| field.name().to_owned()).collect::<Vec<_>>();
            let first = &place.routes[0];
            for (n, route) in place.routes.iter().enumerate() {
                assert_eq!((names(route), route.template.plain()), (names(first), first.template.plain()));
                assert!(place.routes[..n].iter().all(|other| other.http != route.http), "{}", route.rpc.full_name());
            }
        }
    }

    #[test]
    fn names_lead_to_methods() {
        let values = |values: &[&str]| values.iter().map(ToString::to_string).collect::<Vec<_>>();
        for (method, path, name, variables) in [
            (HttpMethod::POST, "/v1/offices", "CreateOffice", &[][..]),
            (HttpMethod::HEAD, "/v1/offices", "ListOffices", &[]),
            (HttpMethod::GET, "/v1/offices/o", "GetOffice", &["o"]),
            (HttpMethod::POST, "/v1/offices/o:suspend", "SuspendOffice", &["o"]),
            (HttpMethod::GET, "/v1/offices/o:suspended", "GetOffice", &["o:suspended"]),
            (HttpMethod::POST, "/v1/offices/o/agents/bob:promote", "PromoteAgent", &["o", "bob"]),
            (HttpMethod::GET, "/v1/offices/o/agents:watch", "WatchAgents", &["o"]),
            (HttpMethod::GET, "/v1/offices/o/files", "ListFiles", &["o"]),
            (HttpMethod::GET, "/v1/offices/o/files/a/b:download", "DownloadFile", &["o", "a/b:download"]),
            (HttpMethod::PUT, "/v1/offices/o/files/a", "UploadFile", &["o", "a"]),
            (HttpMethod::GET, "/v1/offices/o/backups/b:download", "DownloadBackup", &["o", "b"]),
        ] {
            assert_eq!(found(method, path), Some((name, values(variables))), "{path}");
        }
        for (method, path) in [
            (HttpMethod::GET, "/v1/offices/o/agents/bob:promote"),
            (HttpMethod::PATCH, "/v1/offices"),
            (HttpMethod::GET, "/v1"),
            (HttpMethod::GET, "/v1/"),
            (HttpMethod::GET, "/v1/nothing"),
            (HttpMethod::GET, "/v1/offices/o/../offices"),
        ] {
            assert_eq!(found(method, path), None, "{path}");
        }
        assert_eq!(
            find("/v1/offices/o/agents/bob").map(|(place, _)| place.allowed()).as_deref(),
            Some("DELETE, GET, HEAD, PATCH")
        );
    }

    #[test]
    fn streams_say_how_they_are_resumed() {
        let resumed: Vec<(String, String)> = PLACES
            .iter()
            .flat_map(|place| &place.routes)
            .filter_map(|route| match &route.form {
                Form::Events(resume) => {
                    let id = resume.iter().flat_map(|resume| &resume.id).map(|field| field.name().to_owned());
                    Some((route.rpc.name().to_owned(), id.collect::<Vec<_>>().join(".")))
                }
                _ => None,
            })
            .collect();
        let mut expected = [
            ("WatchAgents", ""),
            ("WatchTasks", "cursor"),
            ("WatchActivity", "event.cursor"),
            ("WatchChanges", "change.cursor"),
            ("WatchMessages", "message.id"),
            ("TailLogs", "line.sequence"),
        ]
        .map(|(name, id)| (name.to_owned(), id.to_owned()));
        let mut resumed = resumed;
        resumed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(resumed, expected);
    }
}
