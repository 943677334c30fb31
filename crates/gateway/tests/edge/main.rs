//! The edge before roles that are fakes, in this process and behind a real listener.

#![expect(clippy::disallowed_methods, reason = "tests join what they spawn, or end with it")]

mod calls;
mod credentials;
mod fake;
mod health;
mod http_calls;
mod limits;
mod revocation;
mod roles;
mod web;
