//! One connection to the platform and the typed clients over it.

use std::{fmt, time::Duration};

use mi_proto::v1::{
    access_service_client::AccessServiceClient, activity_service_client::ActivityServiceClient,
    agent_service_client::AgentServiceClient, chat_service_client::ChatServiceClient,
    credit_service_client::CreditServiceClient, drive_service_client::DriveServiceClient,
    integration_service_client::IntegrationServiceClient, log_service_client::LogServiceClient,
    office_service_client::OfficeServiceClient, task_service_client::TaskServiceClient,
};
use tonic::{
    service::interceptor::InterceptedService,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};
use tonic_health::pb::health_client::HealthClient;

use crate::{
    ClientError, Credential, Result,
    credential::Bearer,
    everyday::{Agents, Offices, Tasks},
};

/// What the typed clients speak over: the shared connection, with the credential added to each call.
pub type Wire = InterceptedService<Channel, Bearer>;

/// A page of agents with long prompts, or of log lines, is larger than tonic's default of 4 MiB.
const MAX_MESSAGE: usize = 64 << 20;
/// Largest frame that may be sent to us: files come in larger pieces than the default of 16 KiB.
const FRAME: u32 = 256 << 10;

/// A connection to the platform. Cheap to clone; all clones share one HTTP/2 connection.
#[derive(Clone)]
pub struct Client {
    endpoint: String,
    channel: Channel,
    bearer: Bearer,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the platform at this URL. Connects at the first call, and again whenever the connection is lost.
    ///
    /// # Errors
    /// When the URL or the credential cannot be used; nothing is sent yet. Must be called inside a tokio runtime.
    pub fn connect(endpoint: &str, credential: Credential) -> Result<Self> {
        Self::connect_trusting(endpoint, None, credential)
    }

    /// The same, for an `https://` platform whose certificate a CA of its own vouches for, in PEM; none: the public CAs.
    ///
    /// # Errors
    /// As [`Client::connect`], and when the PEM holds no certificate.
    pub fn connect_trusting(endpoint: &str, ca: Option<&str>, credential: Credential) -> Result<Self> {
        let invalid = |source| ClientError::Endpoint { endpoint: endpoint.to_owned(), source };
        let mut target = Endpoint::from_shared(endpoint.to_owned())
            .and_then(|target| target.user_agent(concat!("mi/", env!("CARGO_PKG_VERSION"))))
            .map_err(invalid)?
            .connect_timeout(Duration::from_secs(5))
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .max_frame_size(FRAME)
            .tcp_nodelay(true);
        if target.uri().scheme_str() == Some("https") {
            let tls = match ca {
                Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
                None => ClientTlsConfig::new().with_enabled_roots(),
            };
            target = target.tls_config(tls).map_err(invalid)?;
        }
        Ok(Self { endpoint: endpoint.to_owned(), channel: target.connect_lazy(), bearer: Bearer::new(credential)? })
    }

    /// The same connection with another credential.
    ///
    /// # Errors
    /// When the credential cannot be used.
    pub fn with_credential(&self, credential: Credential) -> Result<Self> {
        Ok(Self { bearer: Bearer::new(credential)?, ..self.clone() })
    }

    /// The URL given to [`Client::connect`].
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What the typed clients are built on, for calls that are typed at run time.
    pub fn wire(&self) -> Wire {
        InterceptedService::new(self.channel.clone(), self.bearer.clone())
    }

    /// `grpc.health.v1`.
    pub fn health(&self) -> HealthClient<Wire> {
        HealthClient::new(self.wire())
    }
}

/// A client of a service.
macro_rules! typed {
    ($self:ident $client:ident) => {
        $client::new($self.wire()).max_decoding_message_size(MAX_MESSAGE)
    };
}

impl Client {
    /// Offices.
    pub fn offices(&self) -> Offices {
        Offices { all: typed!(self OfficeServiceClient) }
    }

    /// Agents and their backups.
    pub fn agents(&self) -> Agents {
        Agents { all: typed!(self AgentServiceClient) }
    }

    /// Tasks.
    pub fn tasks(&self) -> Tasks {
        Tasks { all: typed!(self TaskServiceClient) }
    }
}

/// The typed clients of the other services.
macro_rules! clients {
    ($($(#[$doc:meta])* $name:ident: $client:ident,)+) => {
        impl Client {
            $($(#[$doc])*
            pub fn $name(&self) -> $client<Wire> {
                typed!(self $client)
            })+
        }
    };
}

clients! {
    /// Logs.
    logs: LogServiceClient,
    /// The activity feed.
    activity: ActivityServiceClient,
    /// Accounts, API keys and identities.
    access: AccessServiceClient,
    /// Integrations and their secrets.
    integrations: IntegrationServiceClient,
    /// The drive.
    drive: DriveServiceClient,
    /// Chat.
    chat: ChatServiceClient,
    /// Credits and their ledger.
    credits: CreditServiceClient,
}
