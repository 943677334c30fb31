//! The body of a request, within what all requests together may hold.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use mi_base::budget::{Budget, Share};
use mi_kernel::{Error, ErrorKind, OfficeId, Result};

/// Largest body, in bytes.
const MOST: usize = 32 << 20;

/// Bytes, as tokens are counted.
pub(crate) fn length(bytes: &Bytes) -> i64 {
    i64::try_from(bytes.len()).unwrap_or(i64::MAX)
}

/// Reads a body whole.
///
/// # Errors
/// `Exhausted` when it is too large, or there is no room now; `DeadlineExceeded` when it does not come.
pub(crate) async fn read(
    mut body: Body,
    office_id: OfficeId,
    budget: &Budget,
    limit: Duration,
) -> Result<(Bytes, Share)> {
    let mut share = budget.share(office_id);
    let reading = async {
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Error::invalid("body", "was broken off").caused_by(error))?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > MOST {
                let text = format!("the body has more than {MOST} bytes");
                return Err(Error::new(ErrorKind::Exhausted, "MESSAGE_TOO_LARGE", text));
            }
            if !share.grow(data.len()) {
                let text = "too many requests are being read; try again in a moment";
                return Err(Error::exhausted("TOO_MANY_CALLS", text, Duration::from_secs(1)));
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes.freeze())
    };
    let late = || Error::new(ErrorKind::DeadlineExceeded, "DEADLINE_EXCEEDED", "the body did not come in time");
    let bytes = tokio::time::timeout(limit, reading).await.map_err(|_| late())??;
    Ok((bytes, share))
}
