//! Accounts and their keys, offices, and who may enter them: what every resource of an office stands on.
//!
//! Nothing here knows of tasks, files or messages. What those do when their office is made, stopped or removed they say
//! by [`OfficePart`], and the office role goes through all of them.

pub mod accounts;
pub mod invites;
pub mod offices;
mod part;
pub mod quotas;
pub mod retention;
mod settings;

pub use self::{
    offices::{Condition, Office, Offices, State, Transition},
    part::{LifecycleStep, OfficePart},
    quotas::Quotas,
    settings::Settings,
};
