//! Bodies that are read whole, and how compressed ones are taken and made.

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use mi_kernel::{Error, ErrorKind};
use mi_rpc::status;
use tonic::{Status, body::Body};

use crate::refusal::invalid;

/// Reads a body to its end, decompressed as it is.
///
/// # Errors
/// `RESOURCE_EXHAUSTED` beyond so many bytes; what broke the body off.
pub(crate) async fn whole(body: Body, limit: usize) -> Result<Bytes, Status> {
    match Limited::new(body, limit).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            let text = format!("the body has more than {limit} bytes");
            Err(status(Error::new(ErrorKind::Exhausted, "MESSAGE_TOO_LARGE", text)))
        }
        Err(error) => Err(error.downcast::<Status>().map_or_else(
            |error| invalid("body", format!("broke off: {error}")),
            |status| invalid("body", format!("broke off: {}", status.message())),
        )),
    }
}
