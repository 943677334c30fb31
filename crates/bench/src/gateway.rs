//! `gateway`: what the gateway adds to a call, against the same handler served bare by tonic in the same process.

use mi_kernel::{AccountId, Actor, ApiKeyId};
use mi_proto::rules;
use mi_rpc::Caller;

use crate::{
    Result,
    compare::{AGENT, Comparison, Side, paired},
    compose::{Composition, serve_bare},
    customer::Customer,
    report::{Goal, Table},
};

pub(crate) async fn run() -> Result<Table> {
    let platform = Composition::start().await?;
    let customer = Customer::open(&platform.endpoint, platform.admin_key.expose(), 1).await?;
    customer.hire_at_rest(AGENT).await?;
    let caller = Caller {
        actor: Actor::Operator { account_id: AccountId::new(), api_key_id: ApiKeyId::new(), administrator: true },
        rule: rules::rule("/mi.v1.AgentService/GetAgent").ok_or("GetAgent has no rule")?,
        trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".into(),
        refusals: Default::default(),
    };
    let bare = serve_bare(&platform.tasks, platform.scheduler.clone(), caller).await?;

    let customers = [customer];
    let ours = Side::new(&platform.endpoint, &customers)?;
    let theirs = Side::new(&bare, &customers)?;
    let measured = Comparison::run(&ours, &theirs).await?;
    drop((ours, theirs, customers));
    platform.stop().await?;

    let (p50, p99, per_second) = (measured.p50(), measured.p99(), measured.per_second());
    let added = |pair| paired(pair, |ours, theirs| ours - theirs);
    let mut table = Table::new("gateway");
    table.row("bare: p50, 1 stream", "us", &p50.1);
    table.row("gateway: p50, 1 stream", "us", &p50.0);
    table.goal("added at p50", "us", &added(&p50), Goal::AtMost(30.0));
    table.row("bare: p99, 1 stream", "us", &p99.1);
    table.row("gateway: p99, 1 stream", "us", &p99.0);
    table.row("added at p99", "us", &added(&p99));
    table.row("bare: 8 connections x 32 streams", "calls/s", &per_second.1);
    table.row("gateway: 8 connections x 32 streams", "calls/s", &per_second.0);
    let share = paired(&per_second, |ours, theirs| ours / theirs * 100.0);
    table.goal("throughput kept", "%", &share, Goal::AtLeast(85.0));
    Ok(table)
}
