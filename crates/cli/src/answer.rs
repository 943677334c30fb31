//! What commands make of the answers to their calls.

use mi_client::{ClientError, retry};
use tonic::{Code, Response, Status};
use tonic_types::StatusExt;

use crate::failure::Failure;

/// Takes the resource out of an answer; a platform that leaves it out is broken.
pub(crate) fn resource<R, T>(answer: Response<R>, field: impl FnOnce(R) -> Option<T>) -> Result<T, Failure> {
    let missing = || ClientError::from(Status::internal("the platform's answer lacks the resource"));
    field(answer.into_inner()).ok_or_else(|| missing().into())
}

/// Makes a call that may be sent again, and comes to its answer or to the resource in this field of it:
/// `ask!(context, agents.get_agent(request).agent).await?`.
macro_rules! ask {
    ($context:expr, $service:ident.$call:ident($request:expr)) => {
        $crate::answer::asked($request, async |request| $context.client.$service().$call(request).await, Some)
    };
    ($context:expr, $service:ident.$call:ident($request:expr).$field:ident) => {
        $crate::answer::asked(
            $request,
            async |request| $context.client.$service().$call(request).await,
            |answer| answer.$field,
        )
    };
}
pub(crate) use ask;

/// What [`ask`] does.
pub(crate) async fn asked<Q: Clone, R, T>(
    request: Q,
    call: impl AsyncFn(Q) -> Result<Response<R>, Status>,
    field: impl FnOnce(R) -> Option<T>,
) -> Result<T, Failure> {
    resource(retry(async || call(request.clone()).await).await?, field)
}

/// Deletes a resource of this kind. A try that is told that there is none, after one whose answer was lost, has what it
/// wanted.
pub(crate) async fn delete<T>(kind: &str, mut call: impl AsyncFnMut() -> Result<T, Status>) -> Result<(), Failure> {
    let mut tries = 0;
    let deleted = retry(async || {
        tries += 1;
        call().await
    });
    let deleted = deleted.await;
    let is_it = |status: &Status| status.get_details_resource_info().is_some_and(|info| info.resource_type == kind);
    match deleted {
        Err(status) if tries > 1 && status.code() == Code::NotFound && is_it(&status) => Ok(()),
        deleted => Ok(deleted.map(drop)?),
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    /// Deletes a file with these answers, one a try.
    async fn delete_file(answers: Vec<Result<(), Status>>) -> Result<(), String> {
        let mut answers = answers.into_iter();
        let deleted = delete("file", async || answers.next().expect("no more tries than that"));
        deleted.await.map_err(|failure| failure.message().to_owned())
    }

    fn not_found(kind: &str) -> Result<(), Status> {
        let details = ErrorDetails::with_resource_info(kind, "a", "", "");
        Err(Status::with_error_details(Code::NotFound, format!("{kind} not found"), details))
    }

    #[tokio::test]
    async fn what_is_gone_after_a_lost_answer_was_deleted() {
        let lost = || Err(Status::unavailable("down"));
        assert_eq!(delete_file(vec![Ok(())]).await, Ok(()));
        assert_eq!(delete_file(vec![lost(), Ok(())]).await, Ok(()));
        assert_eq!(delete_file(vec![lost(), not_found("file")]).await, Ok(()));
        assert_eq!(delete_file(vec![lost(), lost(), not_found("file")]).await, Ok(()));
        // It never was there.
        assert_eq!(delete_file(vec![not_found("file")]).await, Err("file not found".into()));
        assert_eq!(delete_file(vec![lost(), not_found("office")]).await, Err("office not found".into()));
        let refused = Err(Status::failed_precondition("at revision 2"));
        assert_eq!(delete_file(vec![lost(), refused]).await, Err("at revision 2".into()));
    }
}
