//! The agents of a file.

use std::collections::BTreeSet;

use mi_proto::v1::{
    Agent, HireAgentRequest, ListRolesRequest, PromoteAgentRequest, Resources, Role, UpdateAgentRequest,
};
use prost_types::FieldMask;
use uuid::Uuid;

use super::{Action, Report, Work, file};
use crate::{answer::ask, failure::Failure};

impl Work<'_> {
    /// Hires who is missing, and changes those who are not as the file has them.
    pub(super) async fn agents(&self, office_id: Option<&str>, report: &mut Report) -> Result<(), Failure> {
        let client = &self.context.client;
        if self.file.agents.is_empty() {
            return Ok(());
        }
        let there = match office_id {
            Some(office_id) => client.agents().list(office_id).await?,
            None => Vec::new(),
        };
        let roles = ask!(self.context, agents.list_roles(ListRolesRequest {})).await?.roles;
        for wanted in &self.file.agents {
            let found = there.iter().find(|agent| agent.name.eq_ignore_ascii_case(&wanted.name));
            let (action, id) = match (found, office_id) {
                (Some(agent), Some(office_id)) => {
                    (self.converge(office_id, agent, wanted, &roles).await?, agent.id.clone())
                }
                (_, Some(office_id)) if !self.is_dry => (Action::Created, self.hire(office_id, wanted).await?.id),
                _ => (Action::ToCreate, String::new()),
            };
            report.add("agent", &wanted.name, action, &id);
        }
        Ok(())
    }

    async fn hire(&self, office_id: &str, wanted: &file::Agent) -> Result<Agent, Failure> {
        let request = HireAgentRequest {
            office_id: office_id.to_owned(),
            name: wanted.name.clone(),
            model_tier: wanted.model_tier.clone(),
            provider: wanted.provider.clone(),
            role: wanted.role.clone(),
            skills: wanted.skills.clone().unwrap_or_default(),
            system_prompt: wanted.system_prompt.clone().unwrap_or_default(),
            env: wanted.env.clone().unwrap_or_default().into_iter().collect(),
            resources: wanted.resources.map(Resources::from),
            restore_from_backup: String::new(),
            request_id: Uuid::new_v4().to_string(),
            command: wanted.command.clone().unwrap_or_default(),
        };
        ask!(self.context, agents.hire_agent(request).agent).await
    }

    async fn converge(
        &self,
        office_id: &str,
        agent: &Agent,
        wanted: &file::Agent,
        roles: &[Role],
    ) -> Result<Action, Failure> {
        let change = Change::between(agent, wanted, roles)?;
        if change == Change::default() {
            return Ok(Action::Unchanged);
        }
        if self.is_dry {
            return Ok(Action::ToUpdate);
        }
        let (office_id, name) = (office_id.to_owned(), agent.name.clone());
        if let Some((model_tier, provider)) = change.promotion {
            let (office_id, name) = (office_id.clone(), name.clone());
            ask!(self.context, agents.promote_agent(PromoteAgentRequest { office_id, name, model_tier, provider }))
                .await?;
        }
        if let Some((agent, paths)) = change.update {
            let update_mask = Some(FieldMask { paths });
            let request = UpdateAgentRequest { office_id, name, agent: Some(agent), update_mask };
            ask!(self.context, agents.update_agent(request)).await?;
        }
        Ok(Action::Updated)
    }
}

/// What has to be done to an agent.
#[derive(Debug, Default, PartialEq)]
struct Change {
    /// To this tier and provider, each empty when it stays or follows.
    promotion: Option<(String, String)>,
    /// To these values of the fields named.
    update: Option<(Agent, Vec<String>)>,
}

