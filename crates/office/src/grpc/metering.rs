//! `mi.internal.v1.MeteringService`.

use mi_credits::Credits;
use mi_integrations::Integrations;
use mi_kernel::OfficeId;
use mi_proto::internal::v1::{
    ChargeComputeRequest, ChargeComputeResponse, GetHireTermsRequest, GetHireTermsResponse, ReserveCreditsRequest,
    ReserveCreditsResponse, SettleCreditsRequest, SettleCreditsResponse, metering_service_server::MeteringService,
};
use mi_rpc::{Reply, handle};
use mi_store::Db;
use tonic::{Request, Status};

/// Keeps credits for the roles that spend them.
pub(crate) struct Handler {
    db: Db,
    credits: Credits,
    integrations: Integrations,
}

impl Handler {
    pub(crate) fn new(db: Db, credits: Credits, integrations: Integrations) -> Self {
        Self { db, credits, integrations }
    }
}

#[tonic::async_trait]
impl MeteringService for Handler {
    async fn reserve_credits(&self, _: Request<ReserveCreditsRequest>) -> Reply<ReserveCreditsResponse> {
        Err(Status::unimplemented("nothing is reserved yet"))
    }

    async fn settle_credits(&self, _: Request<SettleCreditsRequest>) -> Reply<SettleCreditsResponse> {
        Err(Status::unimplemented("nothing is reserved yet"))
    }

    async fn charge_compute(&self, _: Request<ChargeComputeRequest>) -> Reply<ChargeComputeResponse> {
        Err(Status::unimplemented("compute is not charged yet"))
    }

    async fn get_hire_terms(&self, request: Request<GetHireTermsRequest>) -> Reply<GetHireTermsResponse> {
        handle!(request, |body| {
            let mut conn = self.db.office(OfficeId::parse(&body.office_id)?).read().await?;
            GetHireTermsResponse {
                available: self.credits.available(&mut conn).await?,
                metered: self.credits.metered(),
                configured: self.integrations.configured(&mut conn).await?,
            }
        })
    }
}
