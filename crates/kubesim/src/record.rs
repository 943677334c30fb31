//! What was asked of the server.

use crate::matching::Matching;

/// A request as the server got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The verb as RBAC names it; the method in lower case for what is no resource.
    pub verb: String,
    /// The API group, empty for the core.
    pub group: String,
    /// The resource, empty for what is none.
    pub resource: String,
    /// The subresource, empty for the object itself.
    pub subresource: String,
    /// The namespace, empty for all and for what is in none.
    pub namespace: String,
    /// The name, empty for lists.
    pub name: String,
    /// The path and the query as they came.
    pub address: String,
    /// Who it says it is.
    pub user_agent: String,
    /// The field manager that it names.
    pub field_manager: String,
    /// The content type of its body.
    pub content_type: String,
    /// The status of the answer; 0 while there is none, or when the connection was broken instead.
    pub status: u16,
}

impl Request {
    /// The resource with its subresource, as RBAC names both.
    pub fn rbac_resource(&self) -> String {
        match self.subresource.as_str() {
            "" => self.resource.clone(),
            subresource => format!("{}/{subresource}", self.resource),
        }
    }

    /// Whether it is one of these.
    pub fn is(&self, of: &Matching) -> bool {
        of.is_of(&self.verb, &self.resource, &self.subresource, &self.namespace, &self.name)
    }
}
