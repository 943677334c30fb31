//! Credentials of an object storage that rotate: read anew out of the file where whoever rotates them writes them.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use mi_kernel::{Error, Result};
use object_store::{CredentialProvider, aws::AwsCredential};

/// A file as that of the AWS command line: `[PROFILE]`, `aws_access_key_id`, `aws_secret_access_key`, `aws_session_token`.
#[derive(Debug)]
pub(super) struct CredentialsFile {
    path: PathBuf,
    profile: String,
    last: Mutex<Arc<AwsCredential>>,
}

impl CredentialsFile {
    /// Reads the file for the first time: what is wrong with it shows at the start.
    pub(super) fn open(path: PathBuf, profile: String) -> Result<Self> {
        let first = read(&path, &profile)?;
        Ok(Self { path, profile, last: Mutex::new(Arc::new(first)) })
    }
}

#[async_trait::async_trait]
impl CredentialProvider for CredentialsFile {
    type Credential = AwsCredential;

    /// What the file says now; while it is being written, what it said before. It is small, and each request asks.
    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match read(&self.path, &self.profile) {
            Ok(fresh) if fresh != **last => *last = Arc::new(fresh),
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(target: "mi::server", error = %error.chain(), "the object storage's last credentials are used");
            }
        }
        Ok(last.clone())
    }
}

fn read(path: &PathBuf, profile: &str) -> Result<AwsCredential> {
    let bad = |what: &str| Error::invalid("AWS_SHARED_CREDENTIALS_FILE", format!("{what}: {}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| bad("cannot be read").caused_by(error))?;
    parse(&text, profile)
        .ok_or_else(|| bad(&format!("has no aws_access_key_id and aws_secret_access_key in [{profile}]")))
}

fn parse(text: &str, profile: &str) -> Option<AwsCredential> {
    let (mut within, mut key_id, mut secret_key, mut token) = (false, None, None, None);
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            within = name.trim() == profile;
        } else if let Some((name, value)) = line.split_once('=').filter(|_| within) {
            let field = match name.trim() {
                "aws_access_key_id" => &mut key_id,
                "aws_secret_access_key" => &mut secret_key,
                "aws_session_token" => &mut token,
                _ => continue,
            };
            *field = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
        }
    }
    Some(AwsCredential { key_id: key_id?, secret_key: secret_key?, token })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_read_anew_and_half_a_file_changes_nothing() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("credentials");
        let write = |text: &str| fs::write(&path, text).expect("written");
        let error = CredentialsFile::open(path.clone(), "default".into()).expect_err("no file");
        assert_eq!(error.field, Some("AWS_SHARED_CREDENTIALS_FILE"), "{error}");
        let other = "[other]\naws_access_key_id = x\naws_secret_access_key = y\n";
        write(other);
        let error = CredentialsFile::open(path.clone(), "default".into()).expect_err("nothing in it");
        assert!(error.message.contains("in [default]"), "{error}");

        let credential = |key_id: &str, secret_key: &str, token: Option<&str>| AwsCredential {
            key_id: key_id.into(),
            secret_key: secret_key.into(),
            token: token.map(str::to_owned),
        };
        write(&format!("# made\n[default]\naws_access_key_id=one\naws_secret_access_key = a=b \n{other}"));
        let file = CredentialsFile::open(path.clone(), "default".into()).expect("opens");
        assert_eq!(*file.get_credential().await.expect("given"), credential("one", "a=b", None));
        write("[default]\naws_access_key_id = two\naws_secret_acc");
        assert_eq!(*file.get_credential().await.expect("given"), credential("one", "a=b", None));
        write("[default]\naws_access_key_id = two\naws_secret_access_key = c\naws_session_token = t\n");
        assert_eq!(*file.get_credential().await.expect("given"), credential("two", "c", Some("t")));
    }
}
