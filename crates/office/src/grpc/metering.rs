//! `mi.internal.v1.MeteringService`.

use std::time::Duration;

use mi_credits::{Compute, Credits, Reserve, Running, Settle, Spender, Tokens};
use mi_integrations::Integrations;
use mi_kernel::{AgentId, CallId, Error, OfficeId, Result, TaskId, text::display_name};
use mi_proto::internal::v1::{
    self as wire, ChargeComputeRequest, ChargeComputeResponse, GetHireTermsRequest, GetHireTermsResponse,
    ReserveCreditsRequest, ReserveCreditsResponse, RunningAgent, SettleCreditsRequest, SettleCreditsResponse,
    TokenUsage, metering_service_server::MeteringService,
};
use mi_rpc::{Reply, convert, handle};
use mi_store::Db;
use mi_tasks::Tasks;
use tonic::Request;

/// For how long credits are set aside when nobody says.
const USUAL_VALID: Duration = Duration::from_secs(300);

/// Keeps credits for the roles that spend them.
pub(crate) struct Handler {
    db: Db,
    credits: Credits,
    tasks: Tasks,
    integrations: Integrations,
}

impl Handler {
    pub(crate) fn new(db: Db, credits: Credits, tasks: Tasks, integrations: Integrations) -> Self {
        Self { db, credits, tasks, integrations }
    }

    async fn reserve(&self, asked: ReserveCreditsRequest) -> Result<ReserveCreditsResponse> {
        let office_id = OfficeId::parse(&asked.office_id)?;
        let call_id = CallId::parse(&asked.call_id)?;
        let spender = spender(asked.spender)?;
        let said = match asked.task_id.as_str() {
            "" => None,
            // What is no id is nothing that the agent holds.
            id => TaskId::parse(id).ok(),
        };
        let valid_for = duration("valid_for", asked.valid_for)?.unwrap_or(USUAL_VALID);
        let provider = display_name("provider", &asked.provider)?;
        let model = display_name("model", &asked.model)?;
        let payer = self.tasks.payer(office_id, spender.agent_id, said).await?;
        let task_id = payer.map(|payer| payer.task_id.to_string()).unwrap_or_default();
        let reserve = Reserve { call_id, spender, payer, provider, model, amount: asked.amount, valid_for };
        self.credits.reserve(office_id, reserve).await?;
        Ok(ReserveCreditsResponse { task_id })
    }

    async fn settle(&self, asked: SettleCreditsRequest) -> Result<SettleCreditsResponse> {
        let office_id = OfficeId::parse(&asked.office_id)?;
        let settle = Settle {
            call_id: CallId::parse(&asked.call_id)?,
            amount: asked.amount,
            tokens: asked.usage.map(tokens),
            note: asked.note,
        };
        Ok(SettleCreditsResponse { amount: self.credits.settle(office_id, settle).await? })
    }

    async fn charge(&self, asked: ChargeComputeRequest) -> Result<()> {
        let office_id = OfficeId::parse(&asked.office_id)?;
        let until = asked.until.ok_or_else(|| Error::invalid("until", "is required"))?;
        let until = convert::time("until", &until)?;
        let at_most = duration("at_most", asked.at_most)?.unwrap_or_default();
        let running = |agent: RunningAgent| {
            let since = agent.since.ok_or_else(|| Error::invalid("since", "is required"))?;
            Ok(Running { spender: spender(agent.spender)?, since: convert::time("since", &since)? })
        };
        let agents = asked.agents.into_iter().map(running).collect::<Result<_>>()?;
        self.credits.charge(office_id, Compute { until, at_most, agents }).await.map(drop)
    }

    async fn hire_terms(&self, asked: GetHireTermsRequest) -> Result<GetHireTermsResponse> {
        let mut conn = self.db.office(OfficeId::parse(&asked.office_id)?).read().await?;
        Ok(GetHireTermsResponse {
            available: self.credits.balance_of(&mut conn).await?.available(),
            metered: self.credits.metered(),
            configured: self.integrations.configured(&mut conn).await?,
        })
    }
}

fn spender(given: Option<wire::Spender>) -> Result<Spender> {
    let given = given.ok_or_else(|| Error::invalid("spender", "is required"))?;
    Ok(Spender {
        agent_id: AgentId::parse(&given.agent_id)?,
        name: given.agent,
        lineage: given.lineage.iter().map(|id| AgentId::parse(id)).collect::<Result<_>>()?,
    })
}

fn tokens(used: TokenUsage) -> Tokens {
    let TokenUsage { input, output, cache_read, cache_write, reasoning } = used;
    Tokens {
        input: input.saturating_add(cache_read).saturating_add(cache_write),
        output: output.saturating_add(reasoning),
    }
}

fn duration(field: &'static str, given: Option<prost_types::Duration>) -> Result<Option<Duration>> {
    let wrong = |_| Error::invalid(field, "must not be negative");
    given.map(|given| Duration::try_from(given).map_err(wrong)).transpose()
}

#[tonic::async_trait]
impl MeteringService for Handler {
    async fn reserve_credits(&self, request: Request<ReserveCreditsRequest>) -> Reply<ReserveCreditsResponse> {
        handle!(request, |body| self.reserve(body).await?)
    }

    async fn settle_credits(&self, request: Request<SettleCreditsRequest>) -> Reply<SettleCreditsResponse> {
        handle!(request, |body| self.settle(body).await?)
    }

    async fn charge_compute(&self, request: Request<ChargeComputeRequest>) -> Reply<ChargeComputeResponse> {
        handle!(request, |body| {
            self.charge(body).await?;
            ChargeComputeResponse {}
        })
    }

    async fn get_hire_terms(&self, request: Request<GetHireTermsRequest>) -> Reply<GetHireTermsResponse> {
        handle!(request, |body| self.hire_terms(body).await?)
    }
}
