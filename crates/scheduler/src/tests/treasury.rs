//! The office role, as far as the scheduler asks it: what an office may spend is as told.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
};

use mi_base::Tasks;
use mi_kernel::{Clock, Error};
use mi_proto::internal::v1::{
    ChargeComputeRequest, ChargeComputeResponse, GetHireTermsRequest, GetHireTermsResponse, ReserveCreditsRequest,
    ReserveCreditsResponse, ResolveSecretsRequest, ResolveSecretsResponse, SettleCreditsRequest, SettleCreditsResponse,
    metering_service_client::MeteringServiceClient,
    metering_service_server::{MeteringService, MeteringServiceServer},
    secret_service_client::SecretServiceClient,
    secret_service_server::{SecretService, SecretServiceServer},
};
use mi_rpc::{Guard, PrincipalKey, RoleClient, Transport, status};
use tonic::{Request, Response, Status, service::Routes};

/// What it answers, and what it was asked.
#[derive(Debug)]
pub(super) struct Known {
    /// What it says of every office.
    pub(super) terms: GetHireTermsResponse,
    /// Offices whose terms were asked for, each time.
    pub(super) asked: Vec<String>,
    /// What was charged; none: charging fails.
    pub(super) charged: Option<Vec<ChargeComputeRequest>>,
    /// The secrets of every office, by integration and name.
    pub(super) secrets: BTreeMap<&'static str, HashMap<String, String>>,
    /// Whether it is away.
    pub(super) away: bool,
}

/// The fake. Offices have plenty unless it is told otherwise.
#[derive(Clone)]
pub(super) struct Treasury(Arc<Mutex<Known>>);

impl Default for Treasury {
    fn default() -> Self {
        let terms = GetHireTermsResponse { available: 1_000_000, metered: true, configured: Vec::new() };
        Self(Arc::new(Mutex::new(Known {
            terms,
            asked: Vec::new(),
            charged: Some(Vec::new()),
            secrets: BTreeMap::new(),
            away: false,
        })))
    }
}

impl Treasury {
    /// What it knows; to be looked at and changed by the test.
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().expect("no test panics with this lock")
    }

    /// The way to it.
    pub(super) fn client(&self, clock: Arc<dyn Clock>) -> MeteringServiceClient<RoleClient> {
        MeteringServiceClient::new(self.way(clock))
    }

    /// The way to its secrets.
    pub(super) fn secrets(&self, clock: Arc<dyn Clock>) -> SecretServiceClient<RoleClient> {
        SecretServiceClient::new(self.way(clock))
    }

    /// Has offices be configured for these, from now on.
    pub(super) fn configure(&self, integrations: &[&str]) {
        self.known().terms.configured = integrations.iter().map(ToString::to_string).collect();
    }

    fn way(&self, clock: Arc<dyn Clock>) -> RoleClient {
        let routes =
            Routes::new(MeteringServiceServer::new(self.clone())).add_service(SecretServiceServer::new(self.clone()));
        let guard = Guard::new("office", routes, PrincipalKey::random(), clock, Tasks::new(), Default::default());
        RoleClient::new(Transport::local(guard), "scheduler")
    }
}

#[tonic::async_trait]
impl MeteringService for Treasury {
    async fn get_hire_terms(
        &self,
        request: Request<GetHireTermsRequest>,
    ) -> Result<Response<GetHireTermsResponse>, Status> {
        let mut known = self.known();
        known.asked.push(request.into_inner().office_id);
        if known.away {
            return Err(status(Error::unavailable("away, as asked")));
        }
        Ok(Response::new(known.terms.clone()))
    }

    async fn charge_compute(
        &self,
        request: Request<ChargeComputeRequest>,
    ) -> Result<Response<ChargeComputeResponse>, Status> {
        match &mut self.known().charged {
            Some(charged) => charged.push(request.into_inner()),
            None => return Err(status(Error::unavailable("down, as asked"))),
        }
        Ok(Response::new(ChargeComputeResponse {}))
    }

    async fn reserve_credits(
        &self,
        _: Request<ReserveCreditsRequest>,
    ) -> Result<Response<ReserveCreditsResponse>, Status> {
        Err(Status::unimplemented("no part of these tests"))
    }

    async fn settle_credits(
        &self,
        _: Request<SettleCreditsRequest>,
    ) -> Result<Response<SettleCreditsResponse>, Status> {
        Err(Status::unimplemented("no part of these tests"))
    }
}

#[tonic::async_trait]
impl SecretService for Treasury {
    async fn resolve_secrets(
        &self,
        request: Request<ResolveSecretsRequest>,
    ) -> Result<Response<ResolveSecretsResponse>, Status> {
        let secrets = self.known().secrets.get(request.into_inner().integration.as_str()).cloned();
        Ok(Response::new(ResolveSecretsResponse { secrets: secrets.unwrap_or_default() }))
    }
}