impl Change {
    fn between(agent: &Agent, wanted: &file::Agent, roles: &[Role]) -> Result<Self, Failure> {
        if !wanted.role.is_empty() && wanted.role != agent.role {
            let was = if agent.role.is_empty() { "without a role".into() } else { format!("as {}", agent.role) };
            let message = format!("agent {} was hired {was}, the file says {}", agent.name, wanted.role);
            let hint = "a role is for good: leave it out of the file, or fire the agent and apply again";
            return Err(Failure::new(message).hint(hint));
        }
        let differs = |wanted: &str, is: &str| !wanted.is_empty() && wanted != is;
        let is_promoted = differs(&wanted.model_tier, &agent.model_tier) || differs(&wanted.provider, &agent.provider);
        let promotion = is_promoted.then(|| (wanted.model_tier.clone(), wanted.provider.clone()));
        let (mut update, mut paths) = (Agent::default(), Vec::new());
        if let Some(skills) = &wanted.skills {
            // Beside the role's, as at the hire.
            let role = roles.iter().find(|role| role.name == agent.role);
            let mut all = role.map(|role| role.skills.clone()).unwrap_or_default();
            skills.iter().for_each(|skill| {
                if !all.contains(skill) {
                    all.push(skill.clone());
                }
            });
            if BTreeSet::from_iter(&all) != BTreeSet::from_iter(&agent.skills) {
                update.skills = all;
                paths.push("skills".to_owned());
            }
        }
        if let Some(prompt) = wanted.system_prompt.as_ref().filter(|prompt| **prompt != agent.system_prompt) {
            update.system_prompt.clone_from(prompt);
            paths.push("system_prompt".to_owned());
        }
        if let Some(command) = wanted.command.as_ref().filter(|command| **command != agent.command) {
            update.command.clone_from(command);
            paths.push("command".to_owned());
        }
        if let Some(env) = wanted.env.clone().map(|env| env.into_iter().collect()).filter(|env| *env != agent.env) {
            update.env = env;
            paths.push("env".to_owned());
        }
        let resources = wanted.resources.map(Resources::from);
        if let Some(resources) = resources.filter(|wanted| *wanted != agent.resources.unwrap_or_default()) {
            update.resources = Some(resources);
            paths.push("resources".to_owned());
        }
        Ok(Self { promotion, update: (!paths.is_empty()).then_some((update, paths)) })
    }
}

impl From<file::Resources> for Resources {
    fn from(given: file::Resources) -> Self {
        let file::Resources { cpu_millis, memory_bytes, pids, file_bytes, disk_bytes } = given;
        Self { cpu_millis, memory_bytes, pids, file_bytes, disk_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hired() -> Agent {
        Agent {
            name: "a".into(),
            role: "engineer".into(),
            model_tier: "haiku".into(),
            provider: "anthropic".into(),
            skills: vec!["git".into(), "github".into()],
            env: [("A".to_owned(), "b".to_owned())].into(),
            resources: Some(Resources::default()),
            ..Agent::default()
        }
    }

    fn change(wanted: file::Agent) -> Result<Change, Failure> {
        let roles = [Role { name: "engineer".into(), skills: vec!["git".into()], ..Role::default() }];
        Change::between(&hired(), &wanted, &roles)
    }

    #[test]
    fn what_the_file_leaves_out_stays_and_what_it_says_twice_changes_nothing() {
        assert_eq!(change(file::Agent::default()).expect("nothing"), Change::default());
        let same = file::Agent {
            role: "engineer".into(),
            model_tier: "haiku".into(),
            provider: "anthropic".into(),
            // Beside the role's own, in any order.
            skills: Some(vec!["github".into(), "git".into()]),
            system_prompt: Some(String::new()),
            command: Some(String::new()),
            env: Some([("A".to_owned(), "b".to_owned())].into()),
            resources: Some(file::Resources::default()),
            ..file::Agent::default()
        };
        assert_eq!(change(same).expect("nothing"), Change::default());
    }

    #[test]
    fn only_what_differs_is_changed() {
        let promoted = change(file::Agent { model_tier: "opus".into(), ..file::Agent::default() }).expect("a change");
        assert_eq!(promoted, Change { promotion: Some(("opus".into(), String::new())), update: None });
        let updated = change(file::Agent {
            skills: Some(vec!["slack".into()]),
            command: Some("codex".into()),
            env: Some([].into()),
            resources: Some(file::Resources { cpu_millis: 500, ..file::Resources::default() }),
            ..file::Agent::default()
        });
        let agent = Agent {
            skills: vec!["git".into(), "slack".into()],
            command: "codex".into(),
            resources: Some(Resources { cpu_millis: 500, ..Resources::default() }),
            ..Agent::default()
        };
        let paths = ["skills", "command", "env", "resources"].map(str::to_owned).to_vec();
        assert_eq!(updated.expect("a change"), Change { promotion: None, update: Some((agent, paths)) });
    }

    #[test]
    fn a_role_is_for_good() {
        let told = change(file::Agent { role: "leader".into(), ..file::Agent::default() }).expect_err("refused");
        assert!(told.to_string().contains("was hired as engineer, the file says leader"), "{told}");
    }
}
