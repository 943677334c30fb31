//! Logs: appended once, numbered without gaps, listed and followed.

use mi_proto::{
    internal::v1::{AppendCapturedLogsRequest, CapturedLogs},
    v1::{AppendLogsRequest, TailLogsRequest, TailLogsResponse},
};

use mi_kernel::ErrorKind;
use mi_store::on;
use sqlx::types::Json;

use super::*;
use crate::logs::{Batch, source::Source};

on_both! {
    a_batch_sent_again_is_stored_once,
    a_gap_in_a_source_leaves_none_in_the_log,
    many_agents_write_at_once_each_into_its_own_log,
    wrong_batches_are_refused_and_nothing_of_them_is_stored,
    a_log_that_cannot_be_read_fails_alone,
    captured_lines_join_the_agents_own_and_are_stored_once,
    a_name_stands_for_its_newest_agent,
    a_tail_starts_where_it_is_told_and_follows,
    a_tail_that_resumes_misses_nothing_while_lines_become_segments,
}

/// A writer of one agent's log.
pub(super) struct Log {
    pub(super) office_id: OfficeId,
    pub(super) owner: Actor,
    pub(super) agent: Actor,
    pub(super) source: &'static str,
}

impl Log {
    /// An agent `analyst` in an office of its own.
    pub(super) async fn new(world: &World) -> Self {
        let (office_id, owner) = world.office().await;
        Self { office_id, owner, agent: agent(office_id, "analyst"), source: "run-1" }
    }

    fn batch(&self, first_index: i64, lines: Vec<LogLine>) -> AppendLogsRequest {
        AppendLogsRequest { office_id: self.office_id.to_string(), source: self.source.into(), first_index, lines }
    }

    pub(super) async fn send(&self, world: &World, first_index: i64, lines: Vec<LogLine>) -> Result<i64, Status> {
        let batch = self.batch(first_index, lines);
        let answers = world.logs(&self.agent).append_logs(futures::stream::iter([batch])).await?;
        Ok(next(&mut answers.into_inner()).await?.durable_index)
    }

    /// Lines `FIRST_INDEX..=LAST` whose text is their index.
    pub(super) async fn numbers(&self, world: &World, indexes: std::ops::RangeInclusive<i64>) -> i64 {
        let first = *indexes.start();
        let lines = indexes.map(|i| line(i.to_string())).collect();
        self.send(world, first, lines).await.expect("appended")
    }

    pub(super) fn all(&self) -> ListLogsRequest {
        ListLogsRequest {
            office_id: self.office_id.to_string(),
            agent: "analyst".into(),
            limit: Some(10_000),
            ..Default::default()
        }
    }

    pub(super) async fn texts(&self, world: &World) -> Vec<String> {
        world.list(&self.owner, self.all()).await.into_iter().map(|(_, text)| text).collect()
    }

    async fn tail(
        &self,
        world: &World,
        after_sequence: Option<i64>,
        limit: Option<i32>,
    ) -> Streaming<TailLogsResponse> {
        let request =
            TailLogsRequest { office_id: self.office_id.to_string(), agent: "analyst".into(), after_sequence, limit };
        world.logs(&self.owner).tail_logs(request).await.expect("tailed").into_inner()
    }
}

pub(super) fn numbered(indexes: std::ops::RangeInclusive<i64>) -> Vec<(i64, String)> {
    indexes.map(|i| (i, i.to_string())).collect()
}

async fn next_line(tail: &mut Streaming<TailLogsResponse>) -> (i64, String) {
    let line = next(tail).await.expect("goes on").line.expect("a line");
    (line.sequence, line.text)
}

async fn a_batch_sent_again_is_stored_once(db: TestDb) {
    let world = World::new(db).await;
    let log = Log::new(&world).await;
    assert_eq!(log.numbers(&world, 1..=3).await, 3);
    // The answer was lost: the same batch, then one that has grown meanwhile, then one that is all old.
    assert_eq!(log.numbers(&world, 1..=3).await, 3);
    assert_eq!(log.numbers(&world, 2..=6).await, 6);
    assert_eq!(log.numbers(&world, 1..=2).await, 6);
    assert_eq!(world.list(&log.owner, log.all()).await, numbered(1..=6));
    // An empty batch asks how far the source is.
    assert_eq!(log.send(&world, 1, Vec::new()).await.expect("asked"), 6);
}

