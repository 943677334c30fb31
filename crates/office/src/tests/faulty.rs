//! Object storage that fails when told to.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart, memory::InMemory, path::Path,
};

/// What storage does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Fault {
    #[default]
    None,
    /// Nothing can be written.
    Write,
    /// There is no space for more than has been written.
    Full,
    /// Parts are taken and cannot be put together.
    Complete,
    /// Nothing can be deleted.
    Delete,
    /// What is deleted is gone, and the answer lost.
    DeleteAnswer,
}

/// Object storage in memory, with a fault to choose. Clones share everything.
#[derive(Debug, Clone, Default)]
pub(super) struct Faulty {
    inner: Arc<InMemory>,
    fault: Arc<Mutex<Fault>>,
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

fn failure(cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Generic { store: "Faulty", source: Box::new(cause) }
}

impl Faulty {
    fn fault(&self) -> MutexGuard<'_, Fault> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn be(&self, fault: Fault) {
        *self.fault() = fault;
    }

    /// The paths of all objects.
    pub(super) async fn all(&self) -> Vec<String> {
        let objects: Vec<ObjectMeta> = self.inner.list(None).try_collect().await.expect("lists");
        objects.into_iter().map(|object| object.location.to_string()).collect()
    }

    /// How a write begins.
    fn written(&self) -> Result<()> {
        let fault = *self.fault();
        match fault {
            Fault::Write => Err(failure(std::io::Error::other("as told"))),
            Fault::Full => Err(failure(failure(std::io::Error::from(std::io::ErrorKind::StorageFull)))),
            Fault::None | Fault::Complete | Fault::Delete | Fault::DeleteAnswer => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.written()?;
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(at, options).await?;
        Ok(Box::new(FaultyUpload { inner, store: self.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let fault = *self.fault();
        match fault {
            Fault::Delete => locations.map(|_| Err(failure(std::io::Error::other("as told")))).boxed(),
            Fault::DeleteAnswer => {
                let deleted = self.inner.delete_stream(locations);
                deleted.map(|_| Err(failure(std::io::Error::other("as told")))).boxed()
            }
            _ => self.inner.delete_stream(locations),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    store: Faulty,
}

#[tonic::async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (part, store) = (self.inner.put_part(data), self.store.clone());
        Box::pin(async move {
            store.written()?;
            part.await
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let fault = *self.store.fault();
        match fault {
            Fault::Complete => Err(failure(std::io::Error::other("as told"))),
            _ => self.inner.complete().await,
        }
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}
