//! The objects that hold the drive's content: named by a row before their first byte is written, deleted after no row
//! needs them, and named by the trash until that is done. A crash at any step leaves a name that the sweep finds.

mod checksum;
mod sweep;

use std::{
    collections::HashMap,
    error::Error as StdError,
    fs, io,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use mi_base::{
    ObjectWriter,
    budget::{Budget, Share},
    disk_reserve::{DiskReserve, full, is_full},
};
use mi_kernel::{Clock, Error, ErrorKind, OfficeId, Result, Time};
use mi_store::Db;
use object_store::{GetOptions, GetRange, GetResultPayload, ObjectStore, ObjectStoreExt, path::Path};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    runtime::Handle,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::io::StreamReader;
use uuid::Uuid;

use self::checksum::Checksum;
pub use self::sweep::LEASE as SWEEP_LEASE;
use super::{
    repo::objects,
    rules::{Room, expired, no_memory, too_many},
};

/// How long the content of a replaced or deleted file stays for those who are reading it.
pub const GRACE: Duration = Duration::from_secs(3600);
/// The longest that an upload may take. Long before [`EXPIRY`]: what the sweep gives up, nobody writes any more.
const LONGEST_UPLOAD: Duration = Duration::from_secs(12 * 3600);
/// The longest that an upload may be silent: what it has sent waits in memory until it makes a part.
pub(super) const SILENCE: Duration = Duration::from_secs(60);
/// An upload that began so long ago was left behind by a process that died.
pub const EXPIRY: Duration = Duration::from_secs(24 * 3600);
/// Bytes of one write to storage: the least that S3 takes.
const PART_BYTES: usize = 5 << 20;
/// Writes at once, while the next part is received.
const CONCURRENT_PARTS: usize = 2;
/// Bytes of one read from storage.
const PIECE_BYTES: usize = 512 << 10;

/// Memory of all uploads of a process, of one office's at most half of it.
const MAX_MEMORY_BYTES: usize = 512 << 20;
/// What one upload holds at most: parts that are written, the one that is received, and a message.
const MAX_UPLOAD_BYTES_HELD: usize = (CONCURRENT_PARTS + 1) * PART_BYTES + (1 << 20);
/// Uploads of one office at a time, in one process. Until they end nobody counts their bytes, and each has buffers.
pub const MAX_UPLOADS: usize = 64;

/// Content that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) size: i64,
    /// Lower-case hex.
    pub(super) sha256: String,
}

/// The objects of all drives. Cheap to clone.
#[derive(Clone)]
pub struct Storage {
    db: Db,
    clock: Arc<dyn Clock>,
    store: Arc<dyn ObjectStore>,
    pub(crate) reserve: DiskReserve,
    open: Open,
    memory: Budget,
}

/// How many uploads each office has under way.
type Open = Arc<Mutex<HashMap<OfficeId, usize>>>;

/// An upload's place among those of its office.
pub(super) struct Slot {
    open: Open,
    office: OfficeId,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.office) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.office);
            }
        }
    }
}

impl Storage {
    /// Objects in this store, named by the tables of this database.
    pub fn new(db: Db, clock: Arc<dyn Clock>, store: Arc<dyn ObjectStore>, reserve: DiskReserve) -> Self {
        Self { db, clock, store, reserve, open: Arc::default(), memory: Budget::new(MAX_MEMORY_BYTES) }
    }

