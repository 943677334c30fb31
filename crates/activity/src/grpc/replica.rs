//! `mi.internal.v1.OfficeReplicaService`.

use mi_kernel::{AccountId, Error, OfficeId, Result};
use mi_proto::internal::v1::{
    ApplyOfficeRequest, ApplyOfficeResponse, RemoveOfficeRequest, RemoveOfficeResponse, RunIsolationChecksRequest,
    RunIsolationChecksResponse, office_replica_service_server::OfficeReplicaService,
};
use mi_rpc::{Reply, convert, handle, status};
use mi_store::Db;
use tonic::{Request, Response};

use crate::removal::Removal;

/// What the office role tells about offices.
pub(super) struct Replica {
    pub(super) db: Db,
    pub(super) removal: Removal,
}

#[tonic::async_trait]
impl OfficeReplicaService for Replica {
    async fn apply_office(&self, request: Request<ApplyOfficeRequest>) -> Reply<ApplyOfficeResponse> {
        handle!(request, |_, body| {
            self.apply(body).await?;
            ApplyOfficeResponse {}
        })
    }

    async fn run_isolation_checks(&self, _: Request<RunIsolationChecksRequest>) -> Reply<RunIsolationChecksResponse> {
        let checks = self.db.run_isolation_checks("activity").await.map_err(status)?;
        let checks = checks.into_iter().map(convert::isolation_check).collect();
        Ok(Response::new(RunIsolationChecksResponse { checks }))
    }

    async fn remove_office(&self, request: Request<RemoveOfficeRequest>) -> Reply<RemoveOfficeResponse> {
        handle!(request, |_, body| {
            let office_id = OfficeId::parse(&body.office_id)?;
            let left = self.removal.remove(office_id).await?;
            RemoveOfficeResponse {
                done: left.is_none(),
                message: left.map(|what| format!("{what} are being removed")).unwrap_or_default(),
            }
        })
    }
}

impl Replica {
    async fn apply(&self, request: ApplyOfficeRequest) -> Result<()> {
        let office_id = OfficeId::parse(&request.office_id)?;
        let account_id = AccountId::parse(&request.account_id)?;
        if request.version < 0 {
            return Err(Error::invalid("version", "must not be negative"));
        }
        self.removal.offices.apply(office_id, account_id, request.version).await
    }
}
