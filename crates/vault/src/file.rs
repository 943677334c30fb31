//! Master keys in a file.

use std::{
    fs,
    io::{ErrorKind, Read},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use mi_base::files;
use mi_kernel::{OfficeId, Result};
use nix::fcntl::{Flock, FlockArg};
use zeroize::Zeroizing;

use crate::{
    DataKey, KeyId, KeyWrapper,
    keyring::{Keyring, unusable},
};

/// Master keys in a file of mode 0600, a key a line, the newest first. The file is read at each use: what an operator
/// puts there counts at once, and between two uses no key is in memory.
#[derive(Debug)]
pub struct FileKeys {
    path: PathBuf,
    source: String,
}

impl FileKeys {
    /// Keys in this file, which [`KeyWrapper::start`] makes when it is missing.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self { source: format!("the master key file {}", path.display()), path }
    }

    /// None: there is no file.
    fn read(&self) -> Result<Option<Keyring>> {
        let unreadable = |error: std::io::Error| unusable(format!("{} cannot be read", self.source)).caused_by(error);
        let mut file = match fs::File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(error)),
        };
        let found = file.metadata().map_err(unreadable)?;
        if !files::is_private(&found) {
            let mode = found.permissions().mode() & 0o777;
            let path = self.path.display();
            return Err(unusable(format!("{} is open to others (mode {mode:03o}): chmod 600 {path}", self.source)));
        }
        let mut text = Zeroizing::new(String::with_capacity(256));
        file.read_to_string(&mut text).map_err(unreadable)?;
        Keyring::parse(&text, &self.source).map(Some)
    }

    /// Held while the file is read and written anew: of processes that share it one does so at a time.
    fn lock(&self) -> Result<Flock<fs::File>> {
        let failed = |error: std::io::Error| unusable(format!("{} cannot be written", self.source)).caused_by(error);
        let path = self.path.with_extension("lock");
        let file =
            fs::File::options().write(true).create(true).truncate(false).mode(0o600).open(path).map_err(failed)?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| failed(errno.into()))
    }

    fn keys(&self) -> Result<Keyring> {
        self.read()?.ok_or_else(|| unusable(format!("{} is missing; put it back", self.source)))
    }

    fn write(&self, keys: &Keyring) -> Result<()> {
        write(&self.path, keys).map_err(|error| unusable(format!("{} cannot be written", self.source)).caused_by(error))
    }
}

fn write(path: &Path, keys: &Keyring) -> std::io::Result<()> {
    files::write_private(path, keys.text().as_bytes())
}

#[async_trait]
impl KeyWrapper for FileKeys {
    async fn start(&self, in_use: Option<&KeyId>) -> Result<KeyId> {
        let keys = match (self.read()?, in_use) {
            (Some(keys), _) => keys,
            (None, None) => {
                let _lock = self.lock()?;
                // Another process may have made it meanwhile.
                match self.read()? {
                    Some(keys) => keys,
                    None => {
                        let keys = Keyring::random();
                        self.write(&keys)?;
                        keys
                    }
                }
            }
            (None, Some(id)) => {
                return Err(mi_kernel::Error::precondition(
                    "MASTER_KEY_UNKNOWN",
                    format!(
                        "{} is missing, and the database is wrapped by the master key {id}; put it back",
                        self.source
                    ),
                ));
            }
        };
        in_use.map_or(Ok(()), |id| keys.require(id, &self.source))?;
        Ok(keys.newest().clone())
    }

    async fn wrap(&self, key_id: &KeyId, office_id: OfficeId, data_key: &DataKey) -> Result<Vec<u8>> {
        self.keys()?.wrap(key_id, office_id, data_key, &self.source)
    }

    async fn unwrap(&self, key_id: &KeyId, office_id: OfficeId, wrapped: &[u8]) -> Result<DataKey> {
        self.keys()?.unwrap(key_id, office_id, wrapped, &self.source)
    }

    async fn advance(&self, in_use: &KeyId, unfinished: bool) -> Result<KeyId> {
        let _lock = self.lock()?;
        let keys = self.keys()?;
        keys.require(in_use, &self.source)?;
        if unfinished || keys.newest() != in_use {
            return Ok(keys.newest().clone());
        }
        // Both stand in the file before anything is wrapped by the new one.
        let keys = keys.grown();
        self.write(&keys)?;
        Ok(keys.newest().clone())
    }

    async fn retire(&self, keep: &KeyId) -> Result<()> {
        let _lock = self.lock()?;
        let keys = self.keys()?;
        let before = keys.len();
        let keys = keys.since(keep, &self.source)?;
        match keys.len() == before {
            true => Ok(()),
            false => self.write(&keys),
        }
    }
}
