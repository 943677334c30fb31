//! `mi colonies verify`: green on a whole platform, red as soon as one layer is taken away.

use std::process::Stdio;

use mi_e2e::{LIMIT, World};
use mi_testkit::{Arrangement, Backend, Platform, on_both};
use serde_json::Value;
use sqlx::{Connection, Executor, PgConnection, SqliteConnection};

on_both! { a_whole_platform_has_no_hole, an_altered_feed_is_found }

/// One process on SQLite, four under mutual TLS on Postgres.
fn arrangement(backend: Backend) -> Arrangement {
    match backend {
        Backend::Sqlite => Arrangement::OneProcess,
        Backend::Postgres => Arrangement::ProcessPerRole,
    }
}

/// Exit code, and each check as layer, probe and state.
pub(crate) async fn verify(world: &World, office: &str) -> (i32, Vec<[String; 3]>) {
    let mut command = tokio::process::Command::new(mi_testkit::platform::binary());
    command
        .args(["colonies", "verify", office, "-o", "json"])
        .env("MI_CONFIG_DIR", world.platform.config_dir())
        .env("MI_ENDPOINT", world.platform.endpoint())
        .env("MI_API_KEY", world.platform.admin_key())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output()).await.expect("ends by itself").expect("ran");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let checks: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"));
    let text = |check: &Value, name: &str| check[name].as_str().unwrap_or_default().to_owned();
    let checks = checks.as_array().expect("a list").iter();
    let checks = checks.map(|check| ["layer", "probe", "state"].map(|name| text(check, name)));
    (output.status.code().expect("exits"), checks.collect())
}

/// Layers with a hole, each once.
pub(crate) fn holes(checks: &[[String; 3]]) -> Vec<&str> {
    let mut layers: Vec<&str> =
        checks.iter().filter(|[.., state]| state == "ISOLATION_STATE_HOLE").map(|[layer, ..]| layer.as_str()).collect();
    layers.sort_unstable();
    layers.dedup();
    layers
}

/// Works on a table of a service as its owner.
async fn breach(world: &World, service: &str, sql: &str) {
    match world.platform.database_url() {
        None => {
            let file = world.platform.data_dir().join(format!("{service}.db"));
            let url = format!("sqlite://{}", file.display());
            let mut connection = SqliteConnection::connect(&url).await.expect("opens");
            connection.execute(sqlx::AssertSqlSafe(sql.to_owned())).await.expect("works");
        }
        Some(url) => {
            let mut connection = PgConnection::connect(url).await.expect("connects");
            // The owner is held by row-level security as well.
            let scope = format!("SET search_path = mi_{service}; SET mi.scope = 'platform'; {sql}");
            connection.execute(sqlx::AssertSqlSafe(scope)).await.expect("works");
        }
    }
}

async fn a_whole_platform_has_no_hole(backend: Backend) {
    let world = World::start(backend, arrangement(backend)).await;
    let office = world.office("Sound").await;
    let (code, checks) = verify(&world, &office).await;
    let bad: Vec<_> = checks.iter().filter(|[.., state]| state == "ISOLATION_STATE_HOLE").collect();
    assert_eq!((code, bad), (0, vec![]));
    let mut layers: Vec<&str> = checks.iter().map(|[layer, ..]| layer.as_str()).collect();
    layers.sort_unstable();
    layers.dedup();
    let all = ["audit", "calls", "database", "files", "identity", "network", "privileges", "processes", "secrets"];
    assert_eq!(layers, all);
    let absent = checks.iter().filter(|[.., state]| state == "ISOLATION_STATE_ABSENT").count();
    assert_eq!(absent, if backend == Backend::Sqlite { 3 } else { 0 });
    // It leaves nothing behind.
    let offices = world.admin.offices().list().await.expect("listed");
    let left: Vec<&str> = offices
        .iter()
        .filter(|other| other.id != office && other.status() != mi_proto::v1::OfficeStatus::Deleting)
        .map(|other| other.name.as_str())
        .collect();
    assert_eq!(left, Vec::<&str>::new());
}

async fn an_altered_feed_is_found(backend: Backend) {
    let world = World::start(backend, arrangement(backend)).await;
    let office = world.office("Rewritten").await;
    world.happened(&office, "", "office.activated").await;
    breach(&world, "activity", "UPDATE events SET summary = 'nothing happened' WHERE type = 'office.created'").await;
    let (code, checks) = verify(&world, &office).await;
    assert_eq!((code, holes(&checks)), (1, vec!["audit"]));
}

#[tokio::test]
async fn without_the_sandbox_it_is_red() {
    let platform = Platform::builder().arg("--sandbox=off").start().await;
    let world = World::on(platform).await;
    let office = world.office("Open").await;
    let (code, checks) = verify(&world, &office).await;
    assert_eq!((code, holes(&checks)), (1, vec!["files", "network", "privileges", "processes"]));
}

#[tokio::test]
async fn without_row_level_security_it_is_red() {
    let world = World::start(Backend::Postgres, Arrangement::ProcessPerRole).await;
    let office = world.office("Unwalled").await;
    breach(&world, "scheduler", "ALTER TABLE offices DISABLE ROW LEVEL SECURITY").await;
    let (code, checks) = verify(&world, &office).await;
    assert_eq!((code, holes(&checks)), (1, vec!["database"]));
}
