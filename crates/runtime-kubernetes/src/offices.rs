//! Sees to it that offices have their namespaces and walls, and notices when somebody opens them.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt, stream};
use k8s_openapi::api::{
    core::v1::{LimitRange, Namespace, ResourceQuota},
    networking::v1::NetworkPolicy,
    rbac::v1::RoleBinding,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams, Preconditions},
};
use mi_kernel::{Error, OfficeId, Result};
use mi_runtime::Progress;

use crate::{
    MANAGER,
    cache::{Cache, office_place},
    calls::{Answer, apply, call, call_gone, code},
    labels::namespace_name,
    office::{OfficeObjects, office},
    settings::Settings,
    views::{NamespaceView, is_ours},
};

/// Offices that are mended at the same time.
const CONCURRENCY: usize = 8;
/// Policies of one page.
const PAGE: u32 = 500;
/// How often, and after which pause, is tried again what the platform's own right is too fresh for.
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// What this process knows of offices beyond what it sees.
#[derive(Default)]
pub(crate) struct Offices {
    known: Mutex<HashMap<OfficeId, Known>>,
    /// Why the last look over all of them was in vain.
    unlooked: Mutex<Option<String>>,
}

#[derive(Default)]
struct Known {
    /// The namespace that has all it should.
    walled: Option<String>,
    /// Why that could not be seen to.
    failed: Option<String>,
    /// Policies of others that open its walls.
    opened: Vec<String>,
}

impl Offices {
    fn known(&self) -> MutexGuard<'_, HashMap<OfficeId, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is wrong with an office.
    pub(crate) fn problems(&self, office: OfficeId) -> Vec<String> {
        let unlooked = self.unlooked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let known = self.known();
        let known = known.get(&office);
        let opened = known.into_iter().flat_map(|known| &known.opened).map(|name| {
            format!("the network policy {name:?} in its namespace allows more than the platform does: agents may reach whom they should not")
        });
        unlooked.into_iter().chain(known.and_then(|known| known.failed.clone())).chain(opened).collect()
    }

    /// Sees to it that an office has its namespace and walls; once a namespace, unless it is to be done `again`.
    pub(crate) async fn ensure(
        &self,
        (client, settings, cache): (&Client, &Settings, &Cache),
        id: OfficeId,
        again: bool,
    ) -> Result<()> {
        let namespace = cache.seen().namespace_of(id).cloned();
        if namespace.as_ref().is_some_and(|namespace| namespace.deleting) {
            return Err(Error::unavailable("its office's namespace is still being removed"));
        }
        let uid = namespace.map(|namespace| namespace.uid);
        if !again && uid.is_some() && self.known().get(&id).is_some_and(|known| known.walled == uid) {
            return Ok(());
        }
        let walled = wall((client, settings, cache), id, uid).await;
        let mut known = self.known();
        let known = known.entry(id).or_default();
        known.failed = walled.as_ref().err().map(|error| error.message.clone());
        known.walled = Some(walled?);
        Ok(())
    }

    /// Removes an office's namespace and all that is in it.
    pub(crate) async fn remove(&self, client: &Client, cache: &Cache, id: OfficeId) -> Result<Progress> {
        let Some(namespace) = cache.seen().namespace_of(id).cloned() else {
            self.known().remove(&id);
            return Ok(Progress::Done);
        };
        if !namespace.deleting {
            let this = Preconditions { uid: Some(namespace.uid), ..Preconditions::default() };
            let options = DeleteParams::background().preconditions(this);
            let api: Api<Namespace> = Api::all(client.clone());
            call_gone(api.delete(&namespace_name(id), &options)).await?;
        }
        Ok(Progress::UnderWay)
    }

    /// Looks for policies that open walls, which add up, so that one of anybody's counts; and mends all offices if asked to.
    pub(crate) async fn look_over(&self, of: (&Client, &Settings, &Cache), mend: bool) -> Result<()> {
        let offices = of.2.seen().places().1;
        // First: whoever may not even ask is refused once, and not for each office.
        let opened = opened(of.0).await;
        let unlooked =
            opened.as_ref().err().map(|error| format!("what is around it cannot be seen: {}", error.message));
        *self.unlooked.lock().unwrap_or_else(PoisonError::into_inner) = unlooked;
        let opened = opened?;
        if mend {
            let mended = stream::iter(offices.clone()).map(|office| self.ensure(of, office, true));
            // What fails in one office is a problem of it alone.
            mended.buffer_unordered(CONCURRENCY).for_each(|_| std::future::ready(())).await;
        }
        let mut known = self.known();
        for office in offices {
            let opened = opened.get(&namespace_name(office)).cloned().unwrap_or_default();
            known.entry(office).or_default().opened = opened;
        }
        Ok(())
    }
}

