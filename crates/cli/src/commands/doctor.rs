//! `mi doctor`: what would keep a platform on this machine, or a client of one, from working.

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use clap::Args;
use mi_client::{ClientError, once};
use mi_kernel::{Clock, SystemClock, secret::Secret};
use mi_server::doctor::{Finding, Machine, Verdict, examine};
use serde::Serialize;
use tonic::metadata::MetadataMap;
use tonic_health::pb::HealthCheckRequest;

use super::access;
use crate::{
    config::Settings,
    context::{Context, variable},
    failure::Failure,
    options::Global,
    output::Output,
};

/// Clocks that differ by less are alike: the answer tells whole seconds.
const ALIKE: Duration = Duration::from_secs(3);
/// Clocks that differ by more have signed tokens refused.
const APART: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Directory of the data [default: ~/.local/share/mi]
    #[arg(long, value_name = "DIR", env = "MI_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Address that the API is to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7400")]
    listen: SocketAddr,
    /// Address that metrics and liveness are to be at
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7401")]
    metrics_listen: SocketAddr,
    /// Database, postgres://... [default: SQLite in the data directory]
    #[arg(long, value_name = "URL", env = "MI_DATABASE", hide_env_values = true)]
    database: Option<String>,
    /// Object storage, file:///DIR or s3://BUCKET/PREFIX [default: a directory in the data directory]
    #[arg(long, value_name = "URL")]
    object_store: Option<String>,
    /// File of the master key [default: master.key in the data directory]
    #[arg(long, value_name = "FILE")]
    master_key_file: Option<PathBuf>,
}

#[derive(Serialize)]
struct Shown<'a> {
    check: &'a str,
    state: &'a str,
    detail: &'a str,
    fix: &'a str,
}

pub(crate) async fn run(args: DoctorArgs, global: &Global) -> Result<(), Failure> {
    let settings = Settings::load(global)?;
    let data_dir = args.data_dir.map_or_else(|| settings.data_dir(), Ok)?;
    let machine = Machine {
        data_dir: std::path::absolute(&data_dir).map_err(|error| Failure::io(data_dir.display(), &error))?,
        listen: args.listen,
        metrics_listen: args.metrics_listen,
        database: args.database.map(Secret::new),
        object_store: args.object_store,
        master_key_file: args.master_key_file,
        master_key_given: variable("MI_MASTER_KEY").is_some(),
    };
    let scratch = tempfile::tempdir().map_err(|error| Failure::io("no temporary directory can be made", &error))?;
    let (mut findings, is_running) = examine(&machine, scratch.path()).await;
    findings.extend(client(global, is_running).await);
    print(&findings, Output::new(global))?;
    let problems = findings.iter().filter(|finding| finding.verdict == Verdict::Problem).count();
    match problems {
        0 => Ok(()),
        1 => Err(Failure::new("there is a problem")),
        _ => Err(Failure::new(format!("there are {problems} problems"))),
    }
}

fn print(findings: &[Finding], out: Output) -> Result<(), Failure> {
    let shown: Vec<Shown<'_>> = findings
        .iter()
        .map(|finding| Shown {
            check: finding.what,
            state: match finding.verdict {
                Verdict::Ok => "ok",
                Verdict::Warning => "warning",
                Verdict::Problem => "problem",
            },
            detail: &finding.detail,
            fix: &finding.fix,
        })
        .collect();
    if out.is_for_programs() {
        return out.value(&shown);
    }
    let row = |shown: &Shown<'_>| [shown.check, shown.state, shown.detail].map(str::to_owned).to_vec();
    out.table(&["CHECK", "STATE", "DETAIL"], shown.iter().map(row))?;
    for Shown { check, fix, .. } in shown.iter().filter(|shown| !shown.fix.is_empty()) {
        out.note(&format!("{check}: {fix}"));
    }
    Ok(())
}

/// What a client meets at the endpoint.
async fn client(global: &Global, is_running: bool) -> Vec<Finding> {
    let what = "endpoint";
    let context = match Context::new(global) {
        Ok(context) => context,
        Err(failure) => return vec![Finding::problem(what, failure.message(), "check --endpoint and --ca-file")],
    };
    let client = &context.client;
    let request = HealthCheckRequest { service: String::new() };
    let (asked, started) = (SystemTime::from(SystemClock.now()), Instant::now());
    let answer = match once(client.health().check(request)).await {
        Ok(answer) => answer,
        Err(status) => {
            let error = ClientError::from(status);
            let detail = format!("{}: {error}", client.endpoint());
            let fix = "start the platform with `mi up`, or name another one with --endpoint";
            // Before a first start there is nobody to reach.
            return vec![match error.is_unreachable() && !is_running && context.settings.api_key.is_none() {
                true => Finding::warning(what, detail, fix),
                false => Finding::problem(what, detail, fix),
            }];
        }
    };
    let taken = started.elapsed();
    let detail = format!("{}, {:.1} ms", client.endpoint(), taken.as_secs_f64() * 1000.0);
    let mut findings = vec![Finding::ok(what, detail), clock(answer.metadata(), asked + taken / 2)];
    findings.push(match access::principal_and_quotas(client).await {
        Ok((principal, _)) => {
            let kind = crate::text::word(principal.kind().as_str_name(), "PRINCIPAL_KIND_");
            Finding::ok("credential", format!("good, of: {kind}"))
        }
        Err(failure) => {
            let fix = "log in with `mi login`, or give a key with --api-key or MI_API_KEY";
            Finding::problem("credential", failure.message(), fix)
        }
    });
    findings
}

/// How far the clock here is from that of the platform, whose answer was on its way at this time.
fn clock(answer: &MetadataMap, here: SystemTime) -> Finding {
    let what = "clock";
    let told = answer.get("date").and_then(|date| date.to_str().ok());
    let Some(there) = told.and_then(|date| chrono::DateTime::parse_from_rfc2822(date).ok()) else {
        return Finding::ok(what, "the platform did not tell its time");
    };
    let there = SystemTime::from(there);
    let apart = here.duration_since(there).unwrap_or_else(|error| error.duration());
    let fix = "let NTP set both clocks: signed tokens are good for minutes";
    match apart {
        _ if apart < ALIKE => Finding::ok(what, "the platform's is the same"),
        _ if apart < APART => Finding::warning(what, format!("{} s from the platform's", apart.as_secs()), fix),
        _ => Finding::problem(what, format!("{} s from the platform's", apart.as_secs()), fix),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_compared() {
        let there = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let mut answer = MetadataMap::new();
        assert_eq!(clock(&answer, there).verdict, Verdict::Ok);
        answer.insert("date", "Sun, 06 Nov 1994 08:49:37 GMT".parse().expect("text"));
        for (here, verdict) in [
            (there, Verdict::Ok),
            (there + Duration::from_secs(1), Verdict::Ok),
            (there - Duration::from_secs(10), Verdict::Warning),
            (there + Duration::from_secs(10), Verdict::Warning),
            (there - Duration::from_secs(600), Verdict::Problem),
        ] {
            assert_eq!(clock(&answer, here).verdict, verdict, "{here:?}");
        }
    }
}
