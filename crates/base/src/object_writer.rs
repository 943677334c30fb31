//! Writing one object in parts, so that nothing of one that is given up stays in storage.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures::{
    FutureExt,
    future::{BoxFuture, ready},
};
use object_store::{ObjectStore, buffered::BufWriter, path::Path};
use tokio::{io::AsyncWriteExt, runtime::Handle};

/// An object on its way to storage, which is there once it is finished. Dropped before that, what it wrote is taken back.
///
/// A call that is given up half-way has perhaps begun something in storage of which only its answer tells, and a part that
/// arrives after all others were taken back would stay. So what was begun goes on to its end, with or without its caller.
pub struct ObjectWriter {
    /// Until it is taken back.
    step: Option<Step>,
}

/// What is being done, and then the writer, unless that was the end of it.
type Step = BoxFuture<'static, (Option<BufWriter>, io::Result<()>)>;

impl ObjectWriter {
    /// Writes to this path, so many parts of so many bytes at once while the next one is collected.
    pub fn new(store: Arc<dyn ObjectStore>, path: Path, part_bytes: usize, parts_at_once: usize) -> Self {
        let writer = BufWriter::with_capacity(store, path, part_bytes).with_max_concurrency(parts_at_once);
        Self { step: Some(ready((Some(writer), Ok(()))).boxed()) }
    }

    /// Adds a piece; waits while the storage is slower. After an error nothing more can be added.
    pub async fn put(&mut self, piece: Bytes) -> io::Result<()> {
        let put = |mut writer: BufWriter| async move {
            let outcome = writer.put(piece).await;
            (Some(writer), outcome.map_err(io::Error::from))
        };
        self.next(|writer| put(writer).boxed()).await
    }

    /// From now on the object is there.
    pub async fn finish(&mut self) -> io::Result<()> {
        let finish = |mut writer: BufWriter| async move { (None, writer.shutdown().await) };
        self.next(|writer| finish(writer).boxed()).await
    }

    async fn next(&mut self, begin: impl FnOnce(BufWriter) -> Step) -> io::Result<()> {
        let ended = || io::Error::other("the object was finished, or given up");
        let step = self.step.as_mut().ok_or_else(ended)?;
        // What an earlier call left behind comes first.
        *step = match step.as_mut().await {
            (Some(writer), Ok(())) => begin(writer),
            (None, Ok(())) => ready((None, Err(ended()))).boxed(),
            failed => ready(failed).boxed(),
        };
        let (writer, outcome) = step.as_mut().await;
        *step = ready((writer, Ok(()))).boxed();
        outcome
    }

    /// Takes back what was written, unless it was finished. What cannot be taken back is in nobody's way.
    pub async fn abort(mut self) {
        if let Some(step) = self.step.take() {
            end(step).await;
        }
    }
}

impl Drop for ObjectWriter {
    fn drop(&mut self) {
        // Without a runtime the process is ending.
        if let (Some(step), Ok(runtime)) = (self.step.take(), Handle::try_current()) {
            runtime.spawn(end(step));
        }
    }
}

async fn end(step: Step) {
    let (Some(writer), _) = step.await else { return };
    // Waits for the parts that are on their way. Each failure is one of theirs.
    let mut writer = writer.with_max_concurrency(0);
    while writer.put(Bytes::new()).await.is_err() {}
    let _ = writer.abort().await;
}

#[cfg(test)]
mod tests {
    use std::{
        fmt,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use futures::stream::BoxStream;
    use object_store::{
        CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStoreExt,
        PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart, memory::InMemory,
    };
    use tokio::task::yield_now;

    use super::*;

    const PART_BYTES: usize = 1000;

    /// Storage that answers a little later than it acts, and knows which uploads in parts it has open.
    #[derive(Debug, Clone, Default)]
    struct Late {
        inner: Arc<InMemory>,
        open: Arc<AtomicUsize>,
    }

    impl fmt::Display for Late {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Late")
        }
    }

    #[async_trait::async_trait]
    impl ObjectStore for Late {
        async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
            let put = self.inner.put_opts(location, payload, options).await;
            yield_now().await;
            put
        }

        async fn put_multipart_opts(
            &self,
            at: &Path,
            options: PutMultipartOptions,
        ) -> Result<Box<dyn MultipartUpload>> {
            let inner = self.inner.put_multipart_opts(at, options).await?;
            self.open.fetch_add(1, Ordering::SeqCst);
            yield_now().await;
            Ok(Box::new(LateUpload { inner, open: self.open.clone() }))
        }

        async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
            self.inner.get_opts(location, options).await
        }

        fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
            self.inner.delete_stream(locations)
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
    struct LateUpload {
        inner: Box<dyn MultipartUpload>,
        open: Arc<AtomicUsize>,
    }

    #[async_trait::async_trait]
    impl MultipartUpload for LateUpload {
        fn put_part(&mut self, data: PutPayload) -> UploadPart {
            self.inner.put_part(data)
        }

        async fn complete(&mut self) -> Result<PutResult> {
            let completed = self.inner.complete().await;
            self.open.fetch_sub(1, Ordering::SeqCst);
            yield_now().await;
            completed
        }

        async fn abort(&mut self) -> Result<()> {
            self.open.fetch_sub(1, Ordering::SeqCst);
            self.inner.abort().await
        }
    }

    impl Late {
        fn writer(&self) -> ObjectWriter {
            ObjectWriter::new(Arc::new(self.clone()), Path::from("object"), PART_BYTES, 2)
        }

        /// Bytes of the object, and uploads that are open.
        async fn left(&self) -> (Option<u64>, usize) {
            let object = self.inner.head(&Path::from("object")).await;
            (object.ok().map(|object| object.size), self.open.load(Ordering::SeqCst))
        }
    }

    fn part() -> Bytes {
        vec![0; PART_BYTES].into()
    }

    #[tokio::test]
    async fn an_object_that_is_given_up_while_it_begins_leaves_nothing() {
        let store = Late::default();
        let mut writer = store.writer();
        assert!(writer.put(part()).now_or_never().is_none(), "storage has not answered yet");
        assert_eq!(store.left().await, (None, 1));
        writer.abort().await;
        assert_eq!(store.left().await, (None, 0));
    }

    #[tokio::test]
    async fn an_object_that_is_dropped_leaves_nothing() {
        let store = Late::default();
        let mut writer = store.writer();
        for _ in 0..4 {
            writer.put(part()).await.expect("is taken");
        }
        drop(writer);
        while store.left().await != (None, 0) {
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn an_end_that_nobody_waits_for_comes() {
        for (parts, open) in [(0, 0), (3, 1)] {
            let store = Late::default();
            let mut writer = store.writer();
            for _ in 0..parts {
                writer.put(part()).await.expect("is taken");
            }
            assert!(writer.finish().now_or_never().is_none(), "storage has not answered yet");
            assert_eq!(store.left().await.1, open);
            writer.abort().await;
            assert_eq!(store.left().await, (Some(parts * PART_BYTES as u64), 0));
        }
    }

    #[tokio::test]
    async fn an_object_that_is_finished_takes_no_more() {
        let store = Late::default();
        let mut writer = store.writer();
        writer.put(part()).await.expect("is taken");
        writer.finish().await.expect("is there");
        assert!(writer.put(part()).await.is_err());
        assert!(writer.finish().await.is_err());
        writer.abort().await;
        assert_eq!(store.left().await, (Some(PART_BYTES as u64), 0));
    }
}