/// The policies of others that allow anything, by namespace.
async fn opened(client: &Client) -> Result<HashMap<String, Vec<String>>> {
    let api: Api<NetworkPolicy> = Api::all(client.clone());
    let (mut opened, mut page): (HashMap<_, Vec<_>>, _) = (HashMap::new(), ListParams::default().limit(PAGE));
    loop {
        let list = call(api.list(&page)).await?;
        for policy in list.items {
            let spec = policy.spec.unwrap_or_default();
            let allows = spec.ingress.is_some_and(|rules| !rules.is_empty())
                || spec.egress.is_some_and(|rules| !rules.is_empty());
            let (name, namespace) =
                (policy.metadata.name.unwrap_or_default(), policy.metadata.namespace.unwrap_or_default());
            if allows && name != "mi-allow" {
                opened.entry(namespace).or_default().push(name);
            }
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page.continue_token = Some(token),
            None => return Ok(opened),
        }
    }
}

/// Makes the namespace if there is none, and applies what is in it; answers its uid.
async fn wall(
    (client, settings, cache): (&Client, &Settings, &Cache),
    id: OfficeId,
    known: Option<String>,
) -> Result<String> {
    let OfficeObjects { namespace, binding, deny, allow, quota, limits } = office(settings, id);
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let name = namespace_name(id);
    let uid = match known {
        Some(uid) => {
            call(apply(&namespaces, &name, &namespace)).await?;
            uid
        }
        None => {
            let made = make(&namespaces, settings, &namespace).await?;
            let view = NamespaceView::of(&made);
            let uid = view.uid.clone();
            cache.wrote(|seen| &mut seen.namespaces, office_place(id), &made.metadata, view);
            uid
        }
    };
    call(apply(&Api::<RoleBinding>::namespaced(client.clone(), &name), "mi-office", &binding)).await?;
    let policies: Api<NetworkPolicy> = Api::namespaced(client.clone(), &name);
    let quotas: Api<ResourceQuota> = Api::namespaced(client.clone(), &name);
    let ranges: Api<LimitRange> = Api::namespaced(client.clone(), &name);
    // The first of them finds out when the right that was just given holds.
    call(patiently(|| apply(&policies, "mi-deny", &deny))).await?;
    tokio::try_join!(
        call(patiently(|| apply(&policies, "mi-allow", &allow))),
        call(patiently(|| apply(&quotas, "mi-office", &quota))),
        call(patiently(|| apply(&ranges, "mi-office", &limits))),
    )?;
    Ok(uid)
}

/// Makes a namespace; one that is there already must be this installation's.
async fn make(api: &Api<Namespace>, settings: &Settings, namespace: &Namespace) -> Result<Namespace> {
    let name = namespace.metadata.name.as_deref().unwrap_or_default();
    let made = call(async {
        let options = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        match api.create(&options, namespace).await {
            Err(error) if code(&error) == Some(409) => Ok(None),
            answer => answer.map(Some),
        }
    });
    if let Some(made) = made.await? {
        return Ok(made);
    }
    let there = call_gone(api.get(name)).await?;
    let there = there.ok_or_else(|| Error::unavailable("its office's namespace is still being removed"))?;
    if !is_ours(settings, &there.metadata) {
        let text = format!(
            "the namespace {name} exists and is not this installation's: it is left alone. Delete it, and this goes on by itself"
        );
        return Err(Error::precondition("NAMESPACE_TAKEN", text));
    }
    if there.metadata.deletion_timestamp.is_some() {
        return Err(Error::unavailable("its office's namespace is still being removed"));
    }
    Ok(there)
}

/// Tries for a while what is not allowed yet: a right that was just given takes a moment to hold everywhere.
async fn patiently<T, F: Future<Output = Answer<T>>>(request: impl Fn() -> F) -> Answer<T> {
    for _ in 1..TRIES {
        match request().await {
            Err(error) if code(&error) == Some(403) && !error.to_string().contains("terminated") => {
                tokio::time::sleep(PAUSE).await;
            }
            answer => return answer,
        }
    }
    request().await
}
