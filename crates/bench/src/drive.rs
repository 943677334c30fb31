//! `drive`: a large file up and down through `mi up`, beside what `cp` makes of the same file on the same disk.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    process::Command,
    time::Instant,
};

use mi_proto::v1::{DownloadFileRequest, UploadFileRequest, UploadHeader, upload_file_request::Part};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    Result,
    customer::Customer,
    daemon::Daemon,
    doors::Web,
    proc,
    report::{Goal, Table},
};

/// Bytes of the file: as many as a file may have by default.
pub(crate) const SIZE: usize = 1 << 30;
pub(crate) const CHUNK: usize = 1 << 20;
const ROUNDS: usize = 5;
pub(crate) const PATH: &str = "large.bin";

/// What one round found: MB/s, and MB of memory.
#[derive(Default)]
struct Rounds {
    copied: Vec<f64>,
    synced: Vec<f64>,
    uploaded: Vec<f64>,
    downloaded: Vec<f64>,
    fetched: Vec<f64>,
    upload_growth: Vec<f64>,
    download_growth: Vec<f64>,
}

pub(crate) async fn run() -> Result<Table> {
    let dir = tempfile::tempdir()?;
    let source = dir.path().join("source");
    write_random(&source)?;
    let daemon = Daemon::start(dir.path()).await?;
    let ready: serde_json::Value = serde_json::from_str(&fs::read_to_string(dir.path().join("ready.json"))?)?;
    let told = |name: &str| ready[name].as_str().ok_or("the ready file lacks an entry");
    let customer = Customer::open(told("endpoint")?, told("api_key")?, 1).await?;
    let web = Web::new(told("endpoint")?, &customer);

    let mut rounds = Rounds::default();
    // The first round warms up; the content is the same each time, so that the disk holds it once.
    upload(&customer, &source).await?;
    let target = dir.path().join("copy");
    // To take the last copy away is a part of none: when it is on the disk already, that takes long.
    let clear = || fs::remove_file(&target);
    for _ in 0..ROUNDS {
        rounds.copied.push(speed(async || copy(&source, &target, false)).await?);
        clear()?;
        rounds.synced.push(speed(async || copy(&source, &target, true)).await?);
        clear()?;
        let before = measure_from(daemon.pid())?;
        rounds.uploaded.push(speed(async || upload(&customer, &source).await).await?);
        rounds.upload_growth.push(proc::peak(daemon.pid())? - before);
        let before = measure_from(daemon.pid())?;
        rounds.downloaded.push(speed(async || download(&customer, &target).await).await?);
        rounds.download_growth.push(proc::peak(daemon.pid())? - before);
        clear()?;
        rounds.fetched.push(speed(async || web.download(&target).await).await?);
        clear()?;
    }
    daemon.stop().await?;

    let shares = |of: &[f64], by: &[f64]| of.iter().zip(by).map(|(of, by)| 100.0 * of / by).collect::<Vec<_>>();
    let mut table = Table::new("drive");
    table.row("`cp` of 1 GiB", "MB/s", &rounds.copied);
    table.row("`cp` of 1 GiB, then fsync of the copy", "MB/s", &rounds.synced);
    table.row("upload of 1 GiB, fsynced when answered", "MB/s", &rounds.uploaded);
    table.goal("the same, of `cp` and fsync", "%", &shares(&rounds.uploaded, &rounds.synced), Goal::AtLeast(60.0));
    table.row("download of 1 GiB", "MB/s", &rounds.downloaded);
    table.goal("the same, of `cp`", "%", &shares(&rounds.downloaded, &rounds.copied), Goal::AtLeast(60.0));
    table.row("download of 1 GiB over HTTP/1.1", "MB/s", &rounds.fetched);
    table.goal("the same, of `cp`", "%", &shares(&rounds.fetched, &rounds.copied), Goal::AtLeast(60.0));
    table.goal("the platform grows by, in an upload", "MB", &rounds.upload_growth, Goal::AtMost(16.0));
    table.goal("the platform grows by, in a download", "MB", &rounds.download_growth, Goal::AtMost(16.0));
    Ok(table)
}

/// What the process has resident when a measurement of its peak begins.
fn measure_from(pid: u32) -> Result<f64> {
    proc::forget_peak(pid)?;
    Ok(proc::memory(pid)?.rss)
}

pub(crate) async fn speed(mut work: impl AsyncFnMut() -> Result) -> Result<f64> {
    let start = Instant::now();
    work().await?;
    Ok(SIZE as f64 / 1e6 / start.elapsed().as_secs_f64())
}

pub(crate) fn write_random(path: &Path) -> Result {
    let mut file = File::create(path)?;
    let mut chunk = vec![0; CHUNK];
    for _ in 0..SIZE / CHUNK {
        fastrand::fill(&mut chunk);
        file.write_all(&chunk)?;
    }
    Ok(file.sync_all()?)
}

/// As `cp` does it, with each byte read and written.
fn copy(from: &Path, to: &Path, sync: bool) -> Result {
    let done = Command::new("cp").args(["--reflink=never", "--sparse=never"]).arg(from).arg(to).status()?;
    if !done.success() {
        return Err("`cp` failed".into());
    }
    if sync {
        File::open(to)?.sync_all()?;
    }
    Ok(())
}

pub(crate) async fn upload(customer: &Customer, source: &Path) -> Result {
    let (sender, messages) = mpsc::channel(4);
    let header =
        UploadHeader { office_id: customer.office.clone(), path: PATH.into(), force: true, ..UploadHeader::default() };
    let send = async {
        sender.send(UploadFileRequest { part: Some(Part::Header(header)) }).await?;
        let mut file = tokio::fs::File::open(source).await?;
        loop {
            let mut chunk = Vec::with_capacity(CHUNK);
            (&mut file).take(CHUNK as u64).read_to_end(&mut chunk).await?;
            if chunk.is_empty() {
                break;
            }
            sender.send(UploadFileRequest { part: Some(Part::Chunk(chunk.into())) }).await?;
        }
        drop(sender);
        Ok::<_, crate::Error>(())
    };
    let mut drive = customer.client.drive();
    let (sent, answer) = tokio::join!(send, drive.upload_file(ReceiverStream::new(messages)));
    let file = answer?.into_inner().file.ok_or("an answer without its file")?;
    sent?;
    match usize::try_from(file.size)? {
        SIZE => Ok(()),
        size => Err(format!("{size} bytes arrived").into()),
    }
}

pub(crate) async fn download(customer: &Customer, target: &Path) -> Result {
    let request =
        DownloadFileRequest { office_id: customer.office.clone(), path: PATH.into(), ..DownloadFileRequest::default() };
    let mut stream = customer.client.drive().download_file(request).await?.into_inner();
    let mut file = tokio::fs::File::create(target).await?;
    let mut size = 0;
    while let Some(part) = stream.message().await? {
        size += part.chunk.len();
        file.write_all(&part.chunk).await?;
    }
    file.flush().await?;
    match size {
        SIZE => Ok(()),
        size => Err(format!("{size} bytes arrived").into()),
    }
}
