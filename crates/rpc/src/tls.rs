//! TLS: of the public listener, and, with certificates on both sides, between the roles.
//!
//! Between the roles a certificate names its role (`office.mi.internal`), whatever machine it is on: a client asks for that
//! name, and a server takes every certificate of the CA, which has to be used for nothing else.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use mi_base::files::write_private;
use mi_kernel::{Error, Result};
use nix::fcntl::{Flock, FlockArg};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
pub use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{
    RootCertStore, ServerConfig,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

/// Files of a certificate and its key, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFiles {
    /// The certificate, followed by its chain.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// What a listener for the public needs.
///
/// # Errors
/// `Invalid` naming the flag, when a file cannot be read or the two do not belong together.
pub fn public_acceptor(files: &KeyFiles) -> Result<TlsAcceptor> {
    let (chain, key) = load(files)?;
    let config = builder().with_no_client_auth().with_single_cert(chain, key);
    acceptor(config.map_err(|error| mismatch(files).caused_by(error))?, &[b"h2", b"http/1.1"])
}

/// The certificates with which one role meets the others.
#[derive(Clone)]
pub struct RoleTls {
    ca: Vec<u8>,
    files: KeyFiles,
}

impl std::fmt::Debug for RoleTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RoleTls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl RoleTls {
    /// Certificates from files.
    ///
    /// # Errors
    /// `Invalid` when the CA cannot be read.
    pub fn from_files(ca: &Path, files: KeyFiles) -> Result<Self> {
        let ca = fs::read(ca).map_err(|error| unreadable("internal_tls_ca", ca).caused_by(error))?;
        Ok(Self { ca, files })
    }

    /// A certificate of the development CA in this directory, which is made when missing. Every process that can read
    /// the directory can be any role: for development, or for one machine.
    ///
    /// # Errors
    /// `FailedPrecondition` when the directory cannot be used.
    pub fn development(dir: &Path, role: &str) -> Result<Self> {
        let unusable = |error: io::Error| {
            let text = format!("cannot use the directory of the development certificates {}", dir.display());
            Error::precondition("INTERNAL_TLS", text).caused_by(error)
        };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unusable)?;
        // Several processes start at the same moment, and one of them makes the CA.
        let lock = File::options().write(true).create(true).truncate(false).mode(0o600).open(dir.join("lock"));
        let _lock = Flock::lock(lock.map_err(unusable)?, FlockArg::LockExclusive)
            .map_err(|(_, errno)| unusable(errno.into()))?;
        let (ca_cert, ca_key) = (dir.join("ca.pem"), dir.join("ca.key"));
        if !ca_cert.exists() {
            let (cert, key) = new_ca().map_err(Error::internal)?;
            write_private(&ca_key, key.as_bytes())
                .and_then(|()| write_private(&ca_cert, cert.as_bytes()))
                .map_err(unusable)?;
        }
        let ca = fs::read(&ca_cert).map_err(unusable)?;
        let key = fs::read_to_string(&ca_key).map_err(unusable)?;
        let files = KeyFiles { cert: dir.join(format!("{role}.pem")), key: dir.join(format!("{role}.key")) };
        let (cert, key) = new_role(&key, role).map_err(|error| {
            let text = format!("{} is no private key; remove it and ca.pem", ca_key.display());
            Error::precondition("INTERNAL_TLS", text).caused_by(error)
        })?;
        write_private(&files.key, key.as_bytes())
            .and_then(|()| write_private(&files.cert, cert.as_bytes()))
            .map_err(unusable)?;
        tracing::warn!(
            target: "mi::tls",
            dir = %dir.display(),
            "using development certificates: whoever reads this directory can pose as any role; \
             for production give --internal-tls-ca, --internal-tls-cert and --internal-tls-key"
        );
        Ok(Self { ca, files })
    }

    /// For the role's listener: only callers with a certificate of the CA get through the handshake.
    ///
    /// # Errors
    /// `Invalid` naming the flag.
    pub fn acceptor(&self) -> Result<TlsAcceptor> {
        let mut roots = RootCertStore::empty();
        let bad = || Error::invalid("internal_tls_ca", "must be a PEM file of certificates");
        for cert in CertificateDer::pem_slice_iter(&self.ca) {
            roots.add(cert.map_err(|error| bad().caused_by(error))?).map_err(|error| bad().caused_by(error))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()));
        let verifier = verifier.build().map_err(|error| bad().caused_by(error))?;
        let (chain, key) = load(&self.files)?;
        let config = builder().with_client_cert_verifier(verifier).with_single_cert(chain, key);
        acceptor(config.map_err(|error| mismatch(&self.files).caused_by(error))?, &[b"h2"])
    }

    /// For calls to a role, which must show a certificate with its name.
    ///
    /// # Errors
    /// `Invalid` naming the flag.
    pub fn client(&self, role: &str) -> Result<ClientTlsConfig> {
        let read = |field, path: &Path| fs::read(path).map_err(|error| unreadable(field, path).caused_by(error));
        let cert = read("internal_tls_cert", &self.files.cert)?;
        let key = read("internal_tls_key", &self.files.key)?;
        Ok(ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.ca))
            .identity(Identity::from_pem(cert, key))
            .domain_name(role_name(role)))
    }
}

/// The name in a role's certificate.
fn role_name(role: &str) -> String {
    format!("{role}.mi.internal")
}

fn builder() -> tokio_rustls::rustls::ConfigBuilder<ServerConfig, tokio_rustls::rustls::WantsVerifier> {
    ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        // Fails only for a provider without the suites of TLS 1.2 and 1.3, and ring has both.
        .expect("ring has the suites of TLS")
}

fn acceptor(mut config: ServerConfig, protocols: &[&[u8]]) -> Result<TlsAcceptor> {
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn load(files: &KeyFiles) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = CertificateDer::pem_file_iter(&files.cert).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| unreadable("tls_cert", &files.cert).caused_by(error))?;
    if chain.is_empty() {
        return Err(Error::invalid("tls_cert", format!("holds no certificate: {}", files.cert.display())));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key);
    let key = key.map_err(|error| unreadable("tls_key", &files.key).caused_by(error))?;
    Ok((chain, key))
}

fn unreadable(field: &'static str, path: &Path) -> Error {
    Error::invalid(field, format!("must be a PEM file that can be read: {}", path.display()))
}

fn mismatch(files: &KeyFiles) -> Error {
    Error::invalid("tls_key", format!("is not the key of the certificate: {}", files.key.display()))
}

/// The CA as it signs: the same name whenever it is loaded.
fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "mi development CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Certificate and key.
fn new_ca() -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate()?;
    Ok((ca_params().self_signed(&key)?.pem(), key.serialize_pem()))
}

/// Certificate and key.
fn new_role(ca_key: &str, role: &str) -> Result<(String, String), rcgen::Error> {
    let issuer = Issuer::new(ca_params(), KeyPair::from_pem(ca_key)?);
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new([role_name(role)])?;
    params.distinguished_name.push(DnType::CommonName, role_name(role));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
}
