//! `mi.v1.CreditService`.

use mi_kernel::page::Page;
use mi_proto::v1::{self, credit_service_server::CreditService};
use mi_rpc::{Reply, convert, handle};
use tonic::Request;

use super::{Balance, Credits, Entry, model::Usage};

/// A balance for the wire, in micro-credits.
pub(super) fn balance(has: Balance) -> v1::Balance {
    v1::Balance { available: has.available(), balance: has.balance, reserved: has.reserved }
}

fn to_wire(entry: Entry) -> v1::LedgerEntry {
    v1::LedgerEntry {
        id: entry.id.to_string(),
        amount: entry.amount,
        balance_after: entry.balance_after,
        reason: entry.reason,
        reference: entry.reference,
        time: Some(convert::timestamp(entry.entered_at)),
    }
}

fn usage((key, used): (String, Usage)) -> v1::Usage {
    let Usage { amount, tokens, calls } = used;
    v1::Usage { key, amount, input_tokens: tokens.input, output_tokens: tokens.output, calls }
}

#[tonic::async_trait]
impl CreditService for Credits {
    async fn get_balance(&self, request: Request<v1::GetBalanceRequest>) -> Reply<v1::GetBalanceResponse> {
        handle!(request, |caller, body| {
            let has = Credits::balance(self, &caller, &body.office_id).await?;
            let budget = match body.agent.as_str() {
                "" => None,
                agent => Some(self.budget(&caller, &body.office_id, agent).await?),
            };
            v1::GetBalanceResponse { balance: Some(balance(has)), budget }
        })
    }

    async fn list_ledger_entries(
        &self,
        request: Request<v1::ListLedgerEntriesRequest>,
    ) -> Reply<v1::ListLedgerEntriesResponse> {
        handle!(request, |caller, v1::ListLedgerEntriesRequest { office_id, page_size, page_token }| {
            let (entries, next_page_token) =
                self.list(&caller, &office_id, &Page::parse(page_size, &page_token)?).await?;
            v1::ListLedgerEntriesResponse { entries: entries.into_iter().map(to_wire).collect(), next_page_token }
        })
    }

    async fn grant_credits(&self, request: Request<v1::GrantCreditsRequest>) -> Reply<v1::GrantCreditsResponse> {
        handle!(request, |caller, body| {
            let entry = self.grant(&caller, &body).await?;
            v1::GrantCreditsResponse { entry: Some(to_wire(entry)) }
        })
    }

    async fn get_usage(&self, request: Request<v1::GetUsageRequest>) -> Reply<v1::GetUsageResponse> {
        handle!(request, |caller, body| {
            let usages = self.usage(&caller, &body).await?;
            v1::GetUsageResponse { usages: usages.into_iter().map(usage).collect() }
        })
    }

    async fn set_agent_budget(&self, request: Request<v1::SetAgentBudgetRequest>) -> Reply<v1::SetAgentBudgetResponse> {
        handle!(request, |caller, body| v1::SetAgentBudgetResponse {
            agent: Some(self.set_budget(&caller, body).await?)
        })
    }
}