async fn a_gap_in_a_source_leaves_none_in_the_log(db: TestDb) {
    let world = World::new(db).await;
    let log = Log::new(&world).await;
    log.numbers(&world, 1..=2).await;
    assert_eq!(log.numbers(&world, 10..=11).await, 11);
    // What was skipped is passed: it would come after its successors.
    assert_eq!(log.numbers(&world, 3..=4).await, 11);
    let second = Log { source: "run-2", ..log };
    assert_eq!(second.numbers(&world, 1..=1).await, 1);
    let expected = [(1, "1"), (2, "2"), (3, "10"), (4, "11"), (5, "1")].map(|(seq, text)| (seq, text.to_owned()));
    assert_eq!(world.list(&second.owner, second.all()).await, expected);
}

async fn many_agents_write_at_once_each_into_its_own_log(db: TestDb) {
    let world = World::new(db).await;
    let replica = world.replica().await;
    let (office_id, owner) = world.office().await;
    let names: Vec<String> = (0..12).map(|i| format!("agent-{i}")).collect();
    futures::future::join_all(names.iter().enumerate().map(|(i, name)| {
        let world = if i < 6 { &world } else { world.other(&replica) };
        let agent = agent(office_id, name);
        async move {
            // Two runs of each agent at the same time.
            futures::future::join_all(["a", "b"].map(|source| {
                let (office_id, owner, agent) = (office_id, agent.clone(), agent.clone());
                let log = Log { office_id, owner, agent, source };
                async move {
                    for i in 1..=8 {
                        let lines =
                            vec![line(format!("{name} {source} {i} 1")), line(format!("{name} {source} {i} 2"))];
                        assert_eq!(log.send(world, 2 * i - 1, lines).await.expect("appended"), 2 * i);
                    }
                }
            }))
            .await;
        }
    }))
    .await;
    for name in names {
        let request = ListLogsRequest { office_id: office_id.to_string(), agent: name.clone(), ..Default::default() };
        let lines = world.list(&owner, request).await;
        assert_eq!(lines.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), (1..=32).collect::<Vec<_>>());
        for source in ["a", "b"] {
            let prefix = format!("{name} {source} ");
            let own: Vec<&str> = lines.iter().filter_map(|(_, text)| text.strip_prefix(&prefix)).collect();
            let expected: Vec<String> = (1..=8).flat_map(|i| [format!("{i} 1"), format!("{i} 2")]).collect();
            assert_eq!(own, expected, "{name} {source}");
        }
    }
}

async fn wrong_batches_are_refused_and_nothing_of_them_is_stored(db: TestDb) {
    let world = World::new(db).await;
    let log = Log::new(&world).await;
    let large = vec![line("x".repeat(60_000)); 18];
    let no_stream = vec![LogLine { stream: 0, ..line("x") }];
    for (first_index, lines, field) in [
        (0, vec![line("x")], "first_index"),
        (1, large, "lines "),
        (1, no_stream, "lines.stream"),
        (i64::MAX, vec![line("x")], "first_index"),
    ] {
        let status = log.send(&world, first_index, lines).await.expect_err(field);
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().starts_with(field), "{status:?}");
    }
    let nameless = Log { source: "", ..log };
    assert!(nameless.send(&world, 1, vec![line("x")]).await.expect_err("source").message().starts_with("source"));
    assert_eq!(nameless.texts(&world).await, Vec::<String>::new());
}

async fn captured_lines_join_the_agents_own_and_are_stored_once(db: TestDb) {
    let world = World::new(db).await;
    let log = Log::new(&world).await;
    let Actor::Agent(actor) = &log.agent else { panic!("an agent") };
    let captured = |first_index, texts: &[&str]| CapturedLogs {
        office_id: log.office_id.to_string(),
        agent_id: actor.agent_id.to_string(),
        agent: actor.name.clone(),
        // As the agent's own run is called: the two must not be mixed up.
        source: log.source.into(),
        first_index,
        lines: texts.iter().map(|text| line(*text)).collect(),
    };
    let request = AppendCapturedLogsRequest { batches: vec![captured(1, &["a", "b"]), captured(3, &["c"])] };
    world.ingest().append_captured_logs(request.clone()).await.expect("captured");
    log.numbers(&world, 1..=2).await;
    world.ingest().append_captured_logs(request).await.expect("captured");
    assert_eq!(log.texts(&world).await, ["a", "b", "c", "1", "2"]);
}

