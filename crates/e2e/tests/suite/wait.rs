//! `mi wait`: it ends when something is so, and when it cannot be any more.

use std::{path::Path, process::Output};

use mi_e2e::{LIMIT, World};
use mi_proto::v1::{self, TaskKind, UploadFileRequest, UploadHeader, upload_file_request::Part};
use mi_testkit::{Arrangement, Backend, on_both, platform::binary};

on_both! { what_is_waited_for_ends_the_wait }

struct Desk<'a> {
    world: &'a World,
    office: String,
    dir: &'a Path,
}

impl Desk<'_> {
    /// Runs `mi` in the office: the exit code, and what was printed and told.
    async fn mi(&self, line: &str) -> (Option<i32>, String, String) {
        let mut command = tokio::process::Command::new(binary());
        command.args(line.split(' ')).env_clear().env("MI_CONFIG_DIR", self.dir.join("no-config"));
        command.env("MI_ENDPOINT", self.world.platform.endpoint()).env("MI_API_KEY", self.world.platform.admin_key());
        let output =
            command.env("MI_COLONY", &self.office).stdin(std::process::Stdio::null()).kill_on_drop(true).output();
        let Output { status, stdout, stderr } =
            tokio::time::timeout(LIMIT, output).await.expect("ends by itself").expect("ran");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (status.code(), text(stdout), text(stderr))
    }

    async fn put(&self, path: &str) {
        let header = UploadHeader { office_id: self.office.clone(), path: path.into(), ..Default::default() };
        let message = UploadFileRequest { part: Some(Part::Header(header)) };
        self.world.owner.drive().upload_file(futures::stream::iter([message])).await.expect("taken");
    }

    async fn create(&self, script: &str) -> String {
        let request = v1::CreateTaskRequest {
            title: "Wait".into(),
            description: script.into(),
            kind: TaskKind::Command.into(),
            max_attempts: Some(1),
            ..Default::default()
        };
        let batch = v1::BatchCreateTasksRequest { office_id: self.office.clone(), requests: vec![request] };
        let created = self.world.owner.tasks().batch_create_tasks(batch).await.expect("created").into_inner();
        created.tasks[0].id.clone()
    }
}

async fn what_is_waited_for_ends_the_wait(backend: Backend) {
    let world = World::start(backend, Arrangement::OneProcess).await;
    let (office, dir) = (world.office("Wait").await, tempfile::tempdir().expect("made"));
    let desk = Desk { world: &world, office, dir: dir.path() };

    // Files that come while they are waited for, and that are there.
    let (waited, ()) = tokio::join!(desk.mi("wait file later/a later/b -q"), async {
        desk.put("later/b").await;
        desk.put("later/a").await;
    });
    assert_eq!(waited, (Some(0), "later/a\nlater/b\n".into(), String::new()));
    assert_eq!(desk.mi("wait file later/a -q").await, (Some(0), "later/a\n".into(), String::new()));
    let (code, _, told) = desk.mi("wait file later/a never --timeout 1s").await;
    assert!(code == Some(124) && told.contains("1 of 2 did not get there in time"), "{code:?} {told}");
    assert_eq!(desk.mi("wait file never --for deleted -q").await.0, Some(0));

    world.hire(&desk.office, "worker").await.expect("hired");
    assert_eq!(desk.mi("wait agent worker -o name").await, (Some(0), "worker\n".into(), String::new()));
    let (good, bad) = (desk.create("true").await, desk.create("exit 3").await);
    let (code, printed, told) = desk.mi(&format!("wait task {good} -q")).await;
    assert_eq!((code, printed.trim()), (Some(0), good.as_str()), "{told}");
    let (code, _, told) = desk.mi(&format!("wait task {good} {bad}")).await;
    assert!(code == Some(1) && told.contains(&format!("task {bad} failed")), "{code:?} {told}");
    let (code, _, told) = desk.mi(&format!("wait task {good} --for status=running")).await;
    assert!(code == Some(1) && told.contains("is done already"), "{code:?} {told}");
    let (code, printed, told) = desk.mi(&format!("wait task {bad} {good} --for finished -q")).await;
    assert_eq!((code, printed), (Some(0), format!("{bad}\n{good}\n")), "{told}");

    // Neither is somebody gone from a colony that never was, nor fired from the default one when an empty one is given.
    let nowhere = "wait agent worker --for deleted --colony 019aa0b4-7c1e-7d0a-b3a5-000000000001";
    let (code, _, told) = desk.mi(nowhere).await;
    assert!(code == Some(1) && told.contains("not found"), "{code:?} {told}");
    for empty in ["agents fire  worker", "agents stop --colony  worker", "colonies settings  max_agents=1"] {
        let (code, _, told) = desk.mi(empty).await;
        assert!(code == Some(2) && told.contains("the colony is empty"), "{empty}: {code:?} {told}");
    }
    let (waited, fired) = tokio::join!(desk.mi("wait agent worker --for deleted"), world.fire(&desk.office, "worker"));
    fired.expect("fired");
    assert_eq!(waited.0, Some(0), "{waited:?}");
    let (code, _, told) = desk.mi("wait agent worker").await;
    assert!(code == Some(1) && told.contains("not found"), "{code:?} {told}");
}

#[tokio::test]
async fn work_that_nobody_takes_says_so() {
    let world = World::start(Backend::Sqlite, Arrangement::OneProcess).await;
    let dir = tempfile::tempdir().expect("a directory");
    let desk = Desk { world: &world, office: world.office("Empty").await, dir: dir.path() };
    let (code, _, told) = desk.mi("run --timeout 5s -- true").await;
    assert!(code == Some(124) && told.contains("waits: the colony has no agents"), "{code:?} {told}");
}
