//! Which requests a fault, a refusal or a count is about.

/// Requests by their parts; what is not said matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matching {
    verbs: Vec<String>,
    resource: Option<String>,
    subresource: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
}

impl Matching {
    /// All requests.
    pub fn all() -> Self {
        Self::default()
    }

    /// Those of this verb, as RBAC names it (`get`, `list`, `watch`, `create`, `update`, `patch`, `delete`,
    /// `deletecollection`), or of one of several that were named.
    pub fn verb(mut self, verb: &str) -> Self {
        self.verbs.push(verb.to_owned());
        self
    }

    /// Those that change something.
    pub fn writes(self) -> Self {
        ["create", "update", "patch", "delete", "deletecollection"].into_iter().fold(self, Self::verb)
    }

    /// Those of this resource, such as `pods`.
    pub fn resource(mut self, resource: &str) -> Self {
        self.resource = Some(resource.to_owned());
        self
    }

    /// Those of this subresource; an empty one is the object itself.
    pub fn subresource(mut self, subresource: &str) -> Self {
        self.subresource = Some(subresource.to_owned());
        self
    }

    /// Those in this namespace.
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Those about the object of this name.
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Whether a request with these parts is one of them.
    pub(crate) fn is_of(&self, verb: &str, resource: &str, subresource: &str, namespace: &str, name: &str) -> bool {
        let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
        (self.verbs.is_empty() || self.verbs.iter().any(|wanted| wanted == verb))
            && is(&self.resource, resource)
            && is(&self.subresource, subresource)
            && is(&self.namespace, namespace)
            && is(&self.name, name)
    }
}
