//! `credits`: reservations of one office that come all at once, each settled, on SQLite and on durable Postgres. In the end
//! nothing is reserved, nothing was overspent, and the ledger's sum is the balance.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use mi_kernel::CallId;
use mi_proto::{
    internal::v1::{
        ReserveCreditsRequest, SettleCreditsRequest, Spender, TokenUsage,
        metering_service_client::MeteringServiceClient,
    },
    v1,
};
use mi_rpc::RoleClient;
use mi_testkit::Backend;
use tokio::task::JoinSet;

use crate::{
    Result,
    compose::Composition,
    customer::Customer,
    queue::name_of,
    report::{Goal, Table},
};

const ROUNDS: usize = 3;
/// Reservations that come at once.
const CALLS: usize = 10_000;
/// Micro-credits that each sets aside, and that it costs in the end.
const CEILING: i64 = 1000;
const COST: i64 = 300;

pub(crate) async fn run() -> Result<Table> {
    let mut table = Table::new("credits");
    for backend in [Backend::Sqlite, Backend::Postgres] {
        let platform = Composition::start_on(backend).await?;
        let mut rates = Vec::new();
        for _ in 0..ROUNDS {
            rates.push(round(&platform).await?);
        }
        let name = name_of(backend);
        let what = format!("{name}: {CALLS} calls of an office at once, reserved and settled");
        table.goal(&what, "/s", &rates, Goal::AtLeast(2000.0));
        platform.stop().await?;
    }
    Ok(table)
}

/// Calls settled a second, of an office that can pay for half of those that come at once.
async fn round(platform: &Composition) -> Result<f64> {
    let customer = Customer::open(&platform.endpoint, platform.admin_key.expose(), 10).await?;
    let had = balance(&customer).await?.available;
    let wanted = CEILING * i64::try_from(CALLS)? / 2;
    if wanted > had {
        let grant = v1::GrantCreditsRequest {
            office_id: customer.office.clone(),
            amount: wanted - had,
            reason: "bench".into(),
            request_id: String::new(),
        };
        let admin = customer.client.with_credential(mi_client::Credential::ApiKey(platform.admin_key.clone()))?;
        admin.credits().grant_credits(grant).await?;
    }
    let had = balance(&customer).await?.available;
    let metering = MeteringServiceClient::new(RoleClient::new(platform.office.clone(), "models"));
    let settled = Arc::new(AtomicUsize::new(0));
    let (start, mut calls) = (Instant::now(), JoinSet::<Result>::new());
    for _ in 0..CALLS {
        let (mut metering, office_id, settled) = (metering.clone(), customer.office.clone(), settled.clone());
        calls.spawn(async move {
            let call_id = CallId::new().to_string();
            match metering.reserve_credits(reservation(&office_id, &call_id)).await {
                Ok(_) => {}
                Err(refused) if refused.code() == tonic::Code::ResourceExhausted => return Ok(()),
                Err(failed) => return Err(failed.into()),
            }
            let usage = Some(TokenUsage { input: 100, output: 10, ..TokenUsage::default() });
            let settlement =
                SettleCreditsRequest { office_id, call_id, amount: Some(COST), usage, note: String::new() };
            metering.settle_credits(settlement).await?;
            settled.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
    }
    while let Some(done) = calls.join_next().await {
        done??;
    }
    let took = start.elapsed().as_secs_f64();
    let settled = settled.load(Ordering::Relaxed);
    let left = balance(&customer).await?;
    let spent = COST * i64::try_from(settled)?;
    if left.reserved != 0 || left.available < 0 || left.balance != had - spent {
        return Err(format!("{had} had, {settled} calls settled for {spent}, and now: {left:?}").into());
    }
    Ok(settled as f64 / took)
}

fn reservation(office_id: &str, call_id: &str) -> ReserveCreditsRequest {
    ReserveCreditsRequest {
        office_id: office_id.to_owned(),
        call_id: call_id.to_owned(),
        spender: Some(Spender {
            agent_id: "0190a0a0-0000-7000-8000-000000000001".into(),
            agent: "bench".into(),
            lineage: Vec::new(),
        }),
        task_id: String::new(),
        provider: "openai".into(),
        model: "gpt-5.5".into(),
        amount: CEILING,
        valid_for: Some(prost_types::Duration { seconds: 300, nanos: 0 }),
    }
}

async fn balance(customer: &Customer) -> Result<v1::Balance> {
    let request = v1::GetBalanceRequest { office_id: customer.office.clone(), agent: String::new() };
    Ok(customer.client.credits().get_balance(request).await?.into_inner().balance.ok_or("no balance")?)
}
