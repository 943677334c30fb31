//! Streams that go on where they broke, and calls that wait for a platform that is away for a moment.

use std::time::Duration;

use mi_client::{ClientError, jittered, retry, retry_while};
use mi_kernel::backoff::Backoff;
use tonic::{Code, Response, Status, Streaming};

use crate::{failure::Failure, output::Output};

const BACKOFF: Backoff = Backoff { first: Duration::from_millis(200), most: Duration::from_secs(5) };

/// Hands each message of a stream to `take`, and opens the stream again when the connection is lost; `open` resumes
/// after what was taken. Ends when the platform ends the stream.
pub(crate) async fn follow<T>(
    out: Output,
    open: impl AsyncFnMut() -> Result<Response<Streaming<T>>, Status>,
    mut take: impl FnMut(T) -> Result<(), Failure>,
) -> Result<(), Failure> {
    follow_until(out, open, |message| take(message).map(|()| None::<()>)).await.map(drop)
}

/// The same until `take` answers something; none: the platform ended the stream before.
pub(crate) async fn follow_until<T, R>(
    out: Output,
    mut open: impl AsyncFnMut() -> Result<Response<Streaming<T>>, Status>,
    take: impl FnMut(T) -> Result<Option<R>, Failure>,
) -> Result<Option<R>, Failure> {
    let stream = retry(&mut open).await?.into_inner();
    go_on(out, stream, open, async || Ok(None), take).await
}

/// The same with a `look` at what there is, each time that the stream was opened: for what happened while nobody
/// listened, and is on no stream.
pub(crate) async fn watch_until<T, R>(
    out: Output,
    mut open: impl AsyncFnMut() -> Result<Response<Streaming<T>>, Status>,
    look: impl AsyncFnMut() -> Result<Option<R>, Failure>,
    take: impl FnMut(T) -> Result<Option<R>, Failure>,
) -> Result<Option<R>, Failure> {
    let stream = retry(&mut open).await?.into_inner();
    go_on(out, stream, open, look, take).await
}

/// The same for what is under way: the platform may be away already when the stream is opened first.
pub(crate) async fn follow_through<T, R>(
    out: Output,
    mut open: impl AsyncFnMut() -> Result<Response<Streaming<T>>, Status>,
    take: impl FnMut(T) -> Result<Option<R>, Failure>,
) -> Result<Option<R>, Failure> {
    let stream = opened(&mut open).await?;
    go_on(out, stream, open, async || Ok(None), take).await
}

async fn go_on<T, R>(
    out: Output,
    mut stream: Streaming<T>,
    mut open: impl AsyncFnMut() -> Result<Response<Streaming<T>>, Status>,
    mut look: impl AsyncFnMut() -> Result<Option<R>, Failure>,
    mut take: impl FnMut(T) -> Result<Option<R>, Failure>,
) -> Result<Option<R>, Failure> {
    loop {
        if let Some(found) = look().await? {
            return Ok(Some(found));
        }
        let lost = loop {
            match stream.message().await {
                Ok(Some(message)) => {
                    if let Some(found) = take(message)? {
                        return Ok(Some(found));
                    }
                }
                Ok(None) => return Ok(None),
                Err(status) if connection_lost(&status) => break status,
                Err(status) => return Err(status.into()),
            }
        };
        out.note(&format!("the stream broke ({}); resuming", lost.message()));
        tokio::time::sleep(jittered(BACKOFF.after(1))).await;
        stream = opened(&mut open).await?;
    }
}

/// Opens a stream, however long the platform is away.
async fn opened<T>(
    open: &mut impl AsyncFnMut() -> Result<Response<Streaming<T>>, Status>,
) -> Result<Streaming<T>, Failure> {
    let again = |status: &Status, failures| connection_lost(status).then(|| jittered(BACKOFF.after(failures)));
    Ok(retry_while(open, again).await?.into_inner())
}

/// Sends a call, which may be sent more than once, until the platform takes it: while it answers that it cannot, it is waited
/// for. One that was not there in the first place is not.
pub(crate) async fn taken<T>(
    out: Output,
    mut call: impl AsyncFnMut() -> Result<Response<T>, Status>,
) -> Result<Response<T>, Failure> {
    let again = |error: &ClientError, failures| {
        if error.code() != Some(Code::Unavailable) || (failures == 1 && error.is_unreachable()) {
            return None;
        }
        if failures == 1 {
            out.note(&format!("{error}; trying again"));
        }
        Some(jittered(BACKOFF.after(failures)))
    };
    Ok(retry_while(async || retry(&mut call).await.map_err(ClientError::from), again).await?)
}

/// What a lost connection looks like, depending on where it broke.
fn connection_lost(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled | Code::DeadlineExceeded
    )
}

#[cfg(test)]
mod tests {
    use mi_client::{Client, Credential};
    use mi_proto::v1::CreateTaskRequest;

    use super::*;
    use crate::options::{Format, Global};

    #[tokio::test]
    async fn a_call_waits_for_a_platform_that_cannot_take_it_yet_and_not_for_one_that_is_not_there() {
        let out = Output::new(&Global { output: Format::Json, ..Global::default() });
        let mut asked = 0;
        let answer = taken(out, async || {
            asked += 1;
            if asked > 6 { Ok(Response::new(asked)) } else { Err(Status::unavailable("no database")) }
        });
        assert_eq!(answer.await.expect("taken at last").into_inner(), 7);
        let refused = taken(out, async || Err::<Response<()>, _>(Status::not_found("no such colony"))).await;
        assert!(refused.expect_err("passed on").is_not_found());
        let client = Client::connect("http://127.0.0.1:1", Credential::None).expect("well-formed");
        let nobody = taken(out, async || client.tasks().create_task(CreateTaskRequest::default()).await).await;
        let told = nobody.expect_err("nobody listens").to_string();
        assert!(told.contains("cannot be reached"), "{told}");
    }
}
