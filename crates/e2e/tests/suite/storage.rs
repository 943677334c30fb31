//! Files, backups and workspaces in object storage of the S3 kind: a real server of it, which checks signatures, is busy now and
//! then, breaks connections, and takes other keys from some moment on.

use std::{
    convert::Infallible,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::StreamExt;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use mi_e2e::{LIMIT, World};
use mi_proto::v1::{self, AgentPhase, upload_file_request::Part};
use mi_testkit::{Platform, until};
use s3s::{
    S3Result,
    auth::{S3Auth, SecretKey},
    s3_error,
    service::{S3Service, S3ServiceBuilder},
};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::drive::{MIB, content, get, header, message, put};

const BUCKET: &str = "objects";
/// One request in so many is refused as if the server had too much to do, and one connection in so many is broken.
const BUSY_EVERY: usize = 7;
const BREAKS_EVERY: usize = 5;

/// The keys that the server takes: an id and its secret.
type Keys = Arc<Mutex<Vec<(&'static str, &'static str)>>>;

struct Known(Keys);

#[async_trait::async_trait]
impl S3Auth for Known {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let keys = self.0.lock().expect("sound");
        let found = keys.iter().find(|(id, _)| *id == access_key);
        found.map(|(_, secret)| SecretKey::from(*secret)).ok_or_else(|| s3_error!(InvalidAccessKeyId))
    }
}

/// The server, and the platform's file of keys.
struct Storage {
    address: String,
    keys: Keys,
    requests: Arc<AtomicUsize>,
    files: tempfile::TempDir,
    task: JoinHandle<()>,
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Storage {
    async fn start() -> Self {
        let files = tempfile::tempdir().expect("made");
        let root = files.path().join("storage");
        fs::create_dir_all(root.join(BUCKET)).expect("made");
        let keys: Keys = Arc::new(Mutex::new(vec![("first", "one")]));
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).expect("opens"));
        builder.set_auth(Known(keys.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound").to_string();
        let requests = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(serve(listener, builder.build(), requests.clone()));
        let storage = Self { address, keys, requests, files, task };
        storage.write_key("first", "one");
        storage
    }

    /// Puts this key into the file that the platform reads, as those do who rotate keys.
    fn write_key(&self, id: &str, secret: &str) {
        let file = self.key_file();
        let next = file.with_extension("next");
        let text = format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
        fs::write(&next, text).expect("written");
        fs::rename(next, file).expect("renamed");
    }

    fn key_file(&self) -> PathBuf {
        self.files.path().join("credentials")
    }

    async fn world(&self) -> World {
        let builder = Platform::builder().arg(format!("--object-store=s3://{BUCKET}/of/mi"));
        let builder = builder.env("AWS_ENDPOINT_URL", format!("http://{}", self.address)).env("AWS_ALLOW_HTTP", "true");
        let builder = builder.env("AWS_REGION", "us-east-1");
        let file = self.key_file().display().to_string();
        World::on(builder.env("AWS_SHARED_CREDENTIALS_FILE", file).start().await).await
    }

    /// Objects that are whole, and parts of uploads that are not.
    fn stored(&self) -> (usize, usize) {
        let all = files_in(&self.files.path().join("storage"));
        let named =
            |path: &Path, word: &str| path.file_name().is_some_and(|name| name.to_string_lossy().contains(word));
        let parts = all.iter().filter(|path| named(path, ".upload")).count();
        let whole = all.iter().filter(|path| path.components().any(|part| part.as_os_str() == "of")).count();
        (whole, parts)
    }
}

fn files_in(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files_in(&path) } else { vec![path] }).collect()
}

