//! A platform with one caller of each kind, and what they may go for.

use std::{collections::HashMap, sync::Arc};

use mi_client::{AgentKey, Client, Credential, KeyRing};
use mi_e2e::{LIMIT, World};
use mi_kernel::{AgentId, secret::Secret};
use mi_proto::v1::{self, AgentPhase};
use mi_testkit::{Arrangement, Backend, until};
use tonic::{Code, transport::Channel};
use uuid::Uuid;

use super::{
    call::{Answer, call},
    cases::{Row, Spends},
    columns::{At, Who},
};

/// What requests name.
#[derive(Debug, Clone)]
pub(super) struct Place {
    office: String,
    agent: String,
    backup: String,
    account: String,
    key: String,
}

impl Place {
    /// Where nothing is.
    pub(super) fn nowhere() -> Self {
        let id = || Uuid::now_v7().to_string();
        Self { office: id(), agent: "target".into(), backup: id(), account: id(), key: id() }
    }

    fn parts(&self) -> [(&'static str, &str); 5] {
        [
            ("{office}", &self.office),
            ("{agent}", &self.agent),
            ("{backup}", &self.backup),
            ("{account}", &self.account),
            ("{key}", &self.key),
        ]
    }

    /// The text with what is here in place of the placeholders.
    pub(super) fn fill(&self, text: &str) -> String {
        self.parts().iter().fold(text.to_owned(), |text, (placeholder, id)| text.replace(placeholder, id))
    }

    /// The text with placeholders in place of what is here.
    pub(super) fn mask(&self, text: &str) -> String {
        self.parts().iter().fold(text.to_owned(), |text, (placeholder, id)| text.replace(id, placeholder))
    }
}

/// The platform and all who call it.
pub(super) struct Harness {
    world: World,
    channel: Channel,
    credentials: HashMap<Who, Credential>,
    ancestor: Client,
    home: Place,
    abroad: Place,
    nowhere: Place,
    /// Ids that nobody from outside may be shown.
    pub(super) private: [String; 2],
}

/// A key of the account that the client acts for.
async fn key(client: &Client, name: &str) -> (v1::ApiKey, Credential) {
    let request = v1::CreateApiKeyRequest { name: name.into(), ..Default::default() };
    let answer = client.access().create_api_key(request).await.expect("created").into_inner();
    (answer.api_key.expect("answered"), Credential::ApiKey(Secret::new(answer.secret)))
}

async fn office(client: &Client, name: &str) -> String {
    let request = v1::CreateOfficeRequest { name: name.into(), ..Default::default() };
    let answer = client.offices().create_office(request).await.expect("created").into_inner();
    let id = answer.office.expect("answered").id;
    until("the office is active", LIMIT, async || {
        let request = v1::GetOfficeRequest { office_id: id.clone() };
        let office = client.offices().get_office(request).await?.into_inner().office.unwrap_or_default();
        Ok::<_, tonic::Status>((office.status() == v1::OfficeStatus::Active).then_some(()))
    })
    .await;
    id
}

async fn hire(client: &Client, office: &str, name: &str) -> v1::Agent {
    let request = v1::HireAgentRequest { office_id: office.into(), name: name.into(), ..Default::default() };
    client.agents().hire_agent(request).await.expect("hired").into_inner().agent.expect("answered")
}

/// Hires an agent and, once it runs, takes the key out of its storage.
async fn employ(world: &World, client: &Client, office: &str, name: &str) -> (v1::Agent, Credential) {
    let hired = hire(client, office, name).await;
    let running = until(&format!("{name} runs"), LIMIT, async || {
        let request = v1::GetAgentRequest { office_id: office.into(), name: name.into() };
        let agent = world.admin.agents().get_agent(request).await?.into_inner().agent.unwrap_or_default();
        let runs = agent.status.as_ref().is_some_and(|status| status.phase() == AgentPhase::Running);
        Ok::<_, tonic::Status>(runs.then_some(agent))
    })
    .await;
    let file = world.workspace(&hired).with_file_name("identity").join("identity.key");
    let key = AgentKey::load(&file).expect("readable").expect("a running agent has a key");
    assert_eq!(running.public_key, key.public_key().to_vec());
    let agent_id = AgentId::parse(&hired.id).expect("an id");
    (hired, Credential::Agent { agent_id, key: Arc::new(KeyRing::new(key)) })
}

/// Fires an agent that ran, and returns its backup.
async fn fire(world: &World, office: &str, name: &str) -> String {
    world.fire(office, name).await.expect("fired");
    world.gone(office, name).await;
    let backup = world.backups(office).await.into_iter().find(|backup| backup.agent == name);
    backup.expect("whoever is fired leaves a backup").id
}

impl Harness {
    /// Sets everything up.
    pub(super) async fn start(backend: Backend) -> Self {
        let world = World::start(backend, Arrangement::OneProcess).await;
        let (home, next_door) = (world.office("Home").await, world.office("Next door").await);
        let settings = v1::OfficeSettings {
            allow_agent_hiring: true,
            hires_per_10_minutes: Some(100),
            ..v1::OfficeSettings::default()
        };
        let paths = ["allow_agent_hiring", "hires_per_10_minutes"].map(str::to_owned).to_vec();
        let update_mask = Some(prost_types::FieldMask { paths });
        let update = v1::UpdateOfficeSettingsRequest { office_id: home.clone(), settings: Some(settings), update_mask };
        world.owner.offices().update_office_settings(update).await.expect("updated");

        let request = v1::CreateAccountRequest { name: "rival".into() };
        let rival = world.admin.access().create_account(request).await.expect("created").into_inner();
        let rival_key = Credential::ApiKey(Secret::new(rival.secret));
        let rival_client = world.owner.with_credential(rival_key.clone()).expect("good");
        let abroad = office(&rival_client, "Abroad").await;

        let owner = &world.owner;
        let (boss, sibling, leaver, neighbour, other) = tokio::join!(
            employ(&world, owner, &home, "boss"),
            employ(&world, owner, &home, "sibling"),
            employ(&world, owner, &home, "leaver"),
            employ(&world, owner, &next_door, "target"),
            employ(&world, &rival_client, &abroad, "target"),
        );
        let ancestor = owner.with_credential(boss.1.clone()).expect("good");
        let target = employ(&world, &ancestor, &home, "target").await;
        let target_client = owner.with_credential(target.1.clone()).expect("good");
        let descendant = employ(&world, &target_client, &home, "descendant").await;
        // What a tail of its log begins with.
        let line = v1::LogLine { stream: v1::LogStream::Agent.into(), text: "hello".into(), ..Default::default() };
        let batch = v1::AppendLogsRequest {
            office_id: home.clone(),
            source: "harness".into(),
            first_index: 1,
            lines: vec![line],
        };
        let mut appended = target_client.logs().append_logs(futures::stream::iter([batch])).await.expect("taken");
        appended.get_mut().message().await.expect("stored");

        let backup = fire(&world, &home, "leaver").await;
        let (owner_key, owner_credential) = key(owner, "owner").await;
        let (spare_key, _) = key(owner, "spare").await;
        let (rival_spare, _) = key(&rival_client, "spare").await;
        let (revoked_key, revoked_credential) = key(owner, "revoked").await;
        owner.access().revoke_api_key(v1::RevokeApiKeyRequest { api_key_id: revoked_key.id }).await.expect("revoked");

        let private = [home.clone(), target.0.id];
        let admin = Secret::new(world.platform.admin_key());
        let credentials = [
            (Who::Nobody, Credential::None),
            (Who::Guesser, Credential::ApiKey(Secret::new("mi_0123456789012345678901234567890123456789"))),
            (Who::RevokedKey, revoked_credential),
            (Who::FiredAgent, leaver.1),
            (Who::Administrator, Credential::ApiKey(admin)),
            (Who::Owner, owner_credential),
            (Who::Self_, target.1),
            (Who::Ancestor, boss.1),
            (Who::Descendant, descendant.1),
            (Who::Sibling, sibling.1),
            (Who::OtherOperator, rival_key),
            (Who::Neighbour, neighbour.1),
            (Who::OtherAgent, other.1),
        ];
        let endpoint = Channel::from_shared(world.platform.endpoint().to_owned()).expect("a good endpoint");
        let home =
            Place { office: home, agent: "target".into(), backup, account: owner_key.account_id, key: spare_key.id };
        let nowhere = Place::nowhere();
        let abroad = Place { office: abroad, account: rival_spare.account_id, key: rival_spare.id, ..Place::nowhere() };
        let harness = Self {
            channel: endpoint.connect_lazy(),
            credentials: credentials.into(),
            world,
            ancestor,
            home,
            abroad,
            nowhere,
            private,
        };
        harness.are_forgotten().await;
        harness
    }

