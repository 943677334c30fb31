//! Object storage in which one office's objects cannot be changed.

use std::{fmt, sync::Arc};

use futures::{StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};

/// Refuses to write and to delete what has this text in its path; all else goes through.
#[derive(Debug, Clone)]
pub struct Stuck {
    inner: Arc<dyn ObjectStore>,
    text: String,
}

impl Stuck {
    /// In front of this storage. The text is the id of an office, as a rule.
    pub fn new(inner: Arc<dyn ObjectStore>, text: impl fmt::Display) -> Self {
        Self { inner, text: text.to_string() }
    }

    fn check(&self, path: &Path) -> Result<()> {
        match path.as_ref().contains(&self.text) {
            true => Err(Error::Generic { store: "Stuck", source: "as told".into() }),
            false => Ok(()),
        }
    }
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stuck({})", self.text)
    }
}

#[async_trait::async_trait]
impl ObjectStore for Stuck {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.check(location)?;
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.check(at)?;
        self.inner.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let stuck = self.clone();
        let checked = locations.map(move |path| path.and_then(|path| stuck.check(&path).map(|()| path)));
        self.inner.delete_stream(checked.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.check(to)?;
        self.inner.copy_opts(from, to, options).await
    }
}
