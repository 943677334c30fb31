//! Deletion goes role by role, and goes on after a crash at any step.

use mi_proto::v1::{OfficeStatus, ResumeOfficeRequest, SuspendOfficeRequest};
use mi_testkit::on_both;
use tonic::Code;

use super::{
    peer::{Mood, Peer},
    stage::Stage,
};

on_both! {
    a_deleted_office_is_removed_everywhere_and_others_stay,
    the_feed_goes_last,
    a_deletion_goes_on_after_a_crash_at_any_step,
    a_provisioning_office_can_be_deleted,
}

impl Stage {
    fn assert_removed(&self, office: &str) {
        for peer in [&self.scheduler, &self.activity] {
            let known = peer.known();
            assert!(!known.offices.contains_key(office));
            assert!(known.removals.iter().any(|removed| removed == office));
        }
    }

    fn assert_kept(&self, office: &str) {
        for peer in [&self.scheduler, &self.activity] {
            let known = peer.known();
            assert!(known.offices.contains_key(office));
            assert!(known.removals.iter().all(|removed| removed != office));
        }
    }
}

async fn a_deleted_office_is_removed_everywhere_and_others_stay(stage: Stage) {
    let (office, other) = (stage.create("Gone").await.id, stage.create("Kept").await.id);
    stage.delete(&office).await;
    stage.until_status(&office, None).await;
    stage.assert_removed(&office);
    stage.assert_kept(&other);
    assert_eq!(stage.get(&other).await.expect("kept").status(), OfficeStatus::Active);
    let again = stage.offices(&stage.owner);
    let request = mi_proto::v1::DeleteOfficeRequest { office_id: office.clone() };
    assert_eq!(again.clone().delete_office(request).await.expect_err("gone").code(), Code::NotFound);
}

async fn the_feed_goes_last(stage: Stage) {
    let office = stage.create("Slow").await.id;
    stage.scheduler.be(Mood::NotDone);
    stage.delete(&office).await;
    stage.until_refused(&stage.scheduler, 2).await;
    // While agents are being fired the office is there, takes no change, and keeps its feed.
    assert_eq!(stage.get(&office).await.expect("still there").status(), OfficeStatus::Deleting);
    stage.delete(&office).await;
    let mut client = stage.offices(&stage.owner);
    for refused in [
        client.suspend_office(SuspendOfficeRequest { office_id: office.clone() }).await.err(),
        client.resume_office(ResumeOfficeRequest { office_id: office.clone() }).await.err(),
    ] {
        assert_eq!(refused.expect("being deleted").code(), Code::FailedPrecondition);
    }
    assert_eq!(stage.activity.known().removals, Vec::<String>::new());
    stage.until_events(&office, &["office.created", "office.activated", "office.deletion_requested"]).await;
    stage.scheduler.be(Mood::Works);
    stage.until_status(&office, None).await;
    stage.assert_removed(&office);
}

async fn a_deletion_goes_on_after_a_crash_at_any_step(mut stage: Stage) {
    let other = stage.create("Kept").await.id;
    let peers: [fn(&Stage) -> &Peer; 2] = [|stage| &stage.scheduler, |stage| &stage.activity];
    for peer in peers {
        for mood in [Mood::Fails, Mood::Hangs, Mood::NotDone] {
            let office = stage.create("Gone").await.id;
            stage.until_events(&office, &["office.created", "office.activated"]).await;
            let before = peer(&stage).known().refused;
            peer(&stage).be(mood);
            if mood == Mood::Hangs {
                // The answer would come when the patience ends; the process dies before.
                let (client, request) =
                    (stage.offices(&stage.owner), mi_proto::v1::DeleteOfficeRequest { office_id: office.clone() });
                let asking = tokio::spawn(async move { client.clone().delete_office(request).await.map(drop) });
                stage.until_refused(peer(&stage), before).await;
                asking.abort();
            } else {
                stage.delete(&office).await;
                stage.until_refused(peer(&stage), before).await;
            }
            assert_eq!(stage.get(&office).await.expect("still there").status(), OfficeStatus::Deleting);
            stage.crash().await;
            assert_eq!(stage.get(&office).await.expect("still there").status(), OfficeStatus::Deleting, "{mood:?}");
            peer(&stage).be(Mood::Works);
            if mood == Mood::Hangs {
                // The new process may have asked before the peer came back; another crash frees it.
                stage.crash().await;
            }
            stage.until_status(&office, None).await;
            stage.assert_removed(&office);
        }
    }
    stage.assert_kept(&other);
    assert_eq!(stage.get(&other).await.expect("kept").status(), OfficeStatus::Active);
}

async fn a_provisioning_office_can_be_deleted(stage: Stage) {
    stage.activity.be(Mood::Fails);
    let office = stage.create("Stillborn").await;
    assert_eq!(office.status(), OfficeStatus::Provisioning);
    stage.delete(&office.id).await;
    assert_eq!(stage.get(&office.id).await.expect("still there").status(), OfficeStatus::Deleting);
    stage.activity.be(Mood::Works);
    stage.until_status(&office.id, None).await;
    stage.assert_removed(&office.id);
}
