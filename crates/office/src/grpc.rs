//! The services that join several parts of the role.

pub(crate) mod access;
pub(crate) mod metering;
pub(crate) mod offices;
