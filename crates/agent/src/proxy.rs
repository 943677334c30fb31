//! The way to the platform's proxies for models and for other services: every request carries a token that the agent has
//! just signed, since no key of anybody else is ever here.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use mi_client::{ClientError, KeyRing};
use mi_kernel::{AgentId, Clock, SystemClock};
use reqwest::{Certificate, Client, Method, RequestBuilder, redirect};
use thiserror::Error;

use crate::config::AgentConfig;

/// Header that names the task on whose behalf a request is made.
pub(crate) const TASK: &str = "mi-task-id";
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How much of an answer may wait here because its reader is slow.
const STREAM_WINDOW: u32 = 64 << 10;
/// The same for all answers of an agent: as many as it can wait for at once hold none of the others up.
const CONNECTION_WINDOW: u32 = 128 * STREAM_WINDOW;

/// Why a request cannot be made.
#[derive(Debug, Error)]
pub(crate) enum ProxyError {
    /// The agent's key signs nothing.
    #[error(transparent)]
    Key(#[from] ClientError),
    /// There is no HTTP client.
    #[error("the platform's certificates cannot be used: {0}")]
    Client(#[from] reqwest::Error),
}

/// The platform's proxies, as one agent reaches them.
pub(crate) struct Proxy {
    endpoint: String,
    ca: Option<String>,
    agent_id: AgentId,
    key: Arc<KeyRing>,
    /// Made when it is first needed: an agent that only waits has no use for its memory.
    http: OnceLock<Client>,
}

impl Proxy {
    pub(crate) fn new(config: &AgentConfig, key: Arc<KeyRing>) -> Self {
        Self {
            endpoint: config.endpoint.trim_end_matches('/').to_owned(),
            ca: config.ca.clone(),
            agent_id: config.agent_id,
            key,
            http: OnceLock::new(),
        }
    }

    /// A request for this path, which begins with a slash and may have a query, on behalf of this task.
    ///
    /// # Errors
    /// When it cannot be signed, or the client cannot be made.
    pub(crate) fn request(&self, method: Method, path: &str, task: Option<&str>) -> Result<RequestBuilder, ProxyError> {
        let token = self.key.current().token(self.agent_id, SystemClock.now())?;
        let request = self.http()?.request(method, format!("{}{path}", self.endpoint)).bearer_auth(token);
        Ok(match task {
            Some(task) => request.header(TASK, task),
            None => request,
        })
    }

    fn http(&self) -> Result<&Client, reqwest::Error> {
        if let Some(http) = self.http.get() {
            return Ok(http);
        }
        // What proxy variables say is for programs that may leave the sandbox. HTTP/2 is what the platform speaks on every
        // port for agents.
        let mut http = Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_LIMIT)
            .http2_prior_knowledge()
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW);
        if let Some(ca) = &self.ca {
            http = http.tls_certs_only(Certificate::from_pem_bundle(ca.as_bytes())?);
        }
        let http = http.build()?;
        Ok(self.http.get_or_init(|| http))
    }
}

/// An error with its causes, without the URL.
pub(crate) fn chain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
