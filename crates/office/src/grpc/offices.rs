//! `mi.v1.OfficeService`.

use mi_kernel::{Result, page::Page};
use mi_proto::{
    internal::v1::{CountAgentsRequest, agent_registry_service_client::AgentRegistryServiceClient},
    v1::{self, office_service_server::OfficeService},
};
use mi_rpc::{Caller, Reply, RoleClient, convert, handle, status};
use mi_tenancy::{Condition, Office, Offices, State, Transition};
use prost::Message;
use tonic::{Request, Response};

use crate::lifecycle::Lifecycle;

/// Serves offices; counts of agents come from the scheduler.
pub(crate) struct Handler {
    lifecycle: Lifecycle,
    offices: Offices,
    registry: AgentRegistryServiceClient<RoleClient>,
}

impl Handler {
    pub(crate) fn new(
        lifecycle: Lifecycle,
        offices: Offices,
        registry: AgentRegistryServiceClient<RoleClient>,
    ) -> Self {
        Self { lifecycle, offices, registry }
    }

    async fn transition(&self, caller: &Caller, id: &str, step: Transition) -> Result<Option<v1::Office>> {
        let office = self.lifecycle.transition(caller, id, step).await?;
        Ok(Some(to_wire(&office)))
    }
}

fn state_to_wire(state: State) -> v1::OfficeStatus {
    match state {
        State::Provisioning => v1::OfficeStatus::Provisioning,
        State::Active => v1::OfficeStatus::Active,
        State::Suspended => v1::OfficeStatus::Suspended,
        State::Deleting => v1::OfficeStatus::Deleting,
    }
}

fn to_wire(office: &Office) -> v1::Office {
    v1::Office {
        id: office.id.to_string(),
        name: office.name.clone(),
        status: state_to_wire(office.state).into(),
        created_at: Some(convert::timestamp(office.created_at)),
        updated_at: Some(convert::timestamp(office.updated_at)),
        account_id: office.account_id.to_string(),
    }
}

fn condition_to_wire(condition: Condition) -> v1::OfficeCondition {
    v1::OfficeCondition {
        r#type: condition.kind,
        ok: condition.problem.is_none(),
        message: condition.problem.unwrap_or_default(),
        time: Some(convert::timestamp(condition.time)),
    }
}

#[tonic::async_trait]
impl OfficeService for Handler {
    async fn create_office(&self, request: Request<v1::CreateOfficeRequest>) -> Reply<v1::CreateOfficeResponse> {
        handle!(request, |caller, body| {
            let office = self.lifecycle.create(&caller, &body, &body.encode_to_vec()).await?;
            v1::CreateOfficeResponse { office: Some(to_wire(&office)) }
        })
    }

    async fn list_offices(&self, request: Request<v1::ListOfficesRequest>) -> Reply<v1::ListOfficesResponse> {
        handle!(request, |caller, body| {
            let page = Page::parse(body.page_size, &body.page_token)?;
            let (offices, next_page_token) = self.offices.list(&caller, &page).await?;
            v1::ListOfficesResponse { offices: offices.iter().map(to_wire).collect(), next_page_token }
        })
    }

    async fn get_office(&self, request: Request<v1::GetOfficeRequest>) -> Reply<v1::GetOfficeResponse> {
        handle!(request, |caller, body| {
            let (_, office) = self.offices.get(&caller, &body.office_id).await?;
            v1::GetOfficeResponse { office: Some(to_wire(&office)) }
        })
    }

    async fn get_office_status(
        &self,
        request: Request<v1::GetOfficeStatusRequest>,
    ) -> Reply<v1::GetOfficeStatusResponse> {
        let caller = Caller::of(&request)?;
        let id = request.into_inner().office_id;
        let (office, report) = self.lifecycle.status(&caller, &id).await.map_err(status)?;
        let count = CountAgentsRequest { office_id: office.id.to_string() };
        let counted = self.registry.clone().count_agents(count).await?.into_inner();
        let report = v1::OfficeStatusReport {
            status: state_to_wire(office.state).into(),
            conditions: office.conditions.into_iter().map(condition_to_wire).chain(counted.conditions).collect(),
            agents: counted.agents,
            ..report
        };
        Ok(Response::new(v1::GetOfficeStatusResponse { status: Some(report) }))
    }

    async fn get_office_settings(
        &self,
        request: Request<v1::GetOfficeSettingsRequest>,
    ) -> Reply<v1::GetOfficeSettingsResponse> {
        handle!(request, |caller, body| {
            let (_, office) = self.offices.get(&caller, &body.office_id).await?;
            v1::GetOfficeSettingsResponse { settings: Some(office.settings.to_wire()) }
        })
    }

    async fn update_office_settings(
        &self,
        request: Request<v1::UpdateOfficeSettingsRequest>,
    ) -> Reply<v1::UpdateOfficeSettingsResponse> {
        handle!(request, |caller, body| {
            let settings = self.lifecycle.update_settings(&caller, body).await?;
            v1::UpdateOfficeSettingsResponse { settings: Some(settings.to_wire()) }
        })
    }

    async fn suspend_office(&self, request: Request<v1::SuspendOfficeRequest>) -> Reply<v1::SuspendOfficeResponse> {
        handle!(request, |caller, body| {
            let office = self.transition(&caller, &body.office_id, Transition::Suspend).await?;
            v1::SuspendOfficeResponse { office }
        })
    }

    async fn resume_office(&self, request: Request<v1::ResumeOfficeRequest>) -> Reply<v1::ResumeOfficeResponse> {
        handle!(request, |caller, body| v1::ResumeOfficeResponse {
            office: self.transition(&caller, &body.office_id, Transition::Resume).await?
        })
    }

    async fn verify_office(&self, request: Request<v1::VerifyOfficeRequest>) -> Reply<v1::VerifyOfficeResponse> {
        handle!(request, |caller, body| v1::VerifyOfficeResponse {
            checks: self.lifecycle.verify(&caller, &body.office_id).await?
        })
    }

    async fn delete_office(&self, request: Request<v1::DeleteOfficeRequest>) -> Reply<v1::DeleteOfficeResponse> {
        handle!(request, |caller, body| {
            let id = body.office_id;
            self.lifecycle.reserve.freeing(|| self.lifecycle.transition(&caller, &id, Transition::Delete)).await?;
            v1::DeleteOfficeResponse {}
        })
    }
}
