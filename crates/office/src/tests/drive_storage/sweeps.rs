//! What is cleared away by itself, also when storage refuses, and before its time when the disk is full.

use std::{sync::Arc, time::Duration};

use mi_base::{
    reserve::Reserve,
    sweep::{BACKOFF, Removals},
};
use mi_drive::{
    repo::objects,
    storage::{GRACE, Storage},
};
use mi_kernel::{Clock, OfficeId, Time};
use mi_testkit::{Stuck, on_both};

use super::exhausted;
use crate::tests::{drive::header, stage::Stage};

on_both! {
    an_object_that_cannot_be_deleted_is_the_trouble_of_its_own_office,
    uploads_of_a_process_that_died_go_to_the_trash_in_parts,
    on_a_full_disk_the_trash_is_emptied_before_its_time,
    while_the_reserve_is_given_up_nothing_is_uploaded,
}

async fn an_object_that_cannot_be_deleted_is_the_trouble_of_its_own_office(stage: Stage) {
    let (stuck, well) = (stage.create("Stuck").await.id, stage.create("Well").await.id);
    for office in [&stuck, &well] {
        for path in ["a", "b", "c", "d", "kept"] {
            stage.put(office, path, path.as_bytes()).await;
        }
        for path in ["a", "b", "c", "d"] {
            stage.remove(office, path).await;
        }
        stage.clock.advance(Duration::from_secs(1));
    }
    stage.clock.advance(GRACE);
    let storage = Arc::new(Stuck::new(Arc::new(stage.objects.clone()), &stuck));
    let storage = Storage::new(stage.db().await, stage.clock.shared(), storage, Reserve::default());
    let swept_at = stage.clock.now();
    storage.sweep().await.expect("goes on");
    let owners = async || {
        let all = stage.objects.all().await;
        [&stuck, &well].map(|office| all.iter().filter(|path| path.contains(office.as_str())).count())
    };
    assert_eq!((owners().await, stage.named().await), ([5, 1], (0, 4)));

    // Tried again, and not all the time.
    stage.sweep().await.expect("sweeps");
    assert_eq!(stage.named().await, (0, 4));
    stage.clock.advance(BACKOFF.first);
    let due = async |at: Time| storage.due(at, 10).await.expect("reads").len();
    assert_eq!(
        (due(swept_at).await, due(stage.clock.now()).await),
        (0, 4),
        "a sweep that takes so long comes to its end"
    );
    stage.sweep().await.expect("sweeps");
    assert_eq!((owners().await, stage.named().await), ([1, 1], (0, 0)));
    for office in [&stuck, &well] {
        assert_eq!(stage.content(office, "kept").await.expect("reads"), b"kept");
    }
}

async fn uploads_of_a_process_that_died_go_to_the_trash_in_parts(stage: Stage) {
    let (one, other) = (stage.create("One").await.id, stage.create("Other").await.id);
    let (db, now) = (stage.db().await, stage.clock.now());
    for (office, uploads) in [(&one, 600), (&other, 401)] {
        let mut tx = db.office(OfficeId::parse(office).expect("an id")).begin().await.expect("begins");
        for _ in 0..uploads {
            objects::upload_insert(&mut tx, uuid::Uuid::now_v7(), now).await.expect("writes");
        }
        tx.commit().await.expect("commits");
    }
    let later = now + Duration::from_secs(1);
    for (more, named) in [(true, (1, 1000)), (true, (0, 1001)), (false, (0, 1001))] {
        assert_eq!(objects::upload_expire_some(&db, later, later).await.expect("moves"), more);
        assert_eq!(stage.named().await, named);
    }
    stage.sweep_late().await;
}

async fn on_a_full_disk_the_trash_is_emptied_before_its_time(stage: Stage) {
    let (office, other) = (stage.create("Mine").await.id, stage.create("Other").await.id);
    for (office, path) in [(&office, "gone"), (&office, "kept"), (&other, "gone")] {
        stage.put(office, path, path.as_bytes()).await;
    }
    for office in [&office, &other] {
        stage.remove(office, "gone").await;
    }
    // An upload that was given up may be written yet: it keeps its time.
    let (db, object) = (stage.db().await, uuid::Uuid::now_v7());
    let due = stage.clock.now() + GRACE;
    let mut tx = db.office(OfficeId::parse(&office).expect("an id")).begin().await.expect("begins");
    objects::trash_insert(&mut tx, object, 0, due).await.expect("writes");
    tx.commit().await.expect("commits");
    assert_eq!((stage.objects().await, stage.named().await), (3, (0, 3)));
    let stuck = Arc::new(Stuck::new(Arc::new(stage.objects.clone()), &other));
    let storage = Storage::new(stage.db().await, stage.clock.shared(), stuck, Reserve::default());
    // It comes to its end, whatever cannot be deleted.
    for _ in 0..2 {
        storage.sweep_early().await.expect("sweeps");
        assert_eq!((stage.objects().await, stage.named().await), (2, (0, 2)));
    }
    assert_eq!(stage.content(&office, "kept").await.expect("reads"), b"kept");
    stage.sweep_late().await;
}

async fn while_the_reserve_is_given_up_nothing_is_uploaded(mut stage: Stage) {
    let directory = tempfile::tempdir().expect("directory");
    stage.reserve = Reserve::open(directory.path());
    stage.crash().await;
    let office = stage.create("Mine").await.id;
    stage.put(&office, "a", b"1").await;
    let full = || async { Err::<(), _>(mi_base::reserve::full("as told")) };
    stage.reserve.freeing(full).await.expect_err("still full");
    assert_eq!(exhausted(stage.upload(header(&office, "b"), b"2").await), "STORAGE_FULL");
    stage.remove(&office, "a").await;
    // The running platform empties its trash at once.
    stage.until_objects(0).await;
}
