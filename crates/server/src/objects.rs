//! Object storage by URL: backups, log segments and the content of files.

use std::{fs, path::Path, sync::Arc};

use mi_kernel::{Error, Result};
use object_store::{ObjectStore, local::LocalFileSystem, parse_url_opts, prefix::PrefixStore};
use url::Url;

/// Opens the storage: a directory for none, else `file:///directory` or `s3://bucket/prefix` (credentials and endpoint
/// from the usual AWS_* variables).
pub(crate) fn open(url: Option<&str>, data_dir: &Path) -> Result<Arc<dyn ObjectStore>> {
    let invalid = || Error::invalid("object_store", "must be file:///DIRECTORY or s3://BUCKET/PREFIX");
    let url = url.map(Url::parse).transpose().map_err(|error| invalid().caused_by(error))?;
    let directory = match &url {
        None => Some(data_dir.join("objects")),
        Some(url) if url.scheme() == "file" => Some(url.to_file_path().map_err(|()| invalid())?),
        Some(_) => None,
    };
    if let Some(directory) = directory {
        let unusable = |error: Box<dyn std::error::Error + Send + Sync>| {
            let text = format!("cannot use the object directory {}", directory.display());
            Error::precondition("OBJECT_STORE", text).caused_by(error)
        };
        fs::create_dir_all(&directory).map_err(|error| unusable(error.into()))?;
        let local = LocalFileSystem::new_with_prefix(&directory).map_err(|error| unusable(error.into()))?;
        // What a row says is stored must be there after a power cut, too. Directories that a removed office leaves empty go.
        return Ok(Arc::new(local.with_fsync(true).with_automatic_cleanup(true)));
    }
    let options = std::env::vars().map(|(name, value)| (name.to_ascii_lowercase(), value));
    let (store, prefix) = url
        .filter(|url| url.scheme() == "s3")
        .ok_or_else(invalid)
        .and_then(|url| parse_url_opts(&url, options).map_err(|error| invalid().caused_by(error)))?;
    Ok(Arc::new(PrefixStore::new(store, prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_schemes() {
        let root = tempfile::tempdir().expect("directory");
        assert!(open(None, root.path()).is_ok());
        assert!(root.path().join("objects").is_dir());
        let file = format!("file://{}/elsewhere", root.path().display());
        assert!(open(Some(&file), root.path()).is_ok());
        for bad in ["", "nonsense", "ftp://host/x", "memory:///"] {
            assert_eq!(open(Some(bad), root.path()).expect_err(bad).field, Some("object_store"));
        }
    }
}
