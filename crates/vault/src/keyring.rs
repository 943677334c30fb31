//! Master keys as text: the base64 of 32 bytes each, the newest first, separated by white space.

use base64::{Engine, engine::general_purpose::STANDARD};
use mi_kernel::{Error, OfficeId, Result};
use ring::digest;
use zeroize::Zeroizing;

use crate::{
    DataKey, KeyId,
    key::{KEY_LEN, Key},
};

struct MasterKey {
    id: KeyId,
    key: Key,
}

impl MasterKey {
    fn new(key: Key) -> Self {
        // Of 256 random bits no hash tells anything.
        let mut named = digest::Context::new(&digest::SHA256);
        named.update(b"mi master key id");
        named.update(key.bytes());
        Self { id: format!("mk_{}", hex::encode(&named.finish().as_ref()[..8])).into(), key }
    }
}

/// One key or several, the newest first.
pub(crate) struct Keyring(Vec<MasterKey>);

impl Keyring {
    pub(crate) fn random() -> Self {
        Self(vec![MasterKey::new(Key::random())])
    }

    /// Reads keys; what they come from, for the operator, is `source`.
    pub(crate) fn parse(text: &str, source: &str) -> Result<Self> {
        let mut keys: Vec<MasterKey> = Vec::new();
        for word in text.split_whitespace() {
            let bytes = STANDARD.decode(word).map(Zeroizing::new).ok();
            let key = bytes.and_then(|bytes| Key::from_bytes(&bytes)).map(MasterKey::new).ok_or_else(|| {
                // Never what stands there: it may be a key with a typing error.
                unusable(format!(
                    "{source} holds something that is not the base64 of {KEY_LEN} bytes; `openssl rand -base64 32` makes a key"
                ))
            })?;
            if keys.iter().any(|known| known.id == key.id) {
                return Err(unusable(format!("{source} holds the master key {} twice", key.id)));
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(unusable(format!("{source} holds no master key; `openssl rand -base64 32` makes one")));
        }
        Ok(Self(keys))
    }

    /// The text that [`Keyring::parse`] reads.
    pub(crate) fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(self.0.len() * 45));
        for master in &self.0 {
            STANDARD.encode_string(master.key.bytes(), &mut text);
            text.push('\n');
        }
        text
    }

    pub(crate) fn newest(&self) -> &KeyId {
        // Neither constructor makes an empty one, and nothing takes the last key out.
        &self.0[0].id
    }

    fn find(&self, id: &KeyId, source: &str) -> Result<&MasterKey> {
        self.0.iter().find(|master| master.id == *id).ok_or_else(|| {
            Error::precondition(
                "MASTER_KEY_UNKNOWN",
                format!(
                    "the master key {id}, which wraps keys in this database, is not in {source}; put it back there"
                ),
            )
        })
    }

    /// Makes sure that the key is here.
    pub(crate) fn require(&self, id: &KeyId, source: &str) -> Result<()> {
        self.find(id, source).map(drop)
    }

    /// The same keys after a fresh one.
    pub(crate) fn grown(self) -> Self {
        let mut keys = Self::random().0;
        keys.extend(self.0);
        Self(keys)
    }

    /// Without the keys older than this one. Newer ones stay: another process may be about to use them.
    pub(crate) fn since(mut self, id: &KeyId, source: &str) -> Result<Self> {
        self.require(id, source)?;
        let upto = self.0.iter().position(|master| master.id == *id).map_or(0, |at| at + 1);
        self.0.truncate(upto);
        Ok(self)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn wrap(&self, id: &KeyId, office_id: OfficeId, data_key: &DataKey, source: &str) -> Result<Vec<u8>> {
        let master = self.find(id, source)?;
        Ok(master.key.seal(&bound(id, &office_id), data_key.0.bytes()))
    }

    pub(crate) fn unwrap(&self, id: &KeyId, office_id: OfficeId, wrapped: &[u8], source: &str) -> Result<DataKey> {
        let master = self.find(id, source)?;
        let opened = master.key.open(&bound(id, &office_id), wrapped);
        opened.and_then(|bytes| Key::from_bytes(&bytes)).map(DataKey).ok_or_else(|| {
            Error::internal(format!("the data key of office {office_id} does not unwrap: it was altered or moved"))
        })
    }
}

fn bound<'a>(id: &'a KeyId, office_id: &'a OfficeId) -> [&'a [u8]; 3] {
    [b"mi data key", office_id.0.as_bytes(), id.as_str().as_bytes()]
}

pub(crate) fn unusable(message: String) -> Error {
    Error::precondition("MASTER_KEY", message)
}