    /// A place for one more upload of the office.
    pub(super) fn slot(&self, office: OfficeId) -> Result<Slot> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(office).or_default();
        if *count >= MAX_UPLOADS {
            return Err(too_many(MAX_UPLOADS));
        }
        *count += 1;
        Ok(Slot { open: self.open.clone(), office })
    }

    fn path(office: OfficeId, object: Uuid) -> Path {
        Path::from(format!("office/{office}/drive/{object}"))
    }

    /// Reads a part of an object, piece by piece.
    pub(super) async fn read(
        &self,
        (office, object): (OfficeId, Uuid),
        size: u64,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        if range.is_empty() {
            return Ok(stream::empty().boxed());
        }
        let options = GetOptions::new().with_range(Some(GetRange::Bounded(range.clone())));
        let found = self.store.get_opts(&Self::path(office, object), options).await.map_err(|error| match error {
            gone @ object_store::Error::NotFound { .. } => Error::internal(gone),
            other => unreadable(other.into()),
        })?;
        if found.meta.size != size {
            return Err(Error::internal(format!("object {object} has {} bytes instead of {size}", found.meta.size)));
        }
        let source = match found.payload {
            // The storage's own stream would read far smaller pieces.
            GetResultPayload::File(mut file, _) => {
                io::Seek::seek(&mut file, io::SeekFrom::Start(range.start))
                    .map_err(|error| unreadable(error.into()))?;
                Source::File(io::Read::take(file, range.end - range.start))
            }
            GetResultPayload::Stream(stream) => {
                Source::Stream(Box::new(StreamReader::new(stream.map_err(io::Error::other))))
            }
        };
        // Each piece is read while the one before it is sent.
        Ok(stream::try_unfold(source.next(), async |reading| {
            let read = reading.await.map_err(io::Error::other).flatten();
            let (piece, source) = read.map_err(|error| unreadable(error.into()))?;
            Ok((!piece.is_empty()).then(|| (piece, source.next())))
        })
        .boxed())
    }

    /// Deletes an object of the trash, then its name there, unless it is not due yet and may come back.
    pub(super) async fn bury(&self, office: OfficeId, object: Uuid) -> Result<()> {
        self.bury_before(office, object, self.clock.now()).await
    }

    /// Deletes an object of the trash, then its name there, if it is due by then.
    async fn bury_before(&self, office: OfficeId, object: Uuid, due: Time) -> Result<()> {
        match self.store.delete(&Self::path(office, object)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => {
                let text = format!("object {object} could not be deleted; it will be tried again");
                return Err(Error::unavailable(text).caused_by(error));
            }
        }
        let mut tx = self.db.office(office).begin().await?;
        objects::trash_delete(&mut tx, object, due).await?;
        Ok(tx.commit().await?)
    }

    /// Removes what an upload wrote that is given up. One that was committed after all is left alone.
    async fn discard(&self, office: OfficeId, object: Uuid) -> Result<()> {
        let mut tx = self.db.office(office).begin().await?;
        if !objects::upload_delete(&mut tx, object).await? {
            return Ok(());
        }
        // Deleted now, and once more when whatever was on its way to storage must have arrived.
        objects::trash_insert(&mut tx, object, 0, self.clock.now() + GRACE).await?;
        tx.commit().await?;
        self.bury(office, object).await
    }

    /// What could not be deleted now is in the trash.
    pub(super) fn later(&self, office: OfficeId, outcome: Result<()>) {
        if let Err(error) = outcome {
            tracing::warn!(target: "mi::office", %office, error = %error.chain(), "an object waits for the sweep");
        }
    }
}

/// An object that an upload names and writes. When it is dropped before it is kept, what it wrote is cleared away.
///
/// Work on an upload stays in the future of its call, which is dropped when the client gives up.
pub(super) struct Upload {
    storage: Storage,
    slot: Slot,
    object: Uuid,
    /// With the memory for what it holds. Until it is dropped.
    writer: Option<(ObjectWriter, Share)>,
    kept: bool,
}

impl Upload {
    pub(super) fn new(storage: &Storage, slot: Slot, object: Uuid) -> Self {
        let path = Storage::path(slot.office, object);
        let writer = ObjectWriter::new(storage.store.clone(), path, PART_BYTES, CONCURRENT_PARTS);
        let writer = Some((writer, storage.memory.share(slot.office)));
        Self { storage: storage.clone(), slot, object, writer, kept: false }
    }

    pub(super) fn object(&self) -> Uuid {
        self.object
    }

    /// Writes it, at the pace of whichever is slower, its sender or the storage.
    pub(super) async fn write(&mut self, room: Room, content: BoxStream<'static, Result<Bytes>>) -> Result<Written> {
        let (writer, memory) = self.writer.as_mut().ok_or_else(|| Error::internal("the upload was dropped"))?;
        let filled = fill(writer, memory, room, content, SILENCE);
        let written = timeout(LONGEST_UPLOAD, filled).await.map_err(|_| expired())?;
        let closed = async {
            let written = written?;
            writer.finish().await.map_err(|error| unwritten(error.into()))?;
            Ok::<_, Error>(written)
        };
        closed.await.inspect_err(|error: &Error| {
            if is_full(error) {
                // What lies in the trash need not wait, then.
                self.storage.reserve.want();
            }
        })
    }

    /// A row names it.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Without a runtime the process is ending, and the sweep of the next one finds the rest.
        let Some(runtime) = Handle::try_current().ok().filter(|_| !self.kept) else {
            return;
        };
        let (storage, office, object, writer) =
            (self.storage.clone(), self.slot.office, self.object, self.writer.take());
        runtime.spawn(async move {
            if let Some((writer, memory)) = writer {
                writer.abort().await;
                drop(memory);
            }
            storage.later(office, storage.discard(office, object).await);
        });
    }
}

async fn fill(
    writer: &mut ObjectWriter,
    memory: &mut Share,
    room: Room,
    mut content: BoxStream<'static, Result<Bytes>>,
    silence: Duration,
) -> Result<Written> {
    let mut checksum = Checksum::new();
    let mut size = 0;
    while let Some(piece) = in_time(silence, content.next()).await? {
        let piece = piece?;
        size += i64::try_from(piece.len()).unwrap_or(i64::MAX);
        room.check(size)?;
        // What has come is held, up to what the buffers take. A sender that has so much has it until its end.
        if !memory.grow(piece.len().min(MAX_UPLOAD_BYTES_HELD - memory.bytes())) {
            return Err(no_memory());
        }
        checksum = checksum.add(piece.clone()).await?;
        writer.put(piece).await.map_err(|error| unwritten(error.into()))?;
    }
    Ok(Written { size, sha256: checksum.finish().await? })
}

