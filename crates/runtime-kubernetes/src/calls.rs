//! Calls of the API server: all of them end, and what goes wrong is said in words.

use std::{fmt::Debug, time::Duration};

use kube::{
    Api, Resource,
    api::{DeleteParams, Patch, PatchParams},
};
use mi_kernel::{Error, ErrorKind, Result};
use serde::{Serialize, de::DeserializeOwned};

use crate::MANAGER;

/// How long the API server may take to answer. It is asked again by whoever needs the answer.
const LIMIT: Duration = Duration::from_secs(20);

/// What the API server answered a call with, if it took it.
pub(crate) type Answer<T> = std::result::Result<T, kube::Error>;

/// Waits for an answer.
pub(crate) async fn call<T>(request: impl Future<Output = Answer<T>>) -> Result<T> {
    match tokio::time::timeout(LIMIT, request).await {
        Ok(answer) => answer.map_err(refused),
        Err(_) => Err(Error::unavailable(format!("the cluster did not answer within {} seconds", LIMIT.as_secs()))),
    }
}

/// The same, for what may be gone already.
pub(crate) async fn call_gone<T>(request: impl Future<Output = Answer<T>>) -> Result<Option<T>> {
    call(async {
        match request.await {
            Err(error) if code(&error) == Some(404) => Ok(None),
            answer => answer.map(Some),
        }
    })
    .await
}

/// Makes an object what it should be, whoever changed it.
pub(crate) async fn apply<K>(api: &Api<K>, name: &str, object: &K) -> Answer<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Serialize,
{
    api.patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(object)).await
}

/// Deletes an object and, later, what belongs to it.
pub(crate) async fn delete<K>(api: &Api<K>, name: &str) -> Result<()>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    call_gone(api.delete(name, &DeleteParams::background())).await.map(drop)
}

/// The HTTP code of a refusal.
pub(crate) fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// A refusal in words that an operator understands.
pub(crate) fn refused(error: kube::Error) -> Error {
    let kube::Error::Api(status) = &error else {
        return Error::unavailable("the cluster cannot be reached").caused_by(error);
    };
    let said = status.message.clone();
    let (kind, reason, text) = match status.code {
        403 if said.contains("exceeded quota") => (
            ErrorKind::FailedPrecondition,
            "CLUSTER_QUOTA",
            format!("the quota of its office in the cluster is used up: {said}"),
        ),
        403 if said.contains("is being terminated") => {
            (ErrorKind::Unavailable, "CLUSTER", "its office's namespace is still being removed".to_owned())
        }
        403 if said.contains("must support resize") => (
            ErrorKind::FailedPrecondition,
            "CLUSTER_REFUSED",
            format!("its storage class does not let volumes grow (allowVolumeExpansion): {said}"),
        ),
        401 | 403 if !said.contains("webhook") => {
            (ErrorKind::Unavailable, "CLUSTER", format!("the cluster does not allow the platform to do that: {said}"))
        }
        429 | 500.. => (ErrorKind::Unavailable, "CLUSTER", format!("the cluster is busy: {said}")),
        _ => (ErrorKind::FailedPrecondition, "CLUSTER_REFUSED", format!("the cluster refuses it: {said}")),
    };
    Error::new(kind, reason, text).caused_by(error)
}
