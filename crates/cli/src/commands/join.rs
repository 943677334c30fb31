//! `mi invite` and `mi join`.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use mi_base::files::write_private;
use mi_client::{AgentKey, Client, Credential, KeyRing, once, retry};
use mi_kernel::{AgentId, text::new_agent_name};
use mi_proto::v1::{CreateInviteRequest, GetAgentRequest, HeartbeatRequest, JoinOfficeRequest};
use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval};
use tonic::Code;

use crate::{
    answer::resource,
    commands::access::principal,
    context::{Context, KEY_FILE},
    failure::Failure,
    options::{ColonyArg, Global},
    output::Output,
    runtime::stop_signal,
};

/// What the platform expects of an external agent.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// File in the identity directory, beside the key.
const AGENT_FILE: &str = "agent.json";

#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// The invite's code; none: go on as the agent that joined before
    #[arg(value_name = "CODE", requires = "name")]
    code: Option<String>,
    /// The agent's name in the colony
    #[arg(long, required_unless_present = "identity_dir")]
    name: Option<String>,
    /// Where the agent's key is kept [default: agents/NAME in the configuration directory]
    #[arg(long, value_name = "DIR")]
    identity_dir: Option<PathBuf>,
    /// End after one heartbeat
    #[arg(long)]
    once: bool,
}

/// Who the key in the same directory signs as, and where.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Joined {
    endpoint: String,
    agent_id: AgentId,
}

pub(crate) async fn invite(colony: ColonyArg, context: &Context) -> Result<(), Failure> {
    let office_id = context.colony(&colony).await?;
    // Not tried again: a code that got lost would stay open.
    let answer = once(context.client.access().create_invite(CreateInviteRequest { office_id })).await?;
    let invite = resource(answer, |answer| answer.invite)?;
    context.out.one(&invite)?;
    let endpoint = &context.settings.endpoint;
    context.out.note(&format!("one agent can join with: mi join {} --name NAME --endpoint {endpoint}", invite.code));
    Ok(())
}

pub(crate) async fn join(args: JoinArgs, global: &Global, context: &Context) -> Result<(), Failure> {
    let dir = match (args.identity_dir, &args.name) {
        (Some(dir), _) => dir,
        (None, Some(name)) => {
            // Also keeps the name from leading elsewhere.
            let name = new_agent_name("name", name).map_err(|error| Failure::Usage(error.message))?;
            context.settings.dir.join("agents").join(name)
        }
        (None, None) => return Err(Failure::Usage("whose identity? give --name or --identity-dir".into())),
    };
    let (known, out) = (Joined::load(&dir)?, context.out);
    let client = match (args.code, known) {
        (Some(code), None) => enter(context, code, args.name.unwrap_or_default(), &dir).await?,
        (None, Some(joined)) => {
            let given = global.endpoint.clone().filter(|endpoint| !endpoint.is_empty());
            let endpoint = given.unwrap_or_else(|| joined.endpoint.clone());
            let there = Context::new(&Global { endpoint: Some(endpoint), ..global.clone() })?;
            let key = AgentKey::load(&dir.join(KEY_FILE))?;
            let lost = || Failure::new(format!("the key of {} is lost", dir.display())).hint("join with a new invite");
            as_agent(&there.client, joined.agent_id, key.ok_or_else(lost)?)?
        }
        (Some(_), Some(joined)) => {
            let text = format!("{} holds the identity of agent {} already", dir.display(), joined.agent_id);
            return Err(Failure::new(text).hint("leave the code out to go on as it, or give another --identity-dir"));
        }
        (None, None) => {
            let text = format!("nobody joined yet with the identity directory {}", dir.display());
            return Err(Failure::new(text).hint("`mi invite` makes the code to join with: mi join CODE --name NAME"));
        }
    };
    let principal = principal(&client).await?;
    let request = GetAgentRequest { office_id: principal.office_id.clone(), name: principal.agent };
    let answer = retry(async || client.agents().get_agent(request.clone()).await).await?;
    out.one(&resource(answer, |answer| answer.agent)?)?;
    if args.once {
        let beat = HeartbeatRequest { office_id: principal.office_id };
        retry(async || client.access().heartbeat(beat.clone()).await).await?;
        return Ok(());
    }
    out.note("heartbeats go out until this is ended");
    let stop = stop_signal()?;
    tokio::select! {
        () = stop => Ok(()),
        ended = stay(&client, principal.office_id, out) => ended,
    }
}

