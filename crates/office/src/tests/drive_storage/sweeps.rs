//! What is cleared away by itself, also when storage refuses, and before its time when the disk is full.

use std::{sync::Arc, time::Duration};

use mi_base::{
    disk_reserve::DiskReserve,
    sweep::{BACKOFF, Removals},
};
use mi_drive::storage::{EXPIRY, GRACE, Storage};
use mi_kernel::{Clock, Time};
use mi_testkit::{Stuck, on_both};

use super::{TRASH, UPLOAD, exhausted};
use crate::tests::{drive::header, harness::Harness};

on_both! {
    an_object_that_cannot_be_deleted_is_the_trouble_of_its_own_office,
    uploads_of_a_process_that_died_go_to_the_trash_in_parts,
    on_a_full_disk_the_trash_is_emptied_before_its_time,
    while_the_reserve_is_given_up_nothing_is_uploaded,
}

async fn an_object_that_cannot_be_deleted_is_the_trouble_of_its_own_office(harness: Harness) {
    let (stuck, well) = (harness.create("Stuck").await.id, harness.create("Well").await.id);
    for office in [&stuck, &well] {
        for path in ["a", "b", "c", "d", "kept"] {
            harness.put(office, path, path.as_bytes()).await;
        }
        for path in ["a", "b", "c", "d"] {
            harness.remove(office, path).await;
        }
        harness.clock.advance(Duration::from_secs(1));
    }
    harness.clock.advance(GRACE);
    let storage = Arc::new(Stuck::new(Arc::new(harness.objects.clone()), &stuck));
    let storage = Storage::new(harness.db().await, harness.clock.shared(), storage, DiskReserve::default());
    let swept_at = harness.clock.now();
    storage.sweep().await.expect("goes on");
    let owners = async || {
        let all = harness.objects.all().await;
        [&stuck, &well].map(|office| all.iter().filter(|path| path.contains(office.as_str())).count())
    };
    assert_eq!((owners().await, harness.named().await), ([5, 1], (0, 4)));

    // Tried again, and not all the time.
    harness.sweep().await.expect("sweeps");
    assert_eq!(harness.named().await, (0, 4));
    harness.clock.advance(BACKOFF.first);
    let due = async |at: Time| storage.due(at, 10).await.expect("reads").len();
    assert_eq!(
        (due(swept_at).await, due(harness.clock.now()).await),
        (0, 4),
        "a sweep that takes so long comes to its end"
    );
    harness.sweep().await.expect("sweeps");
    assert_eq!((owners().await, harness.named().await), ([1, 1], (0, 0)));
    for office in [&stuck, &well] {
        assert_eq!(harness.content(office, "kept").await.expect("reads"), b"kept");
    }
}

async fn uploads_of_a_process_that_died_go_to_the_trash_in_parts(harness: Harness) {
    let (one, other) = (harness.create("One").await.id, harness.create("Other").await.id);
    let now = harness.clock.now();
    for (office, uploads) in [(&one, 600), (&other, 401)] {
        let objects: Vec<_> = (0..uploads).map(|_| uuid::Uuid::now_v7()).collect();
        harness.name(office, UPLOAD, &objects, now).await;
    }
    harness.clock.advance(EXPIRY + Duration::from_secs(1));
    let storage = harness.resources().await.storage;
    for (more, named) in [(true, (1, 1000)), (true, (0, 1001)), (false, (0, 1001))] {
        assert_eq!(storage.expire_some(harness.clock.now()).await.expect("moves"), more);
        assert_eq!(harness.named().await, named);
    }
    harness.sweep_late().await;
}

async fn on_a_full_disk_the_trash_is_emptied_before_its_time(harness: Harness) {
    let (office, other) = (harness.create("Mine").await.id, harness.create("Other").await.id);
    for (office, path) in [(&office, "gone"), (&office, "kept"), (&other, "gone")] {
        harness.put(office, path, path.as_bytes()).await;
    }
    for office in [&office, &other] {
        harness.remove(office, "gone").await;
    }
    // An upload that was given up may be written yet: it keeps its time.
    harness.name(&office, TRASH, &[uuid::Uuid::now_v7()], harness.clock.now() + GRACE).await;
    assert_eq!((harness.objects().await, harness.named().await), (3, (0, 3)));
    let stuck = Arc::new(Stuck::new(Arc::new(harness.objects.clone()), &other));
    let storage = Storage::new(harness.db().await, harness.clock.shared(), stuck, DiskReserve::default());
    // It comes to its end, whatever cannot be deleted.
    for _ in 0..2 {
        storage.sweep_early().await.expect("sweeps");
        assert_eq!((harness.objects().await, harness.named().await), (2, (0, 2)));
    }
    assert_eq!(harness.content(&office, "kept").await.expect("reads"), b"kept");
    harness.sweep_late().await;
}

async fn while_the_reserve_is_given_up_nothing_is_uploaded(mut harness: Harness) {
    let directory = tempfile::tempdir().expect("directory");
    harness.reserve = DiskReserve::open(directory.path());
    harness.crash().await;
    let office = harness.create("Mine").await.id;
    harness.put(&office, "a", b"1").await;
    let full = || async { Err::<(), _>(mi_base::disk_reserve::full("as told")) };
    harness.reserve.freeing(full).await.expect_err("still full");
    assert_eq!(exhausted(harness.upload(header(&office, "b"), b"2").await), "STORAGE_FULL");
    harness.remove(&office, "a").await;
    // The running platform empties its trash at once.
    harness.until_objects(0).await;
}
