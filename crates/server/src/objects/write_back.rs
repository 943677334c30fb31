//! A directory as object storage, whose large objects go to the disk while they arrive: else all of that waits for the end,
//! when whoever uploads waits for it, too.

use std::{fmt, fs::File, ops::Range, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart, local::LocalFileSystem, path::Path,
};
use tokio::task::JoinHandle;

/// Bytes after which what has come is sent to the disk.
const STRETCH_BYTES: usize = 16 << 20;

/// See the module.
#[derive(Debug)]
pub(super) struct WriteBack(LocalFileSystem);

impl WriteBack {
    pub(super) fn new(directory: LocalFileSystem) -> Self {
        Self(directory)
    }

    /// The file that an object is written to until it is whole. Another one, or none, where somebody else writes the
    /// same object: then all of it goes to the disk in the end, as it always does.
    fn unfinished(&self, location: &Path) -> Option<File> {
        let path = self.0.path_to_filesystem(location).ok()?;
        let mut unfinished = path.into_os_string();
        unfinished.push("#1");
        File::open(PathBuf::from(unfinished)).ok()
    }
}

impl fmt::Display for WriteBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for WriteBack {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.0.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let upload = self.0.put_multipart_opts(location, options).await?;
        let Some(file) = self.unfinished(location) else { return Ok(upload) };
        Ok(Box::new(Upload { upload, file: Arc::new(file), unsent: 0, sending: None }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.0.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.0.rename_opts(from, to, options).await
    }
}

/// An object that arrives in parts.
#[derive(Debug)]
struct Upload {
    upload: Box<dyn MultipartUpload>,
    file: Arc<File>,
    /// Bytes that came since the disk was last given some.
    unsent: usize,
    sending: Option<JoinHandle<()>>,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.unsent += data.content_length();
        if self.unsent >= STRETCH_BYTES && self.sending.as_ref().is_none_or(JoinHandle::is_finished) {
            self.unsent = 0;
            let file = self.file.clone();
            // What fails here fails at the end once more, where it is told.
            self.sending = Some(tokio::task::spawn_blocking(move || drop(file.sync_data())));
        }
        self.upload.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.upload.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn what_has_come_goes_to_the_disk_before_the_rest_has() {
        let root = tempfile::tempdir().expect("directory");
        let store = WriteBack::new(LocalFileSystem::new_with_prefix(root.path()).expect("opens"));
        let path = Path::from("office/object");
        let upload = store.0.put_multipart_opts(&path, PutMultipartOptions::default()).await.expect("begins");
        let file = Arc::new(store.unfinished(&path).expect("has the name that the storage gives what is not whole"));
        let mut upload = Upload { upload, file: file.clone(), unsent: 0, sending: None };
        upload.put_part(vec![1; STRETCH_BYTES - 1].into()).await.expect("written");
        assert!(upload.sending.is_none(), "is too little");
        upload.put_part(vec![2; 1].into()).await.expect("written");
        upload.sending.take().expect("is on its way").await.expect("ends");
        assert_eq!((upload.unsent, file.metadata().expect("is there").len()), (0, STRETCH_BYTES as u64));
        upload.complete().await.expect("whole");
        assert_eq!(fs::read(root.path().join("office/object")).expect("read").len(), STRETCH_BYTES);
    }
}
