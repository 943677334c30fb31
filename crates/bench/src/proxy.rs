//! `mi-bench proxy BACKEND KEY_FILE`: as little as a proxy can do.
//!
//! Passes HTTP/2 on as it comes, to a few connections in turn, and says of every call that the administrator makes it.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderValue, Request, Response, Uri, uri::Scheme};
use hyper::{
    body::Incoming,
    client::conn::http2::{self as client, SendRequest},
    server::conn::http2 as server,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mi_kernel::{AccountId, Actor, ApiKeyId, Clock, SystemClock};
use mi_rpc::{PrincipalKey, principal::PRINCIPAL_HEADER};
use nix::sys::{prctl, signal::Signal};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use crate::Result;

/// As many as the gateway has to each role.
const CONNECTIONS: usize = 4;
/// Tokens live for a minute.
const RENEW: Duration = Duration::from_secs(20);
const CONNECTION_WINDOW: u32 = 4 << 20;
const STREAM_WINDOW: u32 = 1 << 20;

/// Connections to the backend.
struct Backend {
    authority: String,
    senders: Vec<SendRequest<Incoming>>,
    next: AtomicUsize,
    token: watch::Receiver<HeaderValue>,
}

/// Serves until it is killed, at the latest with the process that started it. Prints its address.
pub(crate) async fn run(args: &[String]) -> Result {
    let [authority, key_file] = args else {
        return Err("usage: mi-bench proxy HOST:PORT KEY_FILE".into());
    };
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let backend = Arc::new(Backend::connect(authority, Path::new(key_file)).await?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let backend = backend.clone();
        let service = service_fn(move |request| {
            let backend = backend.clone();
            async move { backend.pass(request).await }
        });
        let mut http2 = server::Builder::new(TokioExecutor::new());
        http2
            .max_concurrent_streams(1024)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_stream_window_size(STREAM_WINDOW);
        // How a connection ends is the caller's business.
        tokio::spawn(http2.serve_connection(TokioIo::new(stream), service));
    }
}

impl Backend {
    async fn connect(authority: &str, key_file: &Path) -> Result<Self> {
        let tls = connector(&key_file.with_file_name("internal-tls"))?;
        let mut senders = Vec::new();
        for _ in 0..CONNECTIONS {
            let stream = TcpStream::connect(authority).await?;
            stream.set_nodelay(true)?;
            let stream = tls.connect("scheduler.mi.internal".try_into()?, stream).await?;
            let mut http2 = client::Builder::new(TokioExecutor::new());
            http2.initial_connection_window_size(CONNECTION_WINDOW).initial_stream_window_size(STREAM_WINDOW);
            let (sender, connection) = http2.handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            senders.push(sender);
        }
        Ok(Self {
            authority: authority.to_owned(),
            senders,
            next: AtomicUsize::new(0),
            token: tokens(PrincipalKey::from_file(key_file)?)?,
        })
    }

    async fn pass(&self, mut request: Request<Incoming>) -> Result<Response<Incoming>> {
        let mut uri = std::mem::take(request.uri_mut()).into_parts();
        uri.scheme = Some(Scheme::HTTPS);
        uri.authority = Some(self.authority.parse()?);
        *request.uri_mut() = Uri::from_parts(uri)?;
        let token = self.token.borrow().clone();
        request.headers_mut().insert(PRINCIPAL_HEADER, token);
        let index = self.next.fetch_add(1, Ordering::Relaxed) % self.senders.len();
        Ok(self.senders[index].clone().send_request(request).await?)
    }
}

/// Shows the gateway's development certificate, as the gateway itself does.
fn connector(dir: &Path) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.join("ca.pem"))?)?;
    let cert = CertificateDer::from_pem_file(dir.join("gateway.pem"))?;
    let key = PrivateKeyDer::from_pem_file(dir.join("gateway.key"))?;
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_root_certificates(roots).with_client_auth_cert(vec![cert], key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// A token that is always fresh.
fn tokens(key: PrincipalKey) -> Result<watch::Receiver<HeaderValue>> {
    let actor = Actor::Operator { account_id: AccountId::new(), api_key_id: ApiKeyId::new(), administrator: true };
    let sign = move || HeaderValue::try_from(key.sign(&actor, SystemClock.now()));
    let (sender, token) = watch::channel(sign()?);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(RENEW).await;
            // The first one was signed in the same way.
            if let Ok(token) = sign() {
                sender.send_replace(token);
            }
        }
    });
    Ok(token)
}
