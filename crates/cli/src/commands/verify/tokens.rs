//! Credentials that must not work: used ones, forged ones, ones for somebody else, and those of a fired agent.

use std::time::{Duration, Instant};

use mi_client::AgentKey;
use mi_kernel::{Clock, SystemClock};
use mi_proto::v1::{FireAgentRequest, JoinOfficeRequest, WatchActivityRequest, WhoAmIRequest};
use tonic::{Code, Request, Status};

use super::{Report, neighbour::Neighbour};
use crate::{answer::ask, context::Context, failure::Failure};

/// How long open streams of a fired agent may last.
const SOON: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(10);
/// Longer than any token lives.
const AGO: Duration = Duration::from_secs(3600);

pub(super) async fn probe(report: &mut Report, neighbour: &Neighbour, context: &Context) -> Result<(), Failure> {
    let (id, now, key) = (neighbour.agent_id, SystemClock.now(), neighbour.key.current());
    let dir = tempfile::tempdir().map_err(|error| Failure::io("no temporary directory", &error))?;
    let other = AgentKey::generate(&dir.path().join("other.key"))?;
    let good = key.token(id, now)?;
    if let Err(status) = who(neighbour, &good).await {
        return Err(Failure::new(format!("a good token is refused: {}", status.message())));
    }
    // {"alg":"none"}
    let unsigned = good.split('.').nth(1).map(|claims| format!("eyJhbGciOiJub25lIn0.{claims}.")).unwrap_or_default();
    for (probe, token) in [
        ("a token for another audience", key.token_for(id, "elsewhere", now)?),
        ("an expired token", key.token(id, now - AGO)?),
        ("a token signed with another key", other.token(id, now)?),
        ("a token without a signature (alg none)", unsigned),
    ] {
        report.refused("identity", probe, refused(who(neighbour, &token).await));
    }
    let join = JoinOfficeRequest {
        code: neighbour.code.clone(),
        name: "isolation-check-again".into(),
        public_key: other.public_key().to_vec().into(),
    };
    let again = neighbour.anonymous.access().join_office(join).await.map(drop);
    report.refused("identity", "use an invite twice", refused(again));

    let watch = WatchActivityRequest {
        office_id: neighbour.office_id.clone(),
        agent: "nobody".into(),
        ..WatchActivityRequest::default()
    };
    let mut stream = neighbour.client.activity().watch_activity(watch).await?.into_inner();
    let fire = FireAgentRequest { office_id: neighbour.office_id.clone(), name: neighbour.agent.clone(), force: true };
    ask!(context, agents.fire_agent(fire)).await?;
    let fired = Instant::now();
    let ended = tokio::time::timeout(LONG, stream.message()).await;
    let outcome = match ended {
        Ok(Err(status)) if fired.elapsed() <= SOON => Err(format!("{:?} at once", status.code())),
        Ok(Err(_)) => Ok(format!("it ended after {:.1} s", fired.elapsed().as_secs_f64())),
        Ok(Ok(_)) | Err(_) => Ok("it goes on".to_owned()),
    };
    report.refused("identity", "an open stream of a fired agent", outcome);
    report.refused("identity", "the token of a fired agent", refused(who(neighbour, &good).await));
    Ok(())
}

fn refused(outcome: Result<(), Status>) -> Result<String, String> {
    match outcome {
        Ok(()) => Ok("it was taken".into()),
        Err(status) if status.code() == Code::Unauthenticated => Err("UNAUTHENTICATED".into()),
        Err(status) => Ok(format!("{:?}: {}", status.code(), status.message())),
    }
}

async fn who(neighbour: &Neighbour, token: &str) -> Result<(), Status> {
    let mut request = Request::new(WhoAmIRequest {});
    let value = format!("Bearer {token}").parse().map_err(|_| Status::internal("a token is ASCII"))?;
    request.metadata_mut().insert("authorization", value);
    neighbour.anonymous.access().who_am_i(request).await.map(drop)
}
