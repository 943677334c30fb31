//! Agents and catalogue entries for the wire.

use mi_catalogue::{Catalogue, Role};
use mi_proto::{
    internal::v1::{Ability, GetSpenderResponse, Member},
    v1,
};
use mi_rpc::convert::timestamp;
use mi_runtime::Sandbox;

use super::{Agent, Phase};

pub(crate) fn phase(phase: Phase) -> v1::AgentPhase {
    match phase {
        Phase::Pending => v1::AgentPhase::Pending,
        Phase::Running => v1::AgentPhase::Running,
        Phase::Restarting => v1::AgentPhase::Restarting,
        Phase::Stopped => v1::AgentPhase::Stopped,
        Phase::Suspended => v1::AgentPhase::Suspended,
        Phase::Failed => v1::AgentPhase::Failed,
        Phase::Terminating => v1::AgentPhase::Terminating,
        Phase::Offline => v1::AgentPhase::Offline,
    }
}

pub(crate) fn agent(agent: &Agent, sandbox: Sandbox) -> v1::Agent {
    let spec = &agent.spec;
    v1::Agent {
        id: agent.id.to_string(),
        name: agent.name.clone(),
        employee_type: match () {
            () if agent.external => v1::EmployeeType::External,
            () if sandbox.in_cluster => v1::EmployeeType::Kubernetes,
            () => v1::EmployeeType::Process,
        }
        .into(),
        model_tier: spec.model_tier.clone(),
        provider: spec.provider.clone(),
        role: spec.role.clone(),
        skills: spec.skills.clone(),
        system_prompt: spec.system_prompt.clone(),
        env: spec.env.clone().into_iter().collect(),
        resources: Some(v1::Resources {
            cpu_millis: spec.resources.cpu_millis,
            memory_bytes: spec.resources.memory_bytes,
            pids: spec.resources.pids,
            file_bytes: spec.resources.file_bytes,
            disk_bytes: spec.resources.disk_bytes,
        }),
        hired_by: agent.hired_by.clone(),
        public_key: agent.public_key.clone().unwrap_or_default().into(),
        status: Some(v1::AgentStatus {
            phase: phase(agent.phase()).into(),
            ready: agent.phase() == Phase::Running && agent.observed_generation == agent.generation,
            message: agent.message().to_owned(),
            restarts: agent.restarts,
            last_seen_at: agent.last_seen_at.map(timestamp),
            observed_generation: agent.observed_generation,
            // What isolates an external agent, if anything does, is not the platform's.
            sandbox: (!agent.external).then_some(v1::Sandbox { enforced: sandbox.enforced, missing: sandbox.missing }),
        }),
        generation: agent.generation,
        created_at: Some(timestamp(agent.created_at)),
        budget: agent.budget,
        command: spec.command.clone(),
    }
}

/// What the task queue needs to know. An agent that is being fired is no member any more.
pub(crate) fn member(agent: Agent) -> Member {
    let ability = match () {
        () if agent.external => Ability::Unspecified,
        () if !agent.spec.command.is_empty() => Ability::None,
        () if !agent.has_model => Ability::Commands,
        () => Ability::Unspecified,
    };
    Member {
        ability: ability.into(),
        agent_id: agent.id.to_string(),
        working: agent.works(),
        name: agent.name,
        tools: agent.spec.skills,
        public_key: agent.public_key.unwrap_or_default().into(),
        hosted: !agent.external,
    }
}

/// What whoever meters an agent needs to know.
pub(crate) fn spender(spender: &Agent, sandbox: Sandbox) -> GetSpenderResponse {
    GetSpenderResponse {
        agent: Some(agent(spender, sandbox)),
        lineage: spender.lineage.iter().map(ToString::to_string).collect(),
        integrations: spender.spec.enabled().into_iter().collect(),
        integrations_revision: spender.spec.integrations_revision,
        working: spender.works(),
        // Known to whoever reads the office.
        allow_any_model: false,
    }
}

pub(crate) fn role(role: &Role) -> v1::Role {
    v1::Role {
        name: role.name.clone(),
        description: role.description.clone(),
        model_tier: role.tier.clone(),
        skills: role.skills.clone(),
        system_prompt: role.system_prompt.trim().to_owned(),
    }
}

pub(crate) fn tiers(catalogue: &Catalogue) -> Vec<v1::ModelTier> {
    let tiers = catalogue.tiers.iter().map(|tier| {
        let model = catalogue.served(tier, tier.provider());
        v1::ModelTier {
            name: tier.name.clone(),
            provider: tier.provider().to_owned(),
            model_id: model.map(|model| model.id.clone()).unwrap_or_default(),
            input_price: model.map_or(0, |model| model.price.input),
            output_price: model.map_or(0, |model| model.price.output),
            providers: catalogue.providers_of(tier).into_iter().map(str::to_owned).collect(),
        }
    });
    tiers.collect()
}
