//! Agents that run elsewhere: how they are invited, how they join, and how they say that they are alive.

use mi_kernel::Error;
use mi_rpc::status;
use serde_json::json;

use super::{
    Reply, answer,
    ask::Ask,
    fields::Fields,
    shape::{Both, hex, key, text},
};

pub(super) async fn create(ask: Ask) -> Reply {
    let made = ask.call("AccessService/CreateInvite", json!({"office_id": ask.office()})).await?;
    let invite = &made["invite"];
    let shown = Both::default()
        .with("code", invite["code"].clone())
        .with("officeId", ask.office())
        .with("claim", invite["code"].clone())
        .with("expiresAt", invite["expires_at"].clone());
    Ok(answer::found(&shown.done()))
}

pub(super) async fn join(mut ask: Ask) -> Reply {
    let request = |body: &Fields| {
        let given = body.text("publicKey")?;
        if given.is_empty() {
            let problem =
                "is missing: 32 bytes of an Ed25519 public key, in hex or base64, whose private half stays with you";
            return Err(Error::invalid("public_key", problem));
        }
        let name = body.either(["agentName", "name"])?;
        Ok(json!({"code": body.text("code")?, "name": name, "public_key": key(given)}))
    };
    let (joined, _) = ask.send("AccessService/JoinOffice", request).await?;
    let agent = &joined["agent"];
    let shown = Both::default()
        .with("botId", agent["id"].clone())
        .with("agentId", agent["id"].clone())
        .with("officeId", joined["office_id"].clone())
        .with("agentName", agent["name"].clone())
        .with("publicKey", hex(&agent["public_key"]));
    Ok(answer::found(&shown.done()))
}

/// A sign of life. The agent's token says which office is meant.
pub(super) async fn heartbeat(ask: Ask) -> Reply {
    let who = ask.call("AccessService/WhoAmI", json!({})).await?;
    let office = text(&who["principal"]["office_id"]);
    if office.is_empty() {
        return Err(status(Error::denied("only agents send heartbeats, with their own token")));
    }
    ask.call("AccessService/Heartbeat", json!({"office_id": office})).await?;
    Ok(answer::found(&json!({"ok": true})))
}
