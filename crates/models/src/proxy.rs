//! A call, from its request to the moment when it is known what it may cost. From there on it is a [`Job`].

use std::sync::Arc;

use axum::{
    body::Body as HttpBody,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::header;
use mi_base::{Tasks, budget::Budget, metrics};
use mi_catalogue::{Catalogue, Catalogues, Provider, Tool};
use mi_kernel::{Actor, AgentActor, CallId, Error, Result, secret::Secret};
use mi_proto::internal::v1::{ReserveCreditsRequest, Spender};
use mi_rpc::{
    HttpCaller,
    vendor::{self, Form},
};
use tokio::sync::oneshot;
use tracing::{Instrument, field::Empty};

use crate::{
    Limits, ModelsConfig, allowed,
    asked::{Asked, Body, Ceiling},
    body,
    broker::Outside,
    headers,
    job::{Job, Paid},
    keys::Keys,
    ledger::Ledger,
    price,
    route::{self, Call, Route},
    slots::Slots,
    spenders::Spenders,
    upstream::{Outgoing, Upstream},
};

/// The name under which the role calls others.
const OWN: &str = "models";
/// Header of the task that the agent says it works on.
const TASK_HEADER: &str = "mi-task-id";
/// Where `max_completion_tokens` is known. Servers that speak the same protocol know the older word, all of them.
const OPENAI_HOST: &str = "api.openai.com";

/// What all calls share.
pub(crate) struct Proxy {
    pub(crate) catalogues: Catalogues,
    pub(crate) spenders: Spenders,
    pub(crate) keys: Keys,
    pub(crate) ledger: Ledger,
    pub(crate) upstream: Upstream,
    pub(crate) outside: Outside,
    pub(crate) slots: Slots,
    pub(crate) bodies: Budget,
    pub(crate) limits: Limits,
    tasks: Tasks,
}

impl Proxy {
    pub(crate) fn new(config: ModelsConfig, tasks: &Tasks) -> Result<Self> {
        let ModelsConfig { catalogues, office, scheduler, limits } = config;
        Ok(Self {
            catalogues,
            spenders: Spenders::new(scheduler, OWN),
            keys: Keys::new(office.clone(), OWN),
            ledger: Ledger::new(office, OWN, limits.settled_within, tasks),
            upstream: Upstream::new(&limits)?,
            outside: Outside::new(&limits)?,
            slots: Slots::default(),
            bodies: Budget::new(limits.request_bytes),
            limits,
            tasks: tasks.clone(),
        })
    }

    async fn answer(self: Arc<Self>, request: Request) -> Result<Response> {
        let (parts, http_body) = request.into_parts();
        let caller = parts.extensions.get::<HttpCaller>().cloned();
        let caller = caller.ok_or_else(|| Error::unauthenticated("the call carries no principal"))?;
        let Actor::Agent(agent) = &caller.actor else {
            return Err(Error::denied("only agents call models here"));
        };
        let path = parts.uri.path();
        let nowhere = || Error::not_found("path", path.chars().take(200).collect::<String>());
        let route = route::find(&parts.method, path).ok_or_else(nowhere)?;
        let catalogue = self.catalogues.current();
        let provider = catalogue.provider("provider", route.provider).map_err(|_| nowhere())?;
        if !route.call.belongs_to(provider.api) {
            return Err(nowhere());
        }
        let spender = self.spenders.get(agent).await?;
        let spending = allowed::working(&spender)?;
        allowed::enabled(&catalogue, &spender, spending, provider)?;
        if route.call == Call::Models {
            let list = allowed::list(&catalogue, &spender, spending, provider);
            return Ok(([(header::CONTENT_TYPE, "application/json")], list.to_string()).into_response());
        }
        let slot = self.slots.take(&self.limits, agent, &provider.name)?;
        let Route { call, model: in_path, .. } = route;
        let passed = headers::outgoing(&parts.headers)?;
        let task = parts.headers.get(TASK_HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (bytes, share) = body::read(http_body, agent.office_id, &self.bodies, self.limits.request).await?;
        let body = Body::read(call, &bytes)?;
        let asked = in_path.unwrap_or(&body.asked.model);
        if asked.is_empty() {
            return Err(Error::invalid("model", "is missing"));
        }
        let chosen = allowed::model(&catalogue, &spender, spending, provider, asked)?;
        let tools = priced(&catalogue, provider, &body.asked)?;
        let newer = provider.base_url.host_str() == Some(OPENAI_HOST);
        let each = body.asked.ceiling.unwrap_or(if has_ceiling(call) { chosen.model.max_output } else { 0 });
        // Others may know but the older name of a ceiling: there it is set to the one that was asked for.
        let missing = body.asked.ceiling.is_none() || (call == Call::Chat && !newer);
        let ceiling = (missing && has_ceiling(call) && each > 0).then_some(Ceiling { tokens: each, newer });
        let output = each.saturating_mul(body.asked.answers).saturating_add(body.asked.extra_output);
        // Whatever a request points at, the model is shown no more than it can take.
        let window = chosen.model.context.map(|context| context.saturating_add(body::length(&bytes)));
        let input = body.asked.input.min(window.unwrap_or(i64::MAX));
        let bound = price::bound(&chosen.model.price, body.asked.caches, input, output, tools);
        let bound = bound.ok_or_else(|| Error::invalid("body", "asks for more than can be counted"))?;
        let mut outgoing = Outgoing {
            url: call.url(provider, &chosen.name, parts.uri.query()),
            headers: passed,
            body: body.sent(call, &bytes, &chosen.name, ceiling).into(),
        };
        let (streamed, keeps_usage) = (body.asked.stream, body.asked.wants_usage);
        // What was read of it takes many times its bytes, and is not to wait for another role.
        drop((body, bytes));
        let mut keys = Vec::new();
        for (name, value) in self.keys.headers(agent.office_id, &catalogue, provider).await? {
            keys.extend(value.to_str().ok().map(|text| Secret::new(text.trim_start_matches("Bearer "))));
            outgoing.headers.insert(name, value);
        }
        let span = tracing::debug_span!(
            target: "mi::models",
            "model",
            otel.name = format!("{} {}", call.operation(), chosen.model.id),
            otel.kind = "client",
            gen_ai.operation.name = call.operation(),
            gen_ai.system = provider.name,
            gen_ai.provider.name = provider.name,
            gen_ai.request.model = chosen.name,
            gen_ai.response.model = Empty,
            gen_ai.usage.input_tokens = Empty,
            gen_ai.usage.output_tokens = Empty,
            mi.cost = Empty,
            mi.task = Empty,
            error.r#type = Empty,
        );
        caller.trace.adopt(&span);
        let paid = (!call.is_free()).then(|| Paid {
            reservation: reservation(agent, &spender.lineage, task, provider, &chosen.model.id, bound, &self.limits),
            output,
        });
        let job = Job {
            proxy: Arc::clone(&self),
            call,
            streamed,
            drops_usage: call == Call::Chat && streamed && !keeps_usage,
            model: chosen.model.clone(),
            asked: chosen.name,
            catalogue: Arc::clone(&catalogue),
            keys,
            paid,
            span: span.clone(),
            _slot: slot,
        };
        let (head, answered) = oneshot::channel();
        // A task of its own: whatever becomes of the client, the call is settled.
        self.tasks.spawn_to_end("models-call", job.run((outgoing, share), head).instrument(span));
        // What became of it is counted there.
        let answer = answered.await.map_err(Error::internal)?;
        Ok(answer.unwrap_or_else(|error| vendor::refusal(call.form(), &error).map(HttpBody::new)))
    }
}

/// Answers one request.
pub(crate) async fn handle(State(proxy): State<Arc<Proxy>>, request: Request) -> Response {
    let form = Form::of_path(request.uri().path());
    let is_model = request.uri().path().starts_with("/llm/");
    let answered = if is_model { proxy.answer(request).await } else { proxy.broker(request).await };
    answered.unwrap_or_else(|error| {
        if is_model {
            // Models and providers that were not found have no label of their own.
            metrics::model_call("", "", "refused");
        }
        vendor::refusal(form, &error).map(HttpBody::new)
    })
}

fn has_ceiling(call: Call) -> bool {
    matches!(call, Call::Messages | Call::Chat | Call::Responses | Call::Generate | Call::StreamGenerate)
}

/// What tools of the provider may cost at most.
fn priced(catalogue: &Catalogue, provider: &Provider, asked: &Asked) -> Result<i64> {
    let mut sum = 0i64;
    for (kind, uses) in &asked.tools {
        let is_it = |tool: &&Tool| tool.provider == provider.name && kind.starts_with(&tool.name);
        let tool = catalogue.tools.iter().find(is_it).ok_or_else(|| {
            let shown: String = kind.chars().take(80).collect();
            let problem = format!("has {shown:?}, which the provider runs and bills, and which has no price here");
            Error { reason: "UNPRICED", ..Error::invalid("tools", problem) }
        })?;
        sum = sum.saturating_add(tool.price.saturating_mul(*uses));
    }
    Ok(sum)
}

fn reservation(
    agent: &AgentActor,
    lineage: &[String],
    task: &str,
    provider: &Provider,
    model: &str,
    amount: i64,
    limits: &Limits,
) -> ReserveCreditsRequest {
    ReserveCreditsRequest {
        office_id: agent.office_id.to_string(),
        call_id: CallId::new().to_string(),
        spender: Some(Spender {
            agent_id: agent.agent_id.to_string(),
            agent: agent.name.clone(),
            lineage: lineage.to_vec(),
        }),
        task_id: task.to_owned(),
        provider: provider.name.clone(),
        model: model.to_owned(),
        amount,
        valid_for: prost_types::Duration::try_from(limits.reserved_for).ok(),
    }
}
