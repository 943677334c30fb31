//! From inside: a throw-away agent of the neighbour tries files, sockets, processes and its own token, and says what came
//! of it in its log; and a planted secret is looked for in all that can be read.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use mi_agent::check::{ADDRESSES, ASK, DONE, LINE, PATHS, POD_ADDRESSES};
use mi_kernel::secret::Secret;
use mi_proto::v1::{
    EmployeeType, GetAgentRequest, HireAgentRequest, IsolationState, ListActivityRequest, ListLogsRequest, LogLine,
    SetIntegrationSecretRequest,
};
use serde::Deserialize;
use tokio::net::TcpListener;

use super::{Report, neighbour::Neighbour};
use crate::{
    answer::{ask, resource},
    context::Context,
    failure::Failure,
};

const AGENT: &str = "isolation-check-inside";
/// How long the agent may take to start and to try everything.
const LIMIT: Duration = Duration::from_secs(60);
/// The same where it is a pod: it gets a node, a volume and an image before.
const POD_LIMIT: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(200);
/// Stand for a neighbour, the metadata service of a cloud, and the Internet.
const ELSEWHERE: [Ipv4Addr; 3] = [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 169, 254, 169)];

/// The metadata service of most clouds, which a pod must not reach. What stands for it on this machine is nothing to a pod.
const METADATA: &str = "169.254.169.254:80";

/// What the agent says of one probe.
#[derive(Deserialize)]
struct Said {
    layer: String,
    probe: String,
    #[serde(default)]
    hole: bool,
    /// Where it runs there is no such layer.
    #[serde(default)]
    absent: bool,
    detail: String,
}

pub(super) async fn probe(report: &mut Report, neighbour: &Neighbour, context: &Context) -> Result<(), Failure> {
    let secret = Secret::random("planted-");
    plant(neighbour, context, &secret).await?;
    // Kept open: whoever gets out is answered.
    let listeners = listeners().await;
    let addresses: Vec<String> =
        listeners.iter().filter_map(|listener| listener.local_addr().ok()).map(|address| address.to_string()).collect();
    let paths: Vec<String> = match &context.settings.data_dir {
        None => Vec::new(),
        Some(dir) => ["admin.key", "master.key", "office.db", "scheduler.db", "agents"]
            .map(|name| dir.join(name).display().to_string())
            .to_vec(),
    };
    let env = [
        (ASK, "1".to_owned()),
        (PATHS, paths.join(":")),
        (ADDRESSES, addresses.join(",")),
        (POD_ADDRESSES, METADATA.to_owned()),
    ];
    let request = HireAgentRequest {
        office_id: neighbour.office_id.clone(),
        name: AGENT.into(),
        env: env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<HashMap<_, _>>(),
        ..HireAgentRequest::default()
    };
    let hired = resource(context.client.agents().hire_agent(request).await?, |answer| answer.agent)?;
    let limit = if hired.employee_type() == EmployeeType::Kubernetes { POD_LIMIT } else { LIMIT };
    let lines = wait(neighbour, context, limit).await?;
    for line in &lines {
        let Some(said) = line.text.strip_prefix(LINE).and_then(|json| serde_json::from_str::<Said>(json).ok()) else {
            continue;
        };
        let state = match (said.absent, said.hole) {
            (true, _) => IsolationState::Absent,
            (false, true) => IsolationState::Hole,
            (false, false) => IsolationState::Holds,
        };
        report.add(&said.layer, format!("{} from inside an agent", said.probe), state, said.detail);
    }
    if !lines.iter().any(|line| line.text == DONE) {
        let detail = format!("the agent did not finish it{}", trouble(neighbour, context).await?);
        report.add("sandbox", "a check from inside an agent", IsolationState::Hole, detail);
    }
    search(report, neighbour, context, &secret, &lines).await
}

/// Loopback addresses other than the platform's, where the platform is on this machine.
async fn listeners() -> Vec<TcpListener> {
    let mut bound = Vec::new();
    for address in ELSEWHERE {
        // What this system does not give as a loopback address is left out.
        if let Ok(listener) = TcpListener::bind(SocketAddr::new(IpAddr::V4(address), 0)).await {
            bound.push(listener);
        }
    }
    bound
}

async fn plant(neighbour: &Neighbour, context: &Context, secret: &Secret) -> Result<(), Failure> {
    let request = SetIntegrationSecretRequest {
        office_id: neighbour.office_id.clone(),
        integration: "github".into(),
        name: "token".into(),
        value: secret.expose().to_owned(),
    };
    ask!(context, integrations.set_integration_secret(request)).await?;
    Ok(())
}

/// The lines of the agent's log, once it has tried everything or had its time.
async fn wait(neighbour: &Neighbour, context: &Context, limit: Duration) -> Result<Vec<LogLine>, Failure> {
    let request = ListLogsRequest {
        office_id: neighbour.office_id.clone(),
        agent: AGENT.into(),
        limit: Some(1000),
        ..ListLogsRequest::default()
    };
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        // Before its first line the agent has no log.
        let lines = match context.client.logs().list_logs(request.clone()).await {
            Ok(answer) => answer.into_inner().lines,
            Err(status) if status.code() == tonic::Code::NotFound => Vec::new(),
            Err(status) => return Err(status.into()),
        };
        if tokio::time::Instant::now() >= deadline || lines.iter().any(|line| line.text == DONE) {
            return Ok(lines);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What keeps the agent from running, for the end of a sentence.
async fn trouble(neighbour: &Neighbour, context: &Context) -> Result<String, Failure> {
    let request = GetAgentRequest { office_id: neighbour.office_id.clone(), name: AGENT.into() };
    let agent = resource(context.client.agents().get_agent(request).await?, |answer| answer.agent)?;
    let message = agent.status.map(|status| status.message).unwrap_or_default();
    Ok(if message.is_empty() { message } else { format!(": {message}") })
}

/// The planted secret must be in nothing that can be read.
async fn search(
    report: &mut Report,
    neighbour: &Neighbour,
    context: &Context,
    secret: &Secret,
    lines: &[LogLine],
) -> Result<(), Failure> {
    let feed = ListActivityRequest { office_id: neighbour.office_id.clone(), ..ListActivityRequest::default() };
    let feed = context.client.activity().list_activity(feed).await?.into_inner();
    // A request with the secret where none belongs: the refusal must not repeat it.
    let wrong = SetIntegrationSecretRequest {
        office_id: neighbour.office_id.clone(),
        integration: "github".into(),
        name: "no such name".into(),
        value: secret.expose().to_owned(),
    };
    let refusal = context.client.integrations().set_integration_secret(wrong).await;
    for (place, text) in [
        ("the feed", format!("{feed:?}")),
        ("the logs of an agent", format!("{lines:?}")),
        ("an error", format!("{refusal:?}")),
    ] {
        let outcome = match text.contains(secret.expose()) {
            true => Ok("it is there".to_owned()),
            false => Err("it is not there".to_owned()),
        };
        report.refused("secrets", format!("find a planted secret in {place}"), outcome);
    }
    Ok(())
}
