//! Fuzz targets for every parser that faces strangers.
//!
//! Each target takes any bytes, asserts what must hold of what is accepted, and answers whether it accepted anything.
//! Those in `fuzz_targets/` hand them to libFuzzer; the tests run the seeds through them in any build.

mod catalogue;
mod credentials;
mod grpc_web;
mod headers;
mod json;
mod names;
mod page_token;
mod path;
mod route;

pub use catalogue::catalogue;
pub use credentials::{principal, token};
pub use grpc_web::grpc_web;
pub use headers::headers;
pub use json::json;
pub use names::names;
pub use page_token::page_token;
pub use path::path;
pub use route::route;

/// A target: whether it accepted the bytes. It panics when it should not have.
pub type Target = fn(&[u8]) -> bool;

/// All of them, by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("catalogue", catalogue),
    ("grpc_web", grpc_web),
    ("headers", headers),
    ("json", json),
    ("names", names),
    ("page_token", page_token),
    ("path", path),
    ("principal", principal),
    ("route", route),
    ("token", token),
];
