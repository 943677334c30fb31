//! One file on its way to the drive, or from it.

use std::{
    fs,
    future::pending,
    io,
    path::Path,
    pin::{Pin, pin},
    task::{self, Poll, ready},
    time::{Duration, SystemTime},
};

use indicatif::ProgressBar;
use mi_client::{jittered, once, retry_unlimited};
use mi_proto::v1::{self, DownloadFileRequest, UploadFileRequest, UploadHeader, upload_file_request::Part};
use ring::digest::{Context as Digest, SHA256};
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncReadExt, ReadBuf, stdin},
    sync::mpsc,
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{answer::resource, context::Context, download::Download, failure::Failure};

/// Bytes of one message; the platform takes twice as many.
const CHUNK: usize = 512 << 10;
/// Messages on their way.
const CHUNKS: usize = 4;
/// Standard input can be read once. When it is shorter than this, it is sent again like a file.
const KEPT: usize = 4 << 20;
/// How often a platform that has too much to do is given the moment that it asks for.
const MOMENTS: u32 = 30;
/// The longest such moment: beyond it the caller hears the error instead.
const MOMENT: Duration = Duration::from_secs(5);
/// What comes on top of it, so that those who were told the same do not return together.
const SPREAD: Duration = Duration::from_millis(100);

/// Sends what may be sent again: while the platform is away for a moment, and while it asks for one because there are too
/// many calls.
async fn sent<T>(mut call: impl AsyncFnMut() -> Result<T, Status>) -> Result<T, Status> {
    for _ in 0..MOMENTS {
        match retry_unlimited(&mut call).await {
            Err(status) => match moment(&status) {
                Some(moment) => tokio::time::sleep(moment + jittered(SPREAD)).await,
                None => return Err(status),
            },
            answer => return answer,
        }
    }
    retry_unlimited(call).await
}

fn moment(status: &Status) -> Option<Duration> {
    let asked = status.get_details_retry_info()?.retry_delay?;
    (status.code() == Code::ResourceExhausted && asked <= MOMENT).then_some(asked)
}

/// Downloads a file, to where `to` says.
pub(crate) async fn download<'a>(
    context: &Context,
    office_id: String,
    path: String,
    to: impl FnOnce(&v1::File) -> Result<Download<'a>, Failure>,
) -> Result<v1::File, Failure> {
    let request = DownloadFileRequest { office_id, path, offset: 0, length: 0 };
    let open = async || once(context.client.drive().download_file(request.clone())).await;
    let mut stream = sent(open).await?.into_inner();
    let mut first = stream.message().await?;
    let nameless = || Failure::new("the platform sent no description of the file").hint("try again");
    let file = first.as_mut().and_then(|first| first.file.take()).ok_or_else(nameless)?;
    let messages = tokio_stream::iter(first.map(Ok)).chain(stream);
    to(&file)?.take_all(messages, |part| &part.chunk, (file.size, &file.sha256)).await?;
    Ok(file)
}

/// Uploads a file from here, and again while the platform is away. `bar` shows so many bytes.
pub(crate) async fn upload_file(
    context: &Context,
    header: UploadHeader,
    path: &Path,
    bar: impl Fn(u64) -> ProgressBar,
) -> Result<v1::File, Failure> {
    let unreadable = |error| Failure::io(format!("{} cannot be read", path.display()), &error);
    let open = async || {
        let file = Unchanging::open(path).await.map_err(unreadable)?;
        let bar = bar(file.size());
        Ok((file, bar))
    };
    sent(async || match open().await {
        Ok((file, bar)) => upload(context, header.clone(), file, bar).await,
        Err(failure) => Ok(Err(failure)),
    })
    .await?
}

/// Uploads what is here, and again while the platform is away.
pub(crate) async fn upload_bytes(context: &Context, header: UploadHeader, content: &[u8]) -> Result<v1::File, Failure> {
    sent(async || upload(context, header.clone(), content, ProgressBar::hidden()).await).await?
}

/// Uploads what standard input gives.
pub(super) async fn upload_stdin(context: &Context, header: UploadHeader) -> Result<v1::File, Failure> {
    let (mut input, mut start) = (stdin(), Vec::new());
    let read = (&mut input).take(KEPT as u64).read_to_end(&mut start).await;
    read.map_err(|error| Failure::io("standard input cannot be read", &error))?;
    match start.len() < KEPT {
        true => upload_bytes(context, header, &start).await,
        false => upload(context, header, start.as_slice().chain(input), ProgressBar::hidden()).await?,
    }
}

/// Uploads all that there is to read. What went wrong on this side is inside of what the platform answered.
async fn upload(
    context: &Context,
    header: UploadHeader,
    mut from: impl AsyncRead + Unpin,
    bar: ProgressBar,
) -> Result<Result<v1::File, Failure>, Status> {
    let (sender, messages) = mpsc::channel(CHUNKS);
    let mut client = context.client.drive();
    let mut call = pin!(client.upload_file(ReceiverStream::new(messages)));
    let feed = feed(&sender, header, &mut from, &bar);
    let (answer, sent) = tokio::select! {
        // The platform need not hear all of it to refuse.
        answer = &mut call => (answer, None),
        fed = feed => {
            let sent = match fed {
                Ok(sent) => sent,
                Err(failure) => {
                    // Whoever ends what is sent says that the file is whole.
                    std::mem::forget(sender);
                    return Ok(Err(failure));
                }
            };
            drop(sender);
            (call.await, Some(sent))
        }
    };
    bar.finish_and_clear();
    let file = resource(answer?, |answer| answer.file);
    Ok(file.and_then(|file| match sent.is_some_and(|sent| sent == file.sha256) {
        true => Ok(file),
        false => {
            let message = format!("the drive has something else than was sent, SHA-256 {}", file.sha256);
            Err(Failure::new(message).hint("upload it again with --force"))
        }
    }))
}

