//! The edge before roles that are fakes, in this process and behind a real listener.

mod calls;
mod credentials;
mod fake;
mod health;
mod limits;
mod revocation;
mod roles;
mod web;
