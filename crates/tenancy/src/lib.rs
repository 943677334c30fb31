//! Accounts and their keys, offices, and who may enter them: what every resource of an office stands on.
//!
//! A call enters its office once, by [`Offices::enter`], [`Offices::get`] or [`Offices::lock`]; what comes after takes the
//! [`Access`](mi_rpc::Access) that it answered.
//!
//! Nothing here knows of tasks, files or messages. What those do when their office is made, stopped or removed they say
//! by [`OfficePart`], and the office role goes through all of them.

pub mod accounts;
mod author;
mod context;
pub mod invites;
pub mod offices;
mod part;
pub mod quotas;
pub mod retention;
mod settings;

pub use self::{
    author::Author,
    context::RoleContext,
    offices::{Condition, Office, Offices, State, Transition},
    part::{LifecycleStep, OfficePart},
    quotas::Quotas,
    settings::Settings,
};
