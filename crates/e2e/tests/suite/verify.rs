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

/// Has each block of feeds say something else, of the same length, at the connection of the database's owner.
macro_rules! alter_blocks {
    ($connection:expr) => {
        let sql = "SELECT events, raw_bytes, last_seq FROM feed_blocks";
        let blocks: Vec<(Vec<u8>, i64, i64)> = sqlx::query_as(sql).fetch_all(&mut $connection).await.expect("reads");
        for (data, raw_bytes, last_seq) in blocks {
            let capacity = usize::try_from(raw_bytes).expect("a size");
            let mut raw = zstd::bulk::decompress(&data, capacity).expect("a block");
            while let Some(place) = raw.windows(7).position(|word| word == b"created") {
                raw[place..place + 7].copy_from_slice(b"removed");
            }
            let data = zstd::bulk::compress(&raw, 1).expect("fits");
            let sql = "UPDATE feed_blocks SET events = $1 WHERE last_seq = $2";
            sqlx::query(sql).bind(data).bind(last_seq).execute(&mut $connection).await.expect("writes");
        }
    };
}

/// Alters the feeds.
async fn alter_feeds(world: &World) {
    match world.platform.database_url() {
        None => {
            let url = format!("sqlite://{}", world.platform.data_dir().join("activity.db").display());
            let mut connection = SqliteConnection::connect(&url).await.expect("opens");
            alter_blocks!(connection);
        }
        Some(_) => {
            let mut connection = owner(world, "activity").await;
            alter_blocks!(connection);
        }
    }
}

/// On Postgres, a connection of the owner of a service's tables, who is held by row-level security as well.
async fn owner(world: &World, service: &str) -> PgConnection {
    let mut connection =
        PgConnection::connect(world.platform.database_url().expect("Postgres")).await.expect("connects");
    let scope = format!("SET search_path = mi_{service}; SET mi.scope = 'platform'");
    connection.execute(sqlx::AssertSqlSafe(scope)).await.expect("works");
    connection
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
    alter_feeds(&world).await;
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
    let mut owner = owner(&world, "scheduler").await;
    owner.execute("ALTER TABLE offices DISABLE ROW LEVEL SECURITY").await.expect("works");
    let (code, checks) = verify(&world, &office).await;
    assert_eq!((code, holes(&checks)), (1, vec!["database"]));
}
