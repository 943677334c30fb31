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

fn create(title: &str, kind: TaskKind, priority: i32) -> TaskCommand {
    let (title, kind, priority) = (title.to_owned(), kind.into(), Some(priority));
    let request = CreateTaskRequest { title, kind, priority, ..Default::default() };
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
