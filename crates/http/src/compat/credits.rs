//! Credits, and what they were used for. That product counts in credits; the ledger here in micro-credits.

use mi_kernel::Error;
use serde_json::{Value, json};
use tonic::Status;

use super::{
    Reply, answer,
    ask::Ask,
    list::{self, Window},
    shape::{credits, entries, int, micro, text},
};

/// The key of the time for which agents ran, among those of models.
const COMPUTE: &str = "compute";

pub(super) async fn balance(ask: Ask) -> Reply {
    let answer = ask.call("CreditService/GetBalance", json!({"office_id": ask.office()})).await?;
    let balance = credits(int(&answer["balance"]["balance"]));
    Ok(answer::found(&json!({"office_id": ask.office(), "balance": balance})))
}

pub(super) async fn grant(mut ask: Ask) -> Reply {
    let office = ask.office().to_owned();
    let request = move |body: &super::fields::Fields| {
        let amount = body.get("amount").ok_or_else(|| Error::invalid("amount", "is missing"))?;
        let reason = Some(body.text("reason")?).filter(|reason| !reason.is_empty()).unwrap_or("grant");
        Ok(json!({"office_id": office, "amount": micro("amount", amount)?.to_string(), "reason": reason}))
    };
    let (granted, _) = ask.send("CreditService/GrantCredits", request).await?;
    let balance = credits(int(&granted["entry"]["balance_after"]));
    Ok(answer::found(&json!({"office_id": ask.office(), "balance": balance})))
}

pub(super) async fn history(ask: Ask) -> Reply {
    let window = Window::of(&ask)?;
    let request = json!({"office_id": ask.office()});
    let page = list::walk(&ask, "CreditService/ListLedgerEntries", request, "entries", window, list::any).await?;
    let shown = |entry: &Value| {
        json!({
            "id": entry["id"],
            "office_id": ask.office(),
            "amount": credits(int(&entry["amount"])),
            "balance_after": credits(int(&entry["balance_after"])),
            "reason": entry["reason"],
            "created_at": entry["time"],
        })
    };
    Ok(answer::list(page.entries.iter().map(shown).collect(), page.total))
}

async fn used(ask: &Ask, group: &str) -> Result<Vec<Value>, Status> {
    let request = json!({"office_id": ask.office(), "group_by": format!("USAGE_GROUP_{group}")});
    let answer = ask.call("CreditService/GetUsage", request).await?;
    Ok(entries(&answer["usages"]).to_vec())
}

/// What agents cost by the time for which they ran, in the last 30 days. Hours of processors and memory are not measured
/// here, so they are 0.
pub(super) async fn usage(ask: Ask) -> Reply {
    let (models, agents) = futures::try_join!(used(&ask, "MODEL"), used(&ask, "AGENT"))?;
    let compute = models.iter().find(|usage| usage["key"] == COMPUTE);
    let pod = |usage: &Value| json!({"name": usage["key"], "total_credits": credits(int(&usage["amount"]))});
    Ok(answer::found(&json!({
        "cpu_core_hours": 0,
        "memory_gib_hours": 0,
        "total_credits": credits(compute.map(|usage| int(&usage["amount"])).unwrap_or_default()),
        "pods": agents.iter().map(pod).collect::<Vec<_>>(),
    })))
}

/// What models cost in the last 30 days.
pub(super) async fn model_usage(ask: Ask) -> Reply {
    let (models, agents) = futures::try_join!(used(&ask, "MODEL"), used(&ask, "AGENT"))?;
    Ok(answer::found(&summary(&models, &agents)))
}

pub(super) fn summary(models: &[Value], agents: &[Value]) -> Value {
    let models = || models.iter().filter(|usage| usage["key"] != COMPUTE);
    let tokens = |usage: &Value| int(&usage["input_tokens"]) + int(&usage["output_tokens"]);
    let cost = credits(models().map(|usage| int(&usage["amount"])).sum());
    let agent = |usage: &Value| {
        json!({
            "agent": text(&usage["key"]),
            "name": text(&usage["key"]),
            "input_tokens": int(&usage["input_tokens"]),
            "output_tokens": int(&usage["output_tokens"]),
            "total_tokens": tokens(usage),
            "calls": int(&usage["calls"]),
            "total_credits": credits(int(&usage["amount"])),
        })
    };
    json!({
        "total_tokens": models().map(tokens).sum::<i64>(),
        "total_cost": cost,
        "total_credits": cost,
        "agents": agents.iter().map(agent).collect::<Vec<_>>(),
    })
}
