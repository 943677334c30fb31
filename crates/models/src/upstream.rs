//! Providers, over HTTP.

use bytes::Bytes;
use http::HeaderMap;
use mi_kernel::{Error, Result};
use reqwest::{Client, Response, redirect::Policy};

use crate::Limits;

/// Calls providers.
#[derive(Clone)]
pub(crate) struct Upstream(Client);

/// A request for a provider.
pub(crate) struct Outgoing {
    pub(crate) url: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Why there is no answer.
pub(crate) enum Failed {
    /// Nothing was sent.
    NotSent(reqwest::Error),
    /// It may have been.
    Broken(reqwest::Error),
}

impl Upstream {
    /// Goes where it is sent and nowhere else: no redirects, no proxies of the environment. Each call has a connection of
    /// its own: on one of HTTP/2 a client that does not read would hold up everybody's calls to a provider.
    pub(crate) fn new(limits: &Limits) -> Result<Self> {
        let client = Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .referer(false)
            .http1_only()
            .connect_timeout(limits.connect);
        client.build().map(Self).map_err(Error::internal)
    }

    /// Sends a request; once more where the first try got no connection, since nothing was sent then.
    pub(crate) async fn send(&self, outgoing: &Outgoing) -> std::result::Result<Response, Failed> {
        match self.try_once(outgoing).await {
            Err(Failed::NotSent(_)) => self.try_once(outgoing).await,
            answered => answered,
        }
    }

    async fn try_once(&self, outgoing: &Outgoing) -> std::result::Result<Response, Failed> {
        let request = self.0.post(&outgoing.url).headers(outgoing.headers.clone()).body(outgoing.body.clone());
        request.send().await.map_err(|error| {
            // The URL names a server of the operator's.
            let error = error.without_url();
            if error.is_connect() || error.is_builder() { Failed::NotSent(error) } else { Failed::Broken(error) }
        })
    }
}
