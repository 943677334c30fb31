//! What is to be done about a cluster as a whole, where agents live in one: to find it, and that it is the one that this
//! database belongs to; to mend what somebody changed; and to remove what is nobody's.

use std::{collections::HashSet, sync::Arc, time::Duration};

use mi_kernel::{AgentId, Error, OfficeId, Result};
use mi_proto::v1::OfficeCondition;
use mi_rpc::convert::timestamp;
use mi_runtime::{Cluster, Place, Progress};
use mi_store::{DbResult, PlatformConn, exec, json_text, lease::Lease, optional, scalars};
use tokio::time::Instant;
use uuid::Uuid;

use crate::Scheduler;

/// The agents of this database live in another cluster.
pub(crate) const OTHER_CLUSTER: &str = "OTHER_CLUSTER";
/// How often the cluster is gone over.
const FULL_PASS: Duration = Duration::from_secs(300);
/// How soon again when that failed, or nothing was seen yet.
const RETRY: Duration = Duration::from_secs(5);
/// Of several schedulers over one database one mends. When that one is gone, another one does so within this time and a look.
pub(crate) const LEASE: Duration = Duration::from_secs(30);
/// How often it is looked who mends.
const LOOK: Duration = Duration::from_secs(10);
/// Agents of one statement.
const PART: usize = 1000;

/// This installation, and the cluster that its agents live in, if they ever did. Both stay.
async fn installation(conn: &mut PlatformConn, fresh: Uuid) -> DbResult<(Uuid, Option<String>)> {
    let sql = "INSERT INTO cluster (id, installation) VALUES (1, $1) ON CONFLICT (id) DO NOTHING";
    exec!(conn, sql, fresh)?;
    let row: Option<(Uuid, Option<String>)> = optional!(conn, "SELECT installation, uid FROM cluster WHERE id = 1")?;
    Ok(row.unwrap_or((fresh, None)))
}

/// Remembers the cluster; whoever comes second does not change it.
async fn belongs_to(conn: &mut PlatformConn, uid: &str) -> DbResult<()> {
    exec!(conn, "UPDATE cluster SET uid = $1 WHERE id = 1 AND uid IS NULL", uid).map(drop)
}

/// Which of these agents there are. Spans offices, as what is seen of the cluster does.
async fn known_agents(conn: &mut PlatformConn, ids: &[AgentId]) -> DbResult<HashSet<AgentId>> {
    let sql = conn.pick(
        "SELECT id FROM agents WHERE id IN (SELECT unhex(value, '-') FROM json_each($1))",
        "SELECT id FROM agents WHERE id = ANY (ARRAY(SELECT json_array_elements_text($1::json)::uuid))",
    );
    Ok(scalars!(conn, sql, json_text(ids)?)?.into_iter().collect())
}

/// Which of these offices there are.
async fn known_offices(conn: &mut PlatformConn, ids: &[OfficeId]) -> DbResult<HashSet<OfficeId>> {
    let sql = conn.pick(
        "SELECT id FROM offices WHERE id IN (SELECT unhex(value, '-') FROM json_each($1))",
        "SELECT id FROM offices WHERE id = ANY (ARRAY(SELECT json_array_elements_text($1::json)::uuid))",
    );
    Ok(scalars!(conn, sql, json_text(ids)?)?.into_iter().collect())
}

/// Looks after the cluster until it is dropped.
pub(crate) async fn run(scheduler: Arc<Scheduler>, lease: Lease) {
    let Some(cluster) = scheduler.runtime.cluster() else { return };
    while let Err(error) = scheduler.join(cluster).await {
        tracing::warn!(target: "mi::scheduler", error = %error.chain(), "the cluster is not used yet; it is tried again");
        tokio::time::sleep(RETRY).await;
    }
    // When it was gone over, and whether it was mended.
    let mut last: Option<(Instant, bool)> = None;
    loop {
        let looked = async {
            let mend = lease.held().await?;
            if last.is_none_or(|(at, mended)| at.elapsed() >= FULL_PASS || mend && !mended) {
                let begun = Instant::now();
                scheduler.look_over_cluster(cluster, mend).await?;
                last = Some((begun, mend));
            }
            Ok::<_, Error>(())
        };
        let pause = match looked.await {
            Ok(()) => LOOK,
            Err(error) => {
                tracing::warn!(target: "mi::scheduler", error = %error.chain(), "the cluster was not gone over; it is tried again");
                RETRY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

impl Scheduler {
    /// Whether an office has what it needs of the cluster.
    pub(crate) fn conditions(&self, office: OfficeId) -> Vec<OfficeCondition> {
        let Some(cluster) = self.runtime.cluster() else { return Vec::new() };
        let problems = cluster.seen().map_or_else(|unseen| vec![unseen], |()| cluster.problems(office));
        vec![OfficeCondition {
            r#type: "ClusterReady".to_owned(),
            ok: problems.is_empty(),
            message: problems.join("; "),
            time: Some(timestamp(self.clock.now())),
        }]
    }

    /// Begins to use the cluster.
    ///
    /// # Errors
    /// `OTHER_CLUSTER` when the agents of this database live in another one.
    pub(crate) async fn join(&self, cluster: &dyn Cluster) -> Result<()> {
        let mut tx = self.db.platform().begin().await?;
        let (installation, known) = installation(&mut tx, Uuid::now_v7()).await?;
        tx.commit().await?;
        // Asked first: what this installation has in a cluster is looked at only where it is.
        let uid = cluster.id().await?;
        if let Some(known) = known.filter(|known| *known != uid) {
            let text = format!(
                "this database belongs to an installation in the cluster {known}, and this is the cluster {uid}: two \
                 installations cannot share a database. Use another one, or remove the row of the table `cluster` if the \
                 agents are to be made anew here"
            );
            return Err(Error::precondition(OTHER_CLUSTER, text));
        }
        let mut tx = self.db.platform().begin().await?;
        belongs_to(&mut tx, &uid).await?;
        tx.commit().await?;
        cluster.join(installation);
        Ok(())
    }

    /// Mends what somebody changed and removes what is nobody's. Rows are there before objects and go after them, so that an
    /// object without a row is left over. Without `mend` it is only looked at.
    pub(crate) async fn look_over_cluster(&self, cluster: &dyn Cluster, mend: bool) -> Result<()> {
        cluster.seen().map_err(Error::unavailable)?;
        cluster.look_over(mend).await?;
        if !mend {
            return Ok(());
        }
        let (places, offices) = cluster.places();
        for part in places.chunks(PART) {
            let ids: Vec<AgentId> = part.iter().map(|place| place.agent_id).collect();
            let known = known_agents(&mut self.db.platform().read().await?, &ids).await?;
            for place in part.iter().filter(|place| !known.contains(&place.agent_id)) {
                self.clear(*place).await?;
            }
        }
        for part in offices.chunks(PART) {
            let known = known_offices(&mut self.db.platform().read().await?, part).await?;
            for office in part.iter().filter(|office| !known.contains(office)) {
                tracing::warn!(target: "mi::scheduler", %office, "a namespace of an office that is gone is removed");
                let _ = self.runtime.remove_office(*office).await?;
            }
        }
        Ok(())
    }

    async fn clear(&self, place: Place) -> Result<()> {
        tracing::warn!(target: "mi::scheduler", agent = %place.agent_id, "objects of an agent that is gone are removed");
        if self.runtime.stop(place).await? == Progress::Done {
            // What is under way goes on with the next pass.
            let _ = self.runtime.remove(place).await?;
        }
        Ok(())
    }
}
