//! `rls`: what Postgres' row-level security costs transactions that claim work from a queue, against the same
//! transactions on the same table without it, as the tables' owner, in alternating rounds.

use std::time::{Duration, Instant};

use mi_kernel::OfficeId;
use mi_store::{Arm, Db, DbTarget, Migrations, Step};
use mi_testkit::{Backend, TestDb};
use sqlx::{
    Executor, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::{
    ROUNDS, Result,
    compare::paired,
    report::{Goal, Table},
};

const WORKERS: usize = 8;
/// Two workers share each office, so that rows locked by others are skipped.
const OFFICES: usize = 4;
/// Rows of each office.
const ROWS: i64 = 1000;
/// How long a round claims.
const SPAN: Duration = Duration::from_secs(2);

/// Two tables alike, one of them behind the wall.
const MIGRATIONS: &Migrations = &[Step {
    version: 100,
    name: "queues",
    sqlite: "",
    postgres: "CREATE TABLE queue (
                   id uuid PRIMARY KEY, office_id uuid NOT NULL, ready boolean NOT NULL, tries bigint NOT NULL
               );
               CREATE INDEX queue_ready ON queue (office_id, id) WHERE ready;
               SELECT office_wall('queue', 'office_id');
               CREATE TABLE plain AS SELECT * FROM queue;
               ALTER TABLE plain ADD PRIMARY KEY (id), ALTER COLUMN office_id SET NOT NULL,
                   ALTER COLUMN ready SET NOT NULL, ALTER COLUMN tries SET NOT NULL;
               ALTER TABLE plain RENAME COLUMN office_id TO office;
               CREATE INDEX plain_ready ON plain (office, id) WHERE ready",
}];

/// What a claim runs.
struct Texts {
    insert: &'static str,
    find: &'static str,
    take: &'static str,
}

const WALLED: Texts = Texts {
    insert: "INSERT INTO queue SELECT gen_random_uuid(), $1, TRUE, 0 FROM generate_series(1, $2)",
    find: "SELECT id FROM queue WHERE office_id = $1 AND ready ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED",
    take: "UPDATE queue SET tries = tries + 1 WHERE office_id = $1 AND id = $2",
};
const PLAIN: Texts = Texts {
    insert: "INSERT INTO plain SELECT gen_random_uuid(), $1, TRUE, 0 FROM generate_series(1, $2)",
    find: "SELECT id FROM plain WHERE office = $1 AND ready ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED",
    take: "UPDATE plain SET tries = tries + 1 WHERE office = $1 AND id = $2",
};

/// How a side begins its transactions, and as whom.
#[derive(Clone)]
enum Side {
    Walled(Db),
    Plain(PgPool),
}

impl Side {
    async fn claim(&self, office: OfficeId) -> Result {
        match self {
            Self::Walled(db) => {
                let mut tx = db.office(office).begin().await.map_err(mi_kernel::Error::from)?;
                claim(postgres(tx.arm())?, &WALLED, office).await?;
                Ok(tx.commit().await.map_err(mi_kernel::Error::from)?)
            }
            Self::Plain(pool) => {
                let mut tx = pool.begin().await?;
                claim(&mut tx, &PLAIN, office).await?;
                Ok(tx.commit().await?)
            }
        }
    }

    /// Claims a second, of all workers.
    async fn throughput(&self, offices: &[OfficeId]) -> Result<f64> {
        let start = Instant::now();
        let mut workers: JoinSet<Result<u32>> = JoinSet::new();
        for office in offices.iter().copied().cycle().take(WORKERS) {
            let side = self.clone();
            workers.spawn(async move {
                let mut claims = 0_u32;
                while start.elapsed() < SPAN {
                    side.claim(office).await?;
                    claims += 1;
                }
                Ok(claims)
            });
        }
        let mut claims = 0;
        while let Some(worker) = workers.join_next().await {
            claims += worker??;
        }
        Ok(f64::from(claims) / start.elapsed().as_secs_f64())
    }
}

async fn claim(conn: &mut PgConnection, texts: &Texts, office: OfficeId) -> Result {
    let id: Uuid = sqlx::query_scalar(texts.find).bind(office.0).fetch_one(&mut *conn).await?;
    let taken = sqlx::query(texts.take).bind(office.0).bind(id).execute(conn).await?;
    match taken.rows_affected() {
        1 => Ok(()),
        rows => Err(format!("a claim took {rows} rows").into()),
    }
}

fn postgres(arm: Arm<'_>) -> Result<&mut PgConnection> {
    match arm {
        Arm::Postgres(conn) => Ok(conn),
        Arm::Sqlite(_) => Err("SQLite has no row-level security".into()),
    }
}

pub(crate) async fn run() -> Result<Table> {
    let mut table = Table::new("rls");
    // Waiting for the disk hides other costs: the second comparison does without.
    for (commits, synchronous) in [("durable commits", "on"), ("commits that do not wait", "off")] {
        let (walled, plain) = compare(synchronous).await?;
        table.row(&format!("{commits}: claims with row-level security, 8 workers"), "/s", &walled);
        table.row(&format!("{commits}: claims without"), "/s", &plain);
        let cost = paired(&(walled, plain), |walled, plain| (1.0 - walled / plain) * 100.0);
        table.goal(&format!("{commits}: cost of row-level security"), "%", &cost, Goal::AtMost(15.0));
    }
    Ok(table)
}

/// Claims a second with the wall and without, round by round.
async fn compare(synchronous_commit: &str) -> Result<(Vec<f64>, Vec<f64>)> {
    let database = TestDb::plain(Backend::Postgres).await;
    let url = format!("{}?options[synchronous_commit]={synchronous_commit}", database.url().unwrap_or_default());
    let DbTarget::Postgres { schema, .. } = *database.target() else {
        return Err("SQLite has no row-level security".into());
    };
    let db = Db::open(&DbTarget::Postgres { url: url.clone(), schema, process: None }, MIGRATIONS).await?;
    let options: PgConnectOptions = url.parse()?;
    let pool = PgPoolOptions::new().max_connections(16).test_before_acquire(false);
    let pool = pool.connect_with(options.options([("search_path", schema)])).await?;
    let offices: Vec<OfficeId> = (0..OFFICES).map(|_| OfficeId::new()).collect();
    for office in &offices {
        let mut tx = db.office(*office).begin().await.map_err(mi_kernel::Error::from)?;
        sqlx::query(WALLED.insert).bind(office.0).bind(ROWS).execute(postgres(tx.arm())?).await?;
        tx.commit().await.map_err(mi_kernel::Error::from)?;
        sqlx::query(PLAIN.insert).bind(office.0).bind(ROWS).execute(&pool).await?;
    }
    pool.execute("VACUUM ANALYZE queue, plain").await?;

    let sides = [Side::Walled(db.clone()), Side::Plain(pool)];
    let (mut walled, mut plain) = (Vec::new(), Vec::new());
    // The first round warms connections and caches.
    for round in 0..=ROUNDS {
        let mut measured = [0.0; 2];
        for turn in 0..2 {
            // Who goes first changes with each round.
            let side = (round + turn) % 2;
            measured[side] = sides[side].throughput(&offices).await?;
        }
        if round > 0 {
            walled.push(measured[0]);
            plain.push(measured[1]);
        }
    }
    db.close().await;
    Ok((walled, plain))
}
