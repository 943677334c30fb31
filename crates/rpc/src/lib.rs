//! What all roles share on the wire: transport, deadlines, the principal token, error mapping and the server builder.

pub mod caller;
pub mod convert;
pub mod deadline;
pub mod guard;
pub mod principal;
pub mod server;
pub mod status;
pub mod transport;

pub use caller::{Caller, Entry};
pub use guard::Guard;
pub use principal::PrincipalKey;
pub use status::status;
pub use transport::{RoleClient, Transport};

/// A request as it crosses between roles.
pub type HttpRequest = http::Request<tonic::body::Body>;
/// A response as it crosses between roles.
pub type HttpResponse = http::Response<tonic::body::Body>;