/// The next message of an upload, if it comes before the sender is given up.
pub(super) async fn in_time<T>(silence: Duration, next: impl Future<Output = T>) -> Result<T> {
    timeout(silence, next).await.map_err(|_| {
        let text = format!("nothing came for {} s, and the upload was given up; send it again", silence.as_secs());
        Error::new(ErrorKind::DeadlineExceeded, "UPLOAD_STALLED", text)
    })
}

/// What is read of an object.
enum Source {
    File(io::Take<fs::File>),
    Stream(Box<dyn AsyncRead + Send + Unpin>),
}

impl Source {
    /// Begins to read the next piece; an empty one is the end.
    fn next(self) -> JoinHandle<io::Result<(Bytes, Self)>> {
        match self {
            Self::File(mut file) => tokio::task::spawn_blocking(move || {
                let mut piece = Vec::with_capacity(PIECE_BYTES);
                io::Read::read_to_end(&mut io::Read::take(&mut file, PIECE_BYTES as u64), &mut piece)?;
                Ok((piece.into(), Self::File(file)))
            }),
            #[expect(clippy::disallowed_methods, reason = "it ends with the piece that it reads")]
            Self::Stream(mut stream) => tokio::spawn(async move {
                let mut piece = BytesMut::with_capacity(PIECE_BYTES);
                while piece.len() < piece.capacity() && stream.read_buf(&mut piece).await? > 0 {}
                Ok((piece.freeze(), Self::Stream(stream)))
            }),
        }
    }
}

type Cause = Box<dyn StdError + Send + Sync>;

fn unwritten(cause: Cause) -> Error {
    match is_full(cause.as_ref()) {
        true => full("the platform's object storage has no space left; nothing was written"),
        false => Error::unavailable("the file could not be written to object storage; nothing was changed"),
    }
    .caused_by(cause)
}

fn unreadable(cause: Cause) -> Error {
    Error::unavailable("the file cannot be read from object storage at the moment").caused_by(cause)
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::{
        super::{DriveLimits, repo::Usage},
        *,
    };

    fn writer() -> ObjectWriter {
        ObjectWriter::new(Arc::new(InMemory::new()), Path::from("object"), PART_BYTES, CONCURRENT_PARTS)
    }

    #[tokio::test]
    async fn an_upload_that_is_silent_is_given_up() {
        let room = Room::new(DriveLimits::default(), Usage::default(), None);
        let mut writer = writer();
        let silent = stream::iter([Ok(Bytes::from_static(b"x"))]).chain(stream::pending()).boxed();
        let mut memory = Budget::new(MAX_MEMORY_BYTES).share(OfficeId::new());
        let filled = fill(&mut writer, &mut memory, room, silent, Duration::from_millis(20));
        let error = filled.await.expect_err("is given up");
        assert_eq!((error.kind, error.reason), (ErrorKind::DeadlineExceeded, "UPLOAD_STALLED"));
    }

    #[tokio::test]
    async fn uploads_hold_no_more_than_there_is_and_a_long_one_no_more_than_its_buffers() {
        let (budget, office) = (Budget::new(3 * MAX_UPLOAD_BYTES_HELD), OfficeId::new());
        let upload = async |memory: &mut Share, bytes: usize| {
            let room = Room::new(DriveLimits::default(), Usage::default(), None);
            let mut writer = writer();
            let pieces = (0..bytes >> 20).map(|_| Ok(Bytes::from(vec![0; 1 << 20])));
            fill(&mut writer, memory, room, stream::iter(pieces).boxed(), SILENCE).await
        };
        let (mut first, mut second) = (budget.share(office), budget.share(office));
        assert_eq!(
            upload(&mut first, 4 * MAX_UPLOAD_BYTES_HELD).await.expect("fits").size,
            4 * MAX_UPLOAD_BYTES_HELD as i64
        );
        assert_eq!(first.bytes(), MAX_UPLOAD_BYTES_HELD);
        let error = upload(&mut second, MAX_UPLOAD_BYTES_HELD).await.expect_err("the office has its half");
        assert_eq!((error.kind, error.reason), (ErrorKind::Exhausted, "UPLOADS_BUSY"));
        assert!(error.retry_after.is_some());
        drop(second);
        upload(&mut budget.share(OfficeId::new()), MAX_UPLOAD_BYTES_HELD).await.expect("others have room");
        drop(first);
        upload(&mut budget.share(office), MAX_UPLOAD_BYTES_HELD).await.expect("it was given back");
    }
}