    /// Waits until those whose credential died are out.
    async fn are_forgotten(&self) {
        for who in [Who::RevokedKey, Who::FiredAgent] {
            let client = self.world.owner.with_credential(self.credentials[&who].clone()).expect("good");
            until(&format!("{who:?} is out"), LIMIT, async || {
                match client.access().who_am_i(v1::WhoAmIRequest {}).await {
                    Err(status) if status.code() == Code::Unauthenticated => Ok(Some(())),
                    other => Err(format!("{other:?}")),
                }
            })
            .await;
        }
    }

    /// What there is to go for.
    pub(super) fn place(&self, at: At) -> &Place {
        match at {
            At::Home => &self.home,
            At::Abroad => &self.abroad,
            At::Nowhere => &self.nowhere,
        }
    }

    /// Calls the RPC about what is in the place.
    pub(super) async fn ask(&self, row: &Row, who: Who, place: &Place) -> Answer {
        self.ask_with(row, &self.credentials[&who], place).await
    }

    /// Calls the RPC about something that is there for this call alone, in the place of what is at home.
    pub(super) async fn ask_and_spend(&self, row: &Row, who: Who) -> Answer {
        let mut place = self.home.clone();
        let mut credential = self.credentials[&who].clone();
        let (world, office, name) = (&self.world, &self.home.office, format!("spare-{}", Uuid::new_v4().simple()));
        match row.case.spends {
            Spends::Nothing => {}
            Spends::Office => place.office = world.office("Spare").await,
            Spends::Backup => {
                employ(world, &world.owner, office, &name).await;
                place.backup = fire(world, office, &name).await;
            }
            Spends::Agent => {
                if who == Who::Self_ {
                    credential = employ(world, &world.owner, office, &name).await.1;
                } else {
                    hire(&self.ancestor, office, &name).await;
                }
                place.agent = name;
            }
        }
        self.ask_with(row, &credential, &place).await
    }

