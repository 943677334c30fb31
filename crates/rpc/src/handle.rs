//! The shape that most handlers have.

use tonic::{Response, Status};

/// What a handler answers.
pub type Reply<T> = Result<Response<T>, Status>;

/// Answers a request: `handle!(request, |caller, body| ListRolesResponse { roles: self.roles(&caller, body).await? })`.
///
/// The caller is who the guard found, and may be left out; the body is the message or the stream of messages; either may be
/// a pattern. What follows is the answer's message, and `?` in it leaves with an [`Error`](mi_kernel::Error), which becomes
/// a status.
#[macro_export]
macro_rules! handle {
    ($request:expr, |$caller:pat_param, $body:pat_param| $answer:expr) => {{
        let request = $request;
        let $caller = $crate::Caller::of(&request)?;
        $crate::handle!(request, |$body| $answer)
    }};
    ($request:expr, |$body:pat_param| $answer:expr) => {{
        let $body = $request.into_inner();
        let answered: ::mi_kernel::Result<_> = async { Ok($answer) }.await;
        answered.map(::tonic::Response::new).map_err($crate::status)
    }};
}
