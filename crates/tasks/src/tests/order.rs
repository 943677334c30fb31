//! The order in which tasks are handed out.

use std::time::Duration;

use mi_proto::v1::{CreateTaskRequest, TaskKind};
use mi_tenancy::Author;

use super::simulation::quietly;
use crate::{
    group_commit::{Patience, TaskCommand},
    model::{Kind, Task},
    rules,
    work::Claim,
};

pub(super) fn create(title: &str, kind: TaskKind, priority: i32) -> TaskCommand {
    create_long(title, kind, priority, 0)
}

/// With a description of so many bytes.
fn create_long(title: &str, kind: TaskKind, priority: i32, length: usize) -> TaskCommand {
    let (title, kind, priority) = (title.to_owned(), kind.into(), Some(priority));
    let request = CreateTaskRequest { title, kind, priority, description: "x".repeat(length), ..Default::default() };
    TaskCommand::Create(vec![rules::new(&request, 0, Ok(None), None).expect("good")], Author::operator())
}

fn claim() -> TaskCommand {
    let (by, kinds, lease) = (Author::operator(), vec![Kind::General], Duration::from_secs(30));
    TaskCommand::Claim(Claim { by, tools: None, kinds, most: 1, lease }, Patience::None)
}

#[test]
fn what_is_new_does_not_come_before_what_was_not_read() {
    quietly(async |tasks, office| {
        // More than two claims read together leads the queue, and is not for them.
        let mut commands: Vec<_> = (0..9).map(|n| create(&format!("code {n}"), TaskKind::Code, 0)).collect();
        commands.push(create("old", TaskKind::General, 10));
        tasks.submit(office, commands, None, "").await.expect("has room");
        let commands = vec![create("new", TaskKind::General, 20), claim(), claim()];
        let answers = tasks.submit(office, commands, None, "").await.expect("has room");
        let titles = |tasks: Vec<Task>| tasks.into_iter().map(|task| task.spec.title).collect::<Vec<_>>();
        let got: Vec<_> = answers.into_iter().map(|answer| titles(answer.expect("done"))).collect();
        assert_eq!(got, [["new"], ["old"], ["new"]]);
    });
}

#[test]
fn a_queue_longer_than_what_is_remembered_is_handed_out_in_order() {
    quietly(async |tasks, office| {
        let titles: Vec<String> = (0..40).map(|n| format!("{n}")).collect();
        // The more urgent ones come later.
        let (late, early) = titles.split_at(20);
        for (titles, priority) in [(late, 60), (early, 40)] {
            let commands = titles.iter().map(|title| create(title, TaskKind::General, priority)).collect();
            tasks.submit(office, commands, None, "").await.expect("has room");
        }
        for (claimed_before, title) in early.iter().chain(late).enumerate() {
            let answers = tasks.submit(office, vec![claim()], None, "").await.expect("has room");
            let claimed = answers.into_iter().next().expect("an answer").expect("claims");
            assert_eq!(claimed.iter().map(|task| &task.spec.title).collect::<Vec<_>>(), [title]);
            // All that are being worked on, and a part of the queue: twice what is read of it at most.
            let (known, _) = tasks.memories.length(office).expect("it is remembered");
            assert!((claimed_before + 1..claimed_before + 14).contains(&known), "{known} tasks after {claimed_before}");
        }
    });
}

#[test]
fn long_tasks_are_remembered_up_to_a_bound_and_all_of_them_are_handed_out() {
    const MOST_BYTES: usize = 4 << 20;
    quietly(async |tasks, office| {
        // More than that while they are queued, and while all of them are worked on.
        let titles: Vec<String> = (0..50).map(|n| format!("{n}")).collect();
        for title in &titles {
            let command = create_long(title, TaskKind::General, 50, 200_000);
            tasks.submit(office, vec![command], None, "").await.expect("has room");
        }
        for title in &titles {
            let answers = tasks.submit(office, vec![claim()], None, "").await.expect("has room");
            let claimed = answers.into_iter().next().expect("an answer").expect("claims");
            assert_eq!(claimed.iter().map(|task| &task.spec.title).collect::<Vec<_>>(), [title]);
            let (_, bytes) = tasks.memories.length(office).expect("it is remembered");
            assert!((1..=MOST_BYTES).contains(&bytes), "{bytes} bytes at {title}");
        }
    });
}
