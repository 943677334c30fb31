//! What all roles share on the wire: transport, deadlines, the principal token, error mapping and the server builder.

pub mod access;
mod caller;
pub mod compression;
pub mod connections;
pub mod convert;
pub mod deadline;
pub mod events;
pub mod guard;
mod handle;
pub mod outgoing;
pub mod principal;
pub mod refusals;
pub mod server;
pub mod status;
pub mod tls;
pub mod transport;
mod unsent;
pub mod vendor;

pub use access::Access;
pub use caller::{Caller, SOURCE_HEADER, source_of};
pub use connections::{ConnectionLimits, Connections};
pub use events::EventSink;
pub use guard::{Guard, HttpCaller};
pub use handle::Reply;
pub use outgoing::outgoing;
pub use principal::PrincipalKey;
pub use refusals::{Refusal, Refusals};
pub use status::status;
pub use tls::RoleTls;
pub use transport::{Promised, RoleClient, Transport};

/// A request as it crosses between roles.
pub type HttpRequest = http::Request<tonic::body::Body>;
/// A response as it crosses between roles.
pub type HttpResponse = http::Response<tonic::body::Body>;
