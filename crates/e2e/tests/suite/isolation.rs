//! Another account's office does not exist, whatever is asked of it.

use mi_e2e::{World, refusal};
use mi_proto::v1::{self, AgentPhase};
use mi_testkit::{Arrangement, Backend, on_both};
use tonic::{Code, Status};

on_both! { foreign_is_not_found, keys_are_of_one_account }

async fn foreign_is_not_found(backend: Backend) {
    let world = World::start(backend, Arrangement::OneProcess).await;
    let office = world.office("Private").await;
    world.hire(&office, "analyst").await.expect("hired");
    world.settled(&office, "analyst", AgentPhase::Running).await;
    let stranger = world.stranger().await;
    assert_eq!(stranger.offices().list().await.expect("listed"), []);

    let unknown = uuid::Uuid::now_v7().to_string();
    let foreign = ask_everything(&stranger, &office).await;
    let missing = ask_everything(&stranger, &unknown).await;
    for ((method, foreign), (_, missing)) in foreign.into_iter().zip(missing) {
        assert_eq!(foreign.code(), Code::NotFound, "{method}: {foreign}");
        // The same but for the id: nothing tells an office of others from none at all.
        assert_eq!(foreign.message().replace(&office, "ID"), missing.message().replace(&unknown, "ID"), "{method}");
        assert_eq!(foreign.details().len(), missing.details().len(), "{method}");
    }
    // Nothing of it had an effect.
    let agent = world.settled(&office, "analyst", AgentPhase::Running).await;
    assert_eq!((agent.generation, agent.status.expect("has one").restarts), (1, 0));
    // The administrator may.
    let get = v1::GetOfficeRequest { office_id: office.clone() };
    assert_eq!(
        world.admin.offices().get_office(get).await.expect("seen").into_inner().office.expect("there").id,
        office
    );
}

/// Every RPC about an office, as a stranger.
async fn ask_everything(stranger: &mi_client::Client, office: &str) -> Vec<(&'static str, Status)> {
    macro_rules! refused {
        ($($client:ident . $method:ident ( $request:ident { $($field:ident : $value:expr),* } )),* $(,)?) => {
            vec![$((stringify!($method), {
                let request = v1::$request { office_id: office.into(), $($field: $value.into(),)* ..Default::default() };
                stranger.$client().$method(request).await.map(drop).expect_err(stringify!($method))
            })),*]
        };
    }
    let mask = Some(prost_types::FieldMask { paths: vec!["max_agents".into()] });
    let wanted = Some(v1::OfficeSettings { max_agents: Some(1), ..Default::default() });
    #[allow(clippy::needless_update, reason = "requests with no other field")]
    let mut refused = refused![
        offices.get_office(GetOfficeRequest {}),
        offices.get_office_status(GetOfficeStatusRequest {}),
        offices.get_office_settings(GetOfficeSettingsRequest {}),
        offices.update_office_settings(UpdateOfficeSettingsRequest { settings: wanted, update_mask: mask }),
        offices.suspend_office(SuspendOfficeRequest {}),
        offices.resume_office(ResumeOfficeRequest {}),
        offices.delete_office(DeleteOfficeRequest {}),
        agents.hire_agent(HireAgentRequest { name: "spy" }),
        agents.list_agents(ListAgentsRequest {}),
        agents.get_agent(GetAgentRequest { name: "analyst" }),
        agents.watch_agents(WatchAgentsRequest {}),
        agents.promote_agent(PromoteAgentRequest { name: "analyst", model_tier: "opus" }),
        agents.update_agent(UpdateAgentRequest { name: "analyst" }),
        agents.start_agent(StartAgentRequest { name: "analyst" }),
        agents.stop_agent(StopAgentRequest { name: "analyst" }),
        agents.restart_agent(RestartAgentRequest { name: "analyst" }),
        agents.fire_agent(FireAgentRequest { name: "analyst" }),
        agents.rotate_agent_identity(RotateAgentIdentityRequest { name: "analyst" }),
        agents.list_backups(ListBackupsRequest {}),
        agents.download_backup(DownloadBackupRequest { backup_id: office }),
        agents.delete_backup(DeleteBackupRequest { backup_id: office }),
        logs.list_logs(ListLogsRequest { agent: "analyst" }),
        logs.tail_logs(TailLogsRequest { agent: "analyst" }),
        access.create_invite(CreateInviteRequest {}),
        activity.list_activity(ListActivityRequest {}),
        activity.watch_activity(WatchActivityRequest {}),
        activity.get_activity_head(GetActivityHeadRequest {}),
        integrations.list_integrations(ListIntegrationsRequest {}),
        integrations.set_integration_secret(SetIntegrationSecretRequest {
            integration: "github",
            name: "token",
            value: "x"
        }),
        integrations.delete_integration_secret(DeleteIntegrationSecretRequest { integration: "github", name: "token" }),
        integrations.list_agent_integrations(ListAgentIntegrationsRequest { agent: "analyst" }),
        integrations.set_agent_integration(SetAgentIntegrationRequest { agent: "analyst", integration: "github" }),
        access.heartbeat(HeartbeatRequest {}),
    ];
    let connect = v1::ConnectAgentRequest { office_id: office.into(), ..Default::default() };
    let connected = stranger.agents().connect_agent(futures::stream::iter([connect])).await;
    refused.push(("connect_agent", connected.map(drop).expect_err("connect_agent")));
    refused
}

async fn keys_are_of_one_account(backend: Backend) {
    let world = World::start(backend, Arrangement::OneProcess).await;
    let stranger = world.stranger().await;
    let create = || v1::CreateApiKeyRequest { name: "laptop".into(), ..Default::default() };
    let created = world.owner.access().create_api_key(create()).await.expect("created").into_inner();
    let key = created.api_key.expect("answered");
    let revoke = || v1::RevokeApiKeyRequest { api_key_id: key.id.clone() };
    assert_eq!(refusal(stranger.access().revoke_api_key(revoke()).await).0, Code::NotFound);
    let foreign = v1::ListApiKeysRequest { account_id: key.account_id.clone(), ..Default::default() };
    assert_eq!(refusal(stranger.access().list_api_keys(foreign).await).0, Code::NotFound);
    let create_account = v1::CreateAccountRequest { name: "mine".into() };
    assert_eq!(refusal(stranger.access().create_account(create_account).await).0, Code::PermissionDenied);

    let secret = mi_kernel::secret::Secret::new(created.secret);
    let laptop = world.owner.with_credential(mi_client::Credential::ApiKey(secret)).expect("good");
    let who = laptop.access().who_am_i(v1::WhoAmIRequest {}).await.expect("known").into_inner().principal;
    assert_eq!(who.expect("answered").api_key_id, key.id);
    world.owner.access().revoke_api_key(revoke()).await.expect("revoked");
    mi_testkit::until("the revoked key is refused", mi_e2e::LIMIT, async || {
        match laptop.access().who_am_i(v1::WhoAmIRequest {}).await {
            Err(status) if status.code() == Code::Unauthenticated => Ok(Some(())),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let anonymous = world.owner.with_credential(mi_client::Credential::None).expect("good");
    assert_eq!(refusal(anonymous.access().who_am_i(v1::WhoAmIRequest {}).await).0, Code::Unauthenticated);
}