    async fn ask_with(&self, row: &Row, credential: &Credential, place: &Place) -> Answer {
        call(&self.channel, row.rule.path, &row.request(place), credential).await
    }

    /// Calls a method that does not exist.
    pub(super) async fn ask_nonsense(&self, row: &Row, who: Who) -> Answer {
        let message = row.request(&self.nowhere);
        call(&self.channel, "/mi.v1.OfficeService/Nonsense", &message, &self.credentials[&who]).await
    }

    /// Everything that a call could have changed, but for what agents do by themselves.
    pub(super) async fn state(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        let admin = &self.world.admin;
        let mut agents = Vec::new();
        let mut backups = Vec::new();
        let mut settings = Vec::new();
        for place in [&self.home, &self.abroad] {
            agents.extend(admin.agents().list(&place.office).await.expect("listed"));
            backups.extend(admin.all_backups(&place.office).await.expect("listed"));
            let request = v1::GetOfficeSettingsRequest { office_id: place.office.clone() };
            settings.push(admin.offices().get_office_settings(request).await.expect("answered").into_inner());
        }
        agents.iter_mut().for_each(|agent| agent.status = None);
        let mut keys = Vec::new();
        for account in admin.all_accounts().await.expect("listed") {
            keys.push((admin.all_api_keys(&account.id).await.expect("listed"), account));
        }
        (agents, backups, settings, keys, admin.offices().list().await.expect("listed"))
    }
}
