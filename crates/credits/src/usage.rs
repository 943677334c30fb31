//! What was used: by agent, model, task or day.

use chrono::{DurationRound, TimeDelta};
use mi_kernel::{Error, Result, Time};
use mi_proto::v1::{GetUsageRequest, UsageGroup};
use mi_rpc::{Caller, convert};

use super::{
    Credits,
    model::Usage,
    repo::{self, UsageKind},
};

/// Most keys of an answer.
const MOST_KEYS: i64 = 1000;
/// The longest range, in days.
const MOST_DAYS: i64 = 92;
/// The longest range by task, in days: of those there may be any number.
const MOST_DAYS_BY_TASK: i64 = 31;
/// The range when none is given, in days.
const USUAL_DAYS: i64 = 30;

impl Credits {
    /// What was used in a range of whole hours, the most expensive first, or by day.
    pub(super) async fn usage(&self, caller: &Caller, request: &GetUsageRequest) -> Result<Vec<(String, Usage)>> {
        let (access, _) = self.offices.get(caller, &request.office_id).await?;
        let kind = match UsageGroup::try_from(request.group_by) {
            Ok(UsageGroup::Agent) => Some(UsageKind::Agent),
            Ok(UsageGroup::Model) => Some(UsageKind::Model),
            Ok(UsageGroup::Task) => Some(UsageKind::Task),
            Ok(UsageGroup::Day) => None,
            Ok(UsageGroup::Unspecified) | Err(_) => {
                let text = "must be USAGE_GROUP_AGENT, USAGE_GROUP_MODEL, USAGE_GROUP_TASK or USAGE_GROUP_DAY";
                return Err(Error::invalid("group_by", text));
            }
        };
        let range = self.range(request, if kind == Some(UsageKind::Task) { MOST_DAYS_BY_TASK } else { MOST_DAYS })?;
        let mut conn = self.db.office(access.office_id()).read().await?;
        if let Some(kind) = kind {
            return Ok(repo::usage_sum(&mut conn, kind, range, MOST_KEYS).await?);
        }
        let mut days: Vec<(String, Usage)> = Vec::new();
        for (hour, used) in repo::usage_by_hour(&mut conn, range).await? {
            let day = hour.format("%Y-%m-%d").to_string();
            match days.last_mut() {
                Some((last, sum)) if *last == day => sum.add(used),
                _ => days.push((day, used)),
            }
        }
        Ok(days)
    }

    /// The whole hours that a request means.
    fn range(&self, request: &GetUsageRequest, most_days: i64) -> Result<(Time, Time)> {
        let hour = TimeDelta::hours(1);
        let floor = |field: &'static str, time: Time| {
            time.duration_trunc(hour).map_err(|_| Error::invalid(field, "must be in the years from 1678 to 2261"))
        };
        let end = request.end_time.as_ref().map(|time| convert::time("end_time", time)).transpose()?;
        let end = end.unwrap_or_else(|| self.clock.now());
        let start = request.start_time.as_ref().map(|time| convert::time("start_time", time)).transpose()?;
        let start = match start {
            Some(start) => start,
            None => end.checked_sub_signed(TimeDelta::days(USUAL_DAYS)).unwrap_or(end),
        };
        if start >= end {
            return Err(Error::invalid("start_time", "must be before end_time"));
        }
        let to = floor("end_time", end)?;
        let from = floor("start_time", start)?;
        if end - start > TimeDelta::days(most_days) {
            let by = if most_days == MOST_DAYS { "" } else { " when it is added up by task" };
            return Err(Error::invalid("start_time", format!("must be at most {most_days} days before end_time{by}")));
        }
        Ok((from, if to == end { to } else { to + hour }))
    }
}
