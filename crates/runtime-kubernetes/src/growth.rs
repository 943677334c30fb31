//! Claims that grow with what their agents should have.
//!
//! What a set says of its claims cannot be changed, and concerns only claims that it has yet to make: a set that is made anew
//! with another size finds its old claim, and takes it. So the claim itself is changed, after the set. It never shrinks,
//! which no storage can. Where the storage class lets no volume grow the agent goes on with what it has, and says so; it is
//! tried again with each pass.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements},
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use kube::{Api, Client};
use mi_runtime::Place;

use crate::{
    cache::{Cache, Seen},
    calls::{apply, call},
    labels::namespace_name,
    views::ClaimView,
};

/// What a view has one of.
const THOUSANDTHS: i128 = 1000;

/// An agent's claim that is smaller than it should be: its name, and how many bytes it asks for and should.
fn small(seen: &Seen, place: Place) -> Option<(&str, &ClaimView, [i128; 2])> {
    let wanted = seen.workloads.of(place).find_map(|(_, workload)| workload.disk.filter(|_| !workload.deleting))?;
    let mut claims = seen.claims.of(place).filter(|(_, claim)| !claim.deleting && !claim.pending);
    claims.find_map(|(name, claim)| {
        let asked = claim.asked.filter(|asked| *asked < wanted)?;
        Some((name, claim, [asked / THOUSANDTHS, wanted / THOUSANDTHS]))
    })
}

/// What is not as it should be of an agent's claim.
pub(crate) fn flaw(seen: &Seen, place: Place) -> Option<String> {
    if let Some((name, _, [asked, wanted])) = small(seen, place) {
        let why = seen.ungrown.get(&place.agent_id).map_or("it is made larger with the next pass", |why| why);
        return Some(format!("its claim {name:?} asks for {asked} bytes and should ask for {wanted}: {why}"));
    }
    let mut claims = seen.claims.of(place).filter(|(_, claim)| !claim.deleting && !claim.pending);
    let (name, _) = claims.find(|(_, claim)| claim.has.zip(claim.asked).is_some_and(|(has, asked)| has < asked))?;
    Some(format!("the volume of its claim {name:?} is not as large yet as it should be"))
}

/// Makes an agent's claim as large as it should be, if it is smaller.
pub(crate) async fn grow(client: &Client, cache: &Cache, place: Place) {
    let found =
        small(&cache.seen(), place).map(|(name, claim, [_, wanted])| (name.to_owned(), claim.uid.clone(), wanted));
    let Some((name, uid, wanted)) = found else {
        cache.seen().ungrown.remove(&place.agent_id);
        return;
    };
    let claim = PersistentVolumeClaim {
        // By its uid: one that is gone is not made.
        metadata: ObjectMeta { name: Some(name.clone()), uid: Some(uid), ..ObjectMeta::default() },
        spec: Some(PersistentVolumeClaimSpec {
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), Quantity(wanted.to_string()))])),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    };
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace_name(place.office_id));
    let news = match call(apply(&api, &name, &claim)).await {
        Ok(written) => {
            cache.wrote(|seen| &mut seen.claims, place, &written.metadata, ClaimView::of(&written));
            cache.seen().ungrown.remove(&place.agent_id);
            true
        }
        Err(error) => {
            let before = cache.seen().ungrown.insert(place.agent_id, error.message.clone());
            before.as_ref() != Some(&error.message)
        }
    };
    if news {
        cache.tell(place.agent_id);
    }
}
