//! The role before a provider that is a fake, on loopback, and before roles that remember what they were asked.

#![expect(clippy::disallowed_methods, reason = "tests join what they spawn, or end with it")]

mod calls;
mod clients;
mod gates;
mod money;
mod providers;
mod roles;
mod stage;