/// Joins with a key of its own. What is kept before the call lets the same command be repeated when its answer is lost.
async fn enter(context: &Context, code: String, name: String, dir: &Path) -> Result<Client, Failure> {
    let unusable = |error: io::Error| Failure::io(format!("{} cannot be written", dir.display()), &error);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unusable)?;
    let path = dir.join(KEY_FILE);
    let key = match AgentKey::load(&path)? {
        Some(key) => key,
        None => AgentKey::generate(&path)?,
    };
    let anonymous = context.client.with_credential(Credential::None)?;
    let request = JoinOfficeRequest { code, name, public_key: key.public_key().to_vec().into() };
    // The same code, name and key again answer the same agent.
    let joined = retry(async || anonymous.access().join_office(request.clone()).await).await;
    let answer = joined.map_err(|status| match status.code() {
        // No login helps here.
        Code::Unauthenticated => {
            Failure::from(status).hint("a code is good once and for a day; `mi invite` makes a new one")
        }
        _ => status.into(),
    })?;
    let agent = resource(answer, |answer| answer.agent)?;
    let agent_id = AgentId::parse(&agent.id).map_err(|error| Failure::new(error.message))?;
    Joined { endpoint: context.settings.endpoint.clone(), agent_id }.save(dir).map_err(unusable)?;
    context.out.note(&format!("joined as {}; its key is in {}", agent.name, dir.display()));
    as_agent(&context.client, agent_id, key)
}

fn as_agent(client: &Client, agent_id: AgentId, key: AgentKey) -> Result<Client, Failure> {
    Ok(client.with_credential(Credential::Agent { agent_id, key: Arc::new(KeyRing::new(key)) })?)
}

/// Sends heartbeats for ever, through outages and suspensions, until the agent is not wanted any more.
async fn stay(client: &Client, office_id: String, out: Output) -> Result<(), Failure> {
    let mut due = interval(HEARTBEAT);
    // After a pause of the whole machine one is enough.
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut trouble = None;
    loop {
        due.tick().await;
        let beat = HeartbeatRequest { office_id: office_id.clone() };
        let Err(status) = once(client.access().heartbeat(beat)).await else {
            if trouble.take().is_some() {
                out.note("heard again");
            }
            continue;
        };
        match status.code() {
            Code::Unauthenticated => {
                return Err(Failure::from(status).hint("the agent was fired, or the clock of this machine is wrong"));
            }
            Code::NotFound | Code::PermissionDenied | Code::InvalidArgument | Code::Unimplemented => {
                return Err(status.into());
            }
            code if trouble != Some(code) => {
                trouble = Some(code);
                out.note(&format!("not heard at the moment: {}", Failure::from(status).to_string().trim_end()));
            }
            _ => {}
        }
    }
}

impl Joined {
    fn load(dir: &Path) -> Result<Option<Self>, Failure> {
        let path = dir.join(AGENT_FILE);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|error| Failure::new(format!("{} is broken: {error}", path.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::io(format!("{} cannot be read", path.display()), &error)),
        }
    }

    fn save(&self, dir: &Path) -> io::Result<()> {
        write_private(&dir.join(AGENT_FILE), &serde_json::to_vec(self)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_joined_is_read_back_and_a_broken_file_is_named() {
        let dir = tempfile::tempdir().expect("temp dir");
        assert!(Joined::load(dir.path()).expect("no file is no error").is_none());
        let joined = Joined { endpoint: "http://127.0.0.1:1".into(), agent_id: AgentId::new() };
        joined.save(dir.path()).expect("saved");
        let loaded = Joined::load(dir.path()).expect("readable").expect("there");
        assert_eq!((loaded.endpoint, loaded.agent_id), (joined.endpoint, joined.agent_id));
        fs::write(dir.path().join(AGENT_FILE), "{}").expect("written");
        assert!(Joined::load(dir.path()).expect_err("broken").to_string().contains(AGENT_FILE));
    }
}
