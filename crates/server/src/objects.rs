//! Object storage by URL: backups, log segments and the content of files.

mod credentials;
mod write_back;

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use mi_kernel::{Clock, Error, Result, SystemClock};
use object_store::{
    ObjectStore, ObjectStoreExt, ObjectStoreScheme, aws::AmazonS3Builder, local::LocalFileSystem, prefix::PrefixStore,
};
use url::Url;

use self::{credentials::CredentialsFile, write_back::WriteBack};

/// What nobody has written to for so long is nobody's: every upload ends sooner.
const UNFINISHED: Duration = Duration::from_secs(24 * 3600);

/// Opens the storage: a directory for none, else `file:///directory` or `s3://bucket/prefix` (credentials and endpoint
/// from the usual AWS_* variables; `AWS_SHARED_CREDENTIALS_FILE` for credentials that rotate).
pub(crate) fn open(url: Option<&str>, data_dir: &Path) -> Result<Arc<dyn ObjectStore>> {
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
        match url {
            // Nobody else writes there while this process has the data directory.
            None => remove_unfinished(&directory, now()),
            Some(_) => {
                let shared = directory.clone();
                thread::spawn(move || remove_unfinished(&shared, now() - UNFINISHED));
            }
        }
        let local = LocalFileSystem::new_with_prefix(&directory).map_err(|error| unusable(error.into()))?;
        // What a row says is stored must be there after a power cut, too. Directories that a removed office leaves empty go.
        return Ok(Arc::new(WriteBack::new(local.with_fsync(true).with_automatic_cleanup(true))));
    }
    remote(&url.ok_or_else(invalid)?)
}

fn remote(url: &Url) -> Result<Arc<dyn ObjectStore>> {
    if url.scheme() != "s3" {
        return Err(invalid());
    }
    let (_, prefix) = ObjectStoreScheme::parse(url).map_err(|error| invalid().caused_by(error))?;
    // Only those of the cloud: the storage's own library would take a TOKEN or an ENDPOINT for its own, too.
    let variables: HashMap<String, String> = std::env::vars().filter(|(name, _)| name.starts_with("AWS_")).collect();
    let mut builder = AmazonS3Builder::new().with_url(url.as_str());
    for (name, value) in &variables {
        if let Ok(key) = name.to_ascii_lowercase().parse() {
            builder = builder.with_config(key, value);
        }
    }
    let named = ["AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE"].iter().any(|name| variables.contains_key(*name));
    if let Some(file) = variables.get("AWS_SHARED_CREDENTIALS_FILE").filter(|_| !named) {
        let profile = variables.get("AWS_PROFILE").map_or("default", String::as_str);
        builder = builder.with_credentials(Arc::new(CredentialsFile::open(file.into(), profile.to_owned())?));
    }
    let store = builder.build().map_err(|error| invalid().caused_by(error))?;
    Ok(Arc::new(PrefixStore::new(store, prefix)))
}

fn invalid() -> Error {
    Error::invalid("object_store", "must be file:///DIRECTORY or s3://BUCKET/PREFIX")
}

/// Writes an object of its own to the storage, reads it and deletes it; a directory has to be there.
pub(crate) async fn try_out(url: &str) -> Result<()> {
    let url = Url::parse(url).map_err(|error| invalid().caused_by(error))?;
    let failed = |error: object_store::Error| Error::unavailable("the object storage cannot be used").caused_by(error);
    let store: Arc<dyn ObjectStore> = match url.scheme() {
        "file" => {
            let directory = url.to_file_path().map_err(|()| invalid())?;
            Arc::new(LocalFileSystem::new_with_prefix(directory).map_err(failed)?)
        }
        _ => remote(&url)?,
    };
    let path = object_store::path::Path::from(format!("doctor-{}", uuid::Uuid::new_v4()));
    let content: &[u8] = b"mi doctor";
    let tried = async {
        store.put(&path, content.into()).await?;
        store.get(&path).await?.bytes().await
    };
    let read = tried.await;
    let deleted = store.delete(&path).await;
    let read = read.map_err(failed)?;
    deleted.map_err(failed)?;
    match read == content {
        true => Ok(()),
        false => Err(Error::unavailable("the object storage does not give back what it was given")),
    }
}

/// Removes what processes that were killed had not finished: an object is written as `NAME#N` and renamed when it is
/// whole. Through the storage itself such files cannot be seen.
fn remove_unfinished(directory: &Path, before: SystemTime) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries {
        let unfinished = || {
            let name = entry.file_name();
            let (_, number) = name.to_str()?.rsplit_once('#')?;
            let numbered = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            Some(numbered && entry.metadata().ok()?.modified().ok()? <= before)
        };
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => remove_unfinished(&entry.path(), before),
            Ok(kind) if kind.is_file() && unfinished() == Some(true) => {
                let removed = fs::remove_file(entry.path());
                tracing::debug!(target: "mi::server", path = %entry.path().display(), ?removed, "an unfinished object");
            }
            _ => {}
        }
    }
}

/// As the times of files are compared with.
fn now() -> SystemTime {
    SystemClock.now().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_was_writing_is_removed_when_it_is_nobodys() {
        let root = tempfile::tempdir().expect("directory");
        let deep = root.path().join("objects/office/drive");
        fs::create_dir_all(&deep).expect("made");
        let write = |name: &str, age: Duration| {
            let file = fs::File::create(deep.join(name)).expect("written");
            file.set_modified(now() - age).expect("set");
        };
        let names = || {
            let entries = fs::read_dir(&deep).expect("listed").map(|entry| entry.expect("an entry").file_name());
            let mut names: Vec<String> = entries.map(|name| name.into_string().expect("plain")).collect();
            names.sort();
            names
        };
        for (name, age) in
            [("a", UNFINISHED * 2), ("a#1", UNFINISHED * 2), ("b#2", Duration::ZERO), ("c#x", UNFINISHED * 2)]
        {
            write(name, age);
        }
        remove_unfinished(root.path(), now() - UNFINISHED);
        assert_eq!(names(), ["a", "b#2", "c#x"]);
        open(None, root.path()).expect("opens");
        assert_eq!(names(), ["a", "c#x"]);
    }

    #[tokio::test]
    async fn an_object_of_many_stretches_is_whole_and_what_is_given_up_is_gone() {
        let root = tempfile::tempdir().expect("directory");
        let store = open(None, root.path()).expect("opens");
        let path = object_store::path::Path::from("office/drive/object");
        let part = |number: u8| vec![number; 5 << 20];
        let mut upload = store.put_multipart(&path).await.expect("begins");
        for number in 0..9 {
            upload.put_part(part(number).into()).await.expect("written");
        }
        upload.complete().await.expect("whole");
        let read = store.get(&path).await.expect("is there").bytes().await.expect("read");
        assert!(read == (0..9).flat_map(part).collect::<Vec<_>>(), "{} bytes", read.len());
        store.delete(&path).await.expect("deleted");

        let mut upload = store.put_multipart(&path).await.expect("begins");
        for number in 0..9 {
            upload.put_part(part(number).into()).await.expect("written");
        }
        upload.abort().await.expect("given up");
        drop(upload);
        let left = fs::read_dir(root.path().join("objects/office/drive")).into_iter().flatten().count();
        assert_eq!(left, 0);
    }

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
