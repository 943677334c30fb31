//! `gateway-process`: the gateway as a process of its own, against a minimal proxy before the same scheduler.

use std::{env, fs, path::Path, process::Stdio};

use mi_testkit::{Arrangement, Platform};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::{
    Result,
    compare::{AGENT, Comparison, Side, paired},
    customer::Customer,
    report::{Goal, Table},
};

/// Accounts that share the load: each may make 2000 calls a second.
const CUSTOMERS: usize = 32;

pub(crate) async fn run() -> Result<Table> {
    let mut platform = Platform::builder().arrangement(Arrangement::ProcessPerRole).start().await;
    let mut customers = Vec::new();
    for _ in 0..CUSTOMERS {
        let customer = Customer::open(platform.endpoint(), platform.admin_key(), 1).await?;
        customer.hire_at_rest(AGENT).await?;
        customers.push(customer);
    }
    let key_file = platform.data_dir().join("internal.key");
    let (proxy, endpoint) = start_proxy(&scheduler(&platform)?, &key_file).await?;

    let ours = Side::new(platform.endpoint(), &customers)?;
    let theirs = Side::new(&endpoint, &customers)?;
    let measured = Comparison::run(&ours, &theirs).await?;
    drop((ours, theirs, customers, proxy));
    platform.stop().await;

    let (p50, p99, per_second) = (measured.p50(), measured.p99(), measured.per_second());
    let times = |pair| paired(pair, |ours, theirs| ours / theirs);
    let mut table = Table::new("gateway-process");
    table.row("proxy: p50, 1 stream", "us", &p50.1);
    table.row("gateway: p50, 1 stream", "us", &p50.0);
    table.goal("gateway / proxy at p50", "x", &times(&p50), Goal::AtMost(1.2));
    table.row("proxy: p99, 1 stream", "us", &p99.1);
    table.row("gateway: p99, 1 stream", "us", &p99.0);
    table.row("gateway / proxy at p99", "x", &times(&p99));
    table.row("proxy: 8 connections x 32 streams", "calls/s", &per_second.1);
    table.row("gateway: 8 connections x 32 streams", "calls/s", &per_second.0);
    let slower = paired(&per_second, |ours, theirs| theirs / ours);
    table.goal("proxy / gateway, throughput", "x", &slower, Goal::AtMost(1.2));
    Ok(table)
}

/// Address of the scheduler's listener, from its ready file.
fn scheduler(platform: &Platform) -> Result<String> {
    let dir = platform.data_dir().parent().ok_or("the data directory has no parent")?;
    let ready: serde_json::Value = serde_json::from_slice(&fs::read(dir.join("scheduler.ready.json"))?)?;
    let endpoint = ready["endpoint"].as_str().and_then(|url| url.strip_prefix("https://"));
    Ok(endpoint.ok_or("the scheduler's ready file has no endpoint")?.to_owned())
}

/// Starts the proxy; killed when dropped. Returns its URL too.
async fn start_proxy(backend: &str, key_file: &Path) -> Result<(Child, String)> {
    let mut command = Command::new(env::current_exe()?);
    command.arg("proxy").arg(backend).arg(key_file);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let output = child.stdout.take().ok_or("the proxy has no output")?;
    let address = BufReader::new(output).lines().next_line().await?;
    let address = address.ok_or("the proxy ended before it served")?;
    Ok((child, format!("http://{address}")))
}
