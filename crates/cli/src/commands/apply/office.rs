//! The colony of a file, with its settings.

use mi_client::retry;
use mi_kernel::receipt::sha256_hex;
use mi_proto::v1::{CreateOfficeRequest, GetOfficeSettingsRequest, Office, OfficeStatus, UpdateOfficeSettingsRequest};
use tonic::Code;
use uuid::Uuid;

use super::{Action, Report, Work};
use crate::{
    answer::{ask, resource},
    commands::{offices, settings},
    failure::Failure,
};

impl Work<'_> {
    /// Makes sure of the colony and its settings; answers its id, unless there is none yet and this is a dry run.
    pub(super) async fn office(&self, report: &mut Report) -> Result<Option<String>, Failure> {
        let client = &self.context.client;
        let name = self.file.office.name.trim();
        let pairs: Vec<(String, String)> = self.file.office.settings.clone().into_iter().collect();
        // Before the first call: a misspelt setting needs no platform to be refused.
        let (wanted, mask) = settings::parse(&pairs)?;
        let mut offices = client.offices().list().await?;
        offices.retain(|office| office.name == name && office.status() != OfficeStatus::Deleting);
        let (office, mut action) = match offices.as_slice() {
            [] if self.is_dry => {
                report.add("colony", name, Action::ToCreate, "");
                return Ok(None);
            }
            [] => (self.create(name).await?, Action::Created),
            [office] => (office.clone(), Action::Unchanged),
            several => {
                let ids: Vec<&str> = several.iter().map(|office| office.id.as_str()).collect();
                let message = format!("{} colonies have the name {name:?}: {}", several.len(), ids.join(", "));
                return Err(Failure::new(message).hint("a file is about one colony: give it a name that no other has"));
            }
        };
        let request = GetOfficeSettingsRequest { office_id: office.id.clone() };
        let now = ask!(self.context, offices.get_office_settings(request).settings).await?;
        let mask = settings::differing(&now, &wanted, mask)?;
        if !mask.paths.is_empty() {
            if action == Action::Unchanged {
                action = self.action(Action::ToUpdate, Action::Updated);
            }
            if !self.is_dry {
                let (office_id, settings) = (office.id.clone(), Some(wanted));
                let request = UpdateOfficeSettingsRequest { office_id, settings, update_mask: Some(mask) };
                ask!(self.context, offices.update_office_settings(request)).await?;
            }
        }
        report.add("colony", name, action, &office.id);
        Ok(Some(office.id))
    }

    async fn create(&self, name: &str) -> Result<Office, Failure> {
        let client = &self.context.client;
        // Two that apply the same file at the same time make one colony.
        let mut request =
            CreateOfficeRequest { name: name.to_owned(), request_id: sha256_hex(format!("apply/{name}").as_bytes()) };
        let created = retry(async || client.offices().create_office(request.clone()).await).await;
        let answer = match created {
            // The colony that this made before was deleted since.
            Err(status) if status.code() == Code::NotFound => {
                request.request_id = Uuid::new_v4().to_string();
                retry(async || client.offices().create_office(request.clone()).await).await?
            }
            created => created?,
        };
        let office = resource(answer, |answer| answer.office)?;
        let late = || {
            Failure::new(format!("colony {name:?} is not active yet"))
                .hint(format!("`mi colonies status {}` says what it waits for; then apply again", office.id))
        };
        offices::settled(self.context, &office.id).await?.ok_or_else(late)
    }
}
