//! Ranges of time, in what both databases can hold and compare.

use std::ops::Range;

use mi_kernel::{Error, Result, Time};

// Evaluated by the compiler: 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z.
const FIRST: Time = Time::from_timestamp(-62_135_596_800, 0).unwrap();
pub(crate) const LAST: Time = Time::from_timestamp(253_402_300_799, 0).unwrap();

/// From `start` on, before `end`; unset: no limit.
///
/// # Errors
/// `Invalid` for years that are not 1 to 9999: beyond, SQLite's texts no longer sort like the times they stand for.
pub(crate) fn span(start: Option<Time>, end: Option<Time>) -> Result<Range<Time>> {
    let start = start.map_or(Ok(FIRST), |time| checked("start_time", time))?;
    let end = end.map_or(Ok(LAST), |time| checked("end_time", time))?;
    Ok(start..end)
}

/// A time that the databases can hold.
///
/// # Errors
/// `Invalid`, naming the field, for years that are not 1 to 9999.
pub(crate) fn checked(field: &'static str, time: Time) -> Result<Time> {
    if time < FIRST || time > LAST {
        return Err(Error::invalid(field, "must be between the years 1 and 9999"));
    }
    Ok(time)
}