/// Sends all of it; answers its checksum.
async fn feed(
    sender: &mpsc::Sender<UploadFileRequest>,
    header: UploadHeader,
    from: &mut (impl AsyncRead + Unpin),
    bar: &ProgressBar,
) -> Result<String, Failure> {
    let send = async |part| {
        if sender.send(UploadFileRequest { part: Some(part) }).await.is_err() {
            // The call is over, and says why.
            pending().await
        }
    };
    send(Part::Header(header)).await;
    let mut hash = Digest::new(&SHA256);
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        let mut limited = (&mut *from).take(CHUNK as u64);
        limited.read_to_end(&mut chunk).await.map_err(|error| unreadable(&error))?;
        if chunk.is_empty() {
            return Ok(hex::encode(hash.finish().as_ref()));
        }
        hash.update(&chunk);
        bar.inc(chunk.len() as u64);
        send(Part::Chunk(chunk.into())).await;
    }
}

fn unreadable(error: &io::Error) -> Failure {
    let failure = Failure::io("the file cannot be read", error);
    match error.kind() {
        io::ErrorKind::ResourceBusy => {
            failure.hint("`mi files put - PATH < FILE` sends what there is, whatever changes meanwhile")
        }
        _ => failure,
    }
}

/// A file that is to be read as it was at one moment: its end is an error when somebody has changed it since it was opened.
struct Unchanging {
    file: File,
    /// The same open file, to look at without waiting.
    same: fs::File,
    before: Look,
}

/// How a file looks from outside; none: it is no file of bytes that could be looked at again.
type Look = Option<(u64, Option<SystemTime>)>;

fn look(file: &fs::File) -> io::Result<Look> {
    let found = file.metadata()?;
    Ok(found.is_file().then(|| (found.len(), found.modified().ok())))
}

impl Unchanging {
    async fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path).await?;
        let same = file.try_clone().await?.into_std().await;
        if same.metadata()?.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let before = look(&same)?;
        Ok(Self { file, same, before })
    }

    fn size(&self) -> u64 {
        self.before.map_or(0, |(size, _)| size)
    }
}

impl AsyncRead for Unchanging {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let filled = buf.filled().len();
        ready!(Pin::new(&mut self.file).poll_read(cx, buf))?;
        let is_end = buf.filled().len() == filled && buf.remaining() > 0;
        if is_end && look(&self.same)? != self.before {
            let text = "it was changed while it was read; nothing was written";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ResourceBusy, text)));
        }
        Poll::Ready(Ok(()))
    }
}

/// SHA-256 of a file here, lower-case hex.
pub(crate) fn sha256_of(path: &Path) -> Result<String, Failure> {
    let mut digest = Hashed(Digest::new(&SHA256));
    let read = fs::File::open(path).and_then(|mut file| io::copy(&mut file, &mut digest));
    read.map_err(|error| Failure::io(format!("{} cannot be read", path.display()), &error))?;
    Ok(hex::encode(digest.0.finish().as_ref()))
}

/// Keeps nothing of what is written but its hash.
struct Hashed(Digest);

impl io::Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[tokio::test]
    async fn a_file_that_changes_while_it_is_read_is_not_taken_for_a_whole_one() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("log");
        fs::write(&path, "first").expect("written");
        let read = async |changed: &str| {
            let mut file = Unchanging::open(&path).await.expect("opened");
            fs::write(&path, changed).expect("written");
            let mut text = String::new();
            file.read_to_string(&mut text).await.map(|_| text).map_err(|error| error.kind())
        };
        assert_eq!(read("first, second").await, Err(io::ErrorKind::ResourceBusy));
        let mut file = Unchanging::open(&path).await.expect("opened");
        let mut text = String::new();
        file.read_to_string(&mut text).await.expect("nobody touched it");
        assert_eq!((text.as_str(), file.size()), ("first, second", 13));
        // What is no file of bytes has no look to keep.
        let mut device = Unchanging::open(Path::new("/dev/null")).await.expect("opened");
        assert_eq!(device.read_to_string(&mut text).await.expect("read"), 0);
        assert!(Unchanging::open(dir.path()).await.is_err_and(|error| error.kind() == io::ErrorKind::IsADirectory));
    }

    #[tokio::test]
    async fn a_busy_platform_gets_the_moment_that_it_asks_for_and_a_full_one_is_believed() {
        let asks = |delay| {
            let details = ErrorDetails::with_retry_info(Some(delay));
            Status::with_error_details(Code::ResourceExhausted, "busy", details)
        };
        let mut tries = 0;
        let answer = sent(async || {
            tries += 1;
            if tries < 3 { Err(asks(Duration::from_millis(1))) } else { Ok(tries) }
        });
        assert_eq!(answer.await.expect("taken at last"), 3);
        let mut tries = 0;
        let full = sent(async || {
            tries += 1;
            Err::<(), _>(asks(MOMENT * 2))
        });
        assert_eq!(full.await.expect_err("full").code(), Code::ResourceExhausted);
        assert_eq!(tries, 1);
    }
}