async fn serve(listener: TcpListener, service: S3Service, requests: Arc<AtomicUsize>) {
    let mut open = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("accepts");
        while open.try_join_next().is_some() {}
        let (service, requests) = (service.clone(), requests.clone());
        open.spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let (service, number) = (service.clone(), requests.fetch_add(1, Ordering::SeqCst) + 1);
                async move {
                    if number % BUSY_EVERY == 0 {
                        let busy = http::Response::builder().status(503).body(s3s::Body::empty());
                        return Ok(busy.expect("an answer"));
                    }
                    if number % BREAKS_EVERY == 0 {
                        return Err("broken".to_owned());
                    }
                    let answer = hyper::service::Service::call(&service, request).await;
                    answer.map_err(|error| format!("{error:?}"))
                }
            });
            // A service that fails breaks the connection.
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

#[tokio::test]
async fn files_and_workspaces_go_through_busy_object_storage() {
    let storage = Storage::start().await;
    let world = storage.world().await;
    let office = world.office("Bucket").await;
    let (small, large) = (content(1, 1000), content(2, 30 * MIB));
    for (path, content) in [("small", &small), ("large", &large), ("empty", &Vec::new())] {
        put(&world.owner, header(&office, path), content).await.expect("taken");
        assert!(get(&world.owner, &office, path, 0, 0).await.expect("given") == *content, "{path}");
    }
    let part = get(&world.owner, &office, "large", 12_345_678, 1000).await.expect("given");
    assert_eq!(part, large[12_345_678..12_346_678]);

    // An upload whose client is gone leaves nothing of its parts.
    let chunks = large.chunks(MIB).take(20).map(|chunk| Part::Chunk(chunk.to_vec().into()));
    let sent: Vec<_> = std::iter::once(Part::Header(header(&office, "cut"))).chain(chunks).map(message).collect();
    let endless = futures::stream::iter(sent).chain(futures::stream::pending());
    let mut drive = world.owner.drive();
    let cut = tokio::spawn(async move { drive.upload_file(endless).await.map(drop) });
    until("parts are there", LIMIT, async || Ok::<_, Infallible>((storage.stored().1 > 0).then_some(()))).await;
    cut.abort();
    until("no part is left", LIMIT, async || {
        let stored = storage.stored();
        if stored.1 == 0 { Ok(Some(())) } else { Err(format!("{stored:?}")) }
    })
    .await;

    // What an agent had goes into a backup, and out of it.
    world.hire(&office, "analyst").await.expect("hired");
    world.settled(&office, "analyst", AgentPhase::Running).await;
    world
        .run(&office, "analyst", "echo kept > note; head -c 20000000 /dev/urandom > large; sha256sum large > sum")
        .await;
    world.fire(&office, "analyst").await.expect("fired");
    world.gone(&office, "analyst").await;
    let backups = world.backups(&office).await;
    assert_eq!(backups.len(), 1);
    let again = v1::HireAgentRequest {
        office_id: office.clone(),
        name: "again".into(),
        restore_from_backup: backups[0].id.clone(),
        ..Default::default()
    };
    world.hire_as(again).await.expect("hired");
    world.settled(&office, "again", AgentPhase::Running).await;
    let printed = world.run(&office, "again", "cat note; sha256sum -c sum").await;
    assert!(printed.contains("kept") && printed.contains("large: OK"), "{printed}");
    let requests = storage.requests.load(Ordering::SeqCst);
    assert!(requests > 2 * BUSY_EVERY, "the storage was hardly asked: {requests}");
}

#[tokio::test]
async fn keys_of_object_storage_are_replaced_while_it_is_used() {
    let storage = Storage::start().await;
    let world = storage.world().await;
    let office = world.office("Rotation").await;
    put(&world.owner, header(&office, "before"), b"first").await.expect("taken");
    storage.keys.lock().expect("sound").push(("second", "two"));
    storage.write_key("second", "two");
    storage.keys.lock().expect("sound").remove(0);
    put(&world.owner, header(&office, "after"), b"second").await.expect("taken");
    assert_eq!(get(&world.owner, &office, "before", 0, 0).await.expect("given"), b"first");
    assert_eq!(get(&world.owner, &office, "after", 0, 0).await.expect("given"), b"second");
}
