//! `mi status`: whether the platform is up, what of it, and what it holds.

use std::{collections::BTreeSet, time::Instant};

use mi_base::disk_reserve::HEALTH;
use mi_client::{Client, retry};
use mi_proto::{
    rules,
    v1::{Agent, Office, Principal, PrincipalKind},
};
use serde::Serialize;
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use crate::{commands::access, context::Context, failure::Failure, json::Json, output::Resource, rows, text::word};

/// What the health service calls the role that calls models.
const MODELS: &str = "mi.models";
/// Full name of its descriptor.
const QUOTA: &str = "mi.v1.Quota";

/// What is said of a platform that gave up its reserve.
const FULL: &str = "full: only deletions are served for sure (mi files rm, mi backups rm, mi agents fire --force)";

#[derive(Serialize)]
struct Report {
    endpoint: String,
    latency_ms: u64,
    services: Vec<Service>,
    principal: Json,
    /// What commands that name no colony are about; none: they have to name one.
    colony: Option<Colony>,
    /// What the caller's account has and may have.
    quotas: Vec<Json>,
    offices: usize,
    agents: usize,
    /// Agents whose colony has too few credits for their calls.
    agents_out_of_credits: usize,
    /// Layers of the sandbox that agents do without, each with the reason.
    sandbox_missing: BTreeSet<String>,
}

#[derive(Serialize)]
struct Colony {
    id: String,
    name: String,
}

#[derive(Serialize)]
struct Service {
    name: &'static str,
    health: String,
}

pub(crate) async fn run(context: &Context) -> Result<(), Failure> {
    let client = &context.client;
    let started = Instant::now();
    let whole = health(client, "").await?;
    let latency = started.elapsed();
    let mut services = vec![Service { name: "platform", health: whole }];
    for name in public_services() {
        let health = health(client, name).await?;
        services.push(Service { name, health });
    }
    // It serves agents alone, and not every platform has it.
    let models = health(client, MODELS).await?;
    if models != "unknown" {
        services.push(Service { name: "models", health: models });
    }
    let disk = health(client, HEALTH).await?;
    services
        .push(Service { name: "disk", health: if disk == "ok" || disk == "unknown" { disk } else { FULL.to_owned() } });
    let (principal, quotas) = access::principal_and_quotas(client).await?;
    let colony = context.unsaid_colony().await;
    let Counts { offices, agents, broke, missing } = counts(client, &principal).await?;
    if context.out.is_for_programs() {
        return context.out.value(&Report {
            endpoint: client.endpoint().to_owned(),
            latency_ms: u64::try_from(latency.as_millis()).unwrap_or(u64::MAX),
            services,
            principal: Json::new(Principal::TYPE, &principal)?,
            colony: colony.ok().map(|(Office { id, name, .. }, _)| Colony { id, name }),
            quotas: quotas.iter().map(|quota| Json::new(QUOTA, quota)).collect::<Result<_, _>>()?,
            offices,
            agents,
            agents_out_of_credits: broke,
            sandbox_missing: missing,
        });
    }
    let mut pairs = vec![("endpoint", format!("{} ({:.1} ms)", client.endpoint(), latency.as_secs_f64() * 1000.0))];
    pairs.extend(services.into_iter().map(|service| (service.name, service.health)));
    pairs.push(("you", word(principal.kind().as_str_name(), "PRINCIPAL_KIND_")));
    pairs.push(match colony {
        Ok((office, why)) => ("colony", format!("{} ({why})", office.name)),
        Err(failure) => ("colony", failure.message().to_owned()),
    });
    if !quotas.is_empty() {
        pairs.push(("quotas", rows::quotas(&quotas)));
    }
    pairs.push(("colonies", offices.to_string()));
    pairs.push(("agents", agents.to_string()));
    if broke > 0 {
        pairs.push(("out of credits", format!("{broke} of the agents; mi credits grant gives their colonies more")));
    }
    if agents > 0 && missing.is_empty() {
        pairs.push(("sandbox", "complete".to_owned()));
    }
    pairs.extend(missing.into_iter().map(|layer| ("sandbox lacks", layer)));
    context.out.pairs(pairs)
}

fn public_services() -> BTreeSet<&'static str> {
    rules::all().map(|method| method.service).filter(|service| service.starts_with("mi.v1.")).collect()
}

/// What the platform says of one of its services; the empty name is the whole of it.
async fn health(client: &Client, service: &str) -> Result<String, Failure> {
    let request = HealthCheckRequest { service: service.to_owned() };
    match retry(async || client.health().check(request.clone()).await).await {
        Ok(answer) => {
            let status = answer.into_inner().status();
            Ok(match status {
                ServingStatus::Serving => "ok".to_owned(),
                other => word(other.as_str_name(), ""),
            })
        }
        Err(status) if unknown(&status) => Ok("unknown".to_owned()),
        Err(status) => Err(status.into()),
    }
}

/// A platform that knows no such service, or has no health service, is still up.
fn unknown(status: &Status) -> bool {
    matches!(status.code(), Code::NotFound | Code::Unimplemented)
}

/// What the caller sees.
#[derive(Default)]
struct Counts {
    offices: usize,
    agents: usize,
    /// Those whose colony has too few credits for their calls.
    broke: usize,
    /// Layers of the sandbox that agents do without.
    missing: BTreeSet<String>,
}

impl Counts {
    fn add(&mut self, agents: Vec<Agent>) {
        self.agents += agents.len();
        let is_broke = |agent: &&Agent| {
            let reason = agent.status.as_ref().and_then(|status| rows::reason_word(&status.message));
            reason == Some("OUT_OF_CREDITS")
        };
        self.broke += agents.iter().filter(is_broke).count();
        let sandboxes = agents.into_iter().filter_map(|agent| agent.status?.sandbox);
        self.missing.extend(sandboxes.flat_map(|sandbox| sandbox.missing));
    }
}

/// Offices and agents within the caller's sight.
async fn counts(client: &Client, principal: &Principal) -> Result<Counts, Failure> {
    let mut counts = Counts::default();
    if principal.kind() == PrincipalKind::Agent {
        counts.offices = 1;
        counts.add(client.agents().list(&principal.office_id).await?);
        return Ok(counts);
    }
    let offices = client.offices().list().await?;
    counts.offices = offices.len();
    for office in &offices {
        match client.agents().list(&office.id).await {
            Ok(all) => counts.add(all),
            // One that was deleted meanwhile has none.
            Err(error) if error.code() == Some(Code::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(counts)
}