async fn a_name_stands_for_its_newest_agent(db: TestDb) {
    let world = World::new(db).await;
    let fired = Log::new(&world).await;
    fired.numbers(&world, 1..=2).await;
    assert_eq!(fired.texts(&world).await, ["1", "2"]);
    let mut tail = fired.tail(&world, None, Some(1)).await;
    assert_eq!(next_line(&mut tail).await, (2, "2".to_owned()));
    let hired = Log { agent: agent(fired.office_id, "analyst"), ..fired };
    hired.send(&world, 1, vec![line("new")]).await.expect("appended");
    assert_eq!(next_line(&mut tail).await, (1, "new".to_owned()));
    assert_eq!(world.list(&hired.owner, hired.all()).await, [(1, "new".to_owned())]);
}

async fn a_tail_starts_where_it_is_told_and_follows(db: TestDb) {
    let world = World::new(db).await;
    let log = Log::new(&world).await;
    let mut waiting = log.tail(&world, None, None).await;
    log.numbers(&world, 1..=20).await;
    assert_eq!(next_line(&mut waiting).await, (1, "1".to_owned()));
    let mut tails = vec![];
    for (after, limit, first) in
        [(None, None, 11), (None, Some(3), 18), (None, Some(0), 21), (Some(0), None, 1), (Some(20), Some(5), 21)]
    {
        tails.push((log.tail(&world, after, limit).await, first));
    }
    log.numbers(&world, 21..=22).await;
    for (tail, first) in &mut tails {
        for expected in numbered(*first..=22) {
            assert_eq!(next_line(tail).await, expected);
        }
    }
}

async fn a_tail_that_resumes_misses_nothing_while_lines_become_segments(db: TestDb) {
    let world = World::new(db).await;
    let log = Log::new(&world).await;
    let Actor::Agent(actor) = &log.agent else { panic!("an agent") };
    let writer = async {
        for i in 0..60 {
            log.numbers(&world, 5 * i + 1..=5 * i + 5).await;
            if i % 7 == 0 {
                world.parts.logs.compact_one(log.office_id, actor.agent_id).await.expect("compacted");
            }
        }
    };
    let reader = async {
        let mut seen: Vec<(i64, String)> = Vec::new();
        while seen.len() < 300 {
            let mut tail = log.tail(&world, Some(seen.last().map_or(0, |(seq, _)| *seq)), None).await;
            for _ in 0..23.min(300 - seen.len()) {
                seen.push(next_line(&mut tail).await);
            }
        }
        seen
    };
    let ((), seen) = futures::join!(writer, reader);
    assert_eq!(seen, numbered(1..=300));
}

async fn a_log_that_cannot_be_read_fails_alone(db: TestDb) {
    let world = World::new(db).await;
    let mut logs = Vec::new();
    for _ in 0..5 {
        let log = Log::new(&world).await;
        log.numbers(&world, 1..=1).await;
        logs.push(log);
    }
    let mut tx = world.parts.db.platform().begin().await.expect("begins");
    on!(tx, |c| {
        sqlx::query("UPDATE log_streams SET sources = $1 WHERE office_id = $2")
            .bind(Json("nonsense"))
            .bind(logs[2].office_id.0)
            .execute(&mut *c)
            .await
            .map(drop)
    })
    .expect("spoils");
    tx.commit().await.expect("commits");

    let mut batches = Vec::new();
    for log in &logs {
        let Actor::Agent(agent) = log.agent.clone() else { panic!("an agent") };
        let source = Source::Agent(log.source.into()).checked().expect("good");
        let lines = vec![line("2")];
        batches.push(Batch::new(agent, source, 2, lines, &world.clock).await.expect("good"));
    }
    // Sent before the writer comes to run, and so in one group.
    let appending = batches.into_iter().map(|batch| world.parts.logs.append(batch));
    let answers = futures::future::join_all(appending).await;
    let answers: Vec<_> = answers.into_iter().map(|answer| answer.map_err(|error| error.kind)).collect();
    assert_eq!(answers, [Ok(2), Ok(2), Err(ErrorKind::Internal), Ok(2), Ok(2)]);
    for place in [0, 1, 3, 4] {
        assert_eq!(logs[place].texts(&world).await, ["1", "2"]);
    }
}
