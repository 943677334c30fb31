//! Credentials in addresses, which are kept in logs, histories and referrers: none is taken there.

use mi_kernel::Error;
use mi_rpc::status;
use tonic::Status;

/// Names under which others take them.
const NAMES: &[&str] = &["access_token", "api_key", "apikey", "authorization", "key", "token"];

/// What is said to whoever puts one into a query.
pub(crate) fn in_query(query: &str) -> Option<Status> {
    let mut names = url::form_urlencoded::parse(query.as_bytes()).map(|(name, _)| name);
    let name = names.find(|name| NAMES.contains(&name.to_ascii_lowercase().as_str()))?;
    Some(status(Error::unauthenticated(format!(
        "`{name}` in the query: no credential is taken from an address; send `authorization: Bearer ...`, and revoke this one \
         if it is real, since addresses are written down in many places"
    ))))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn a_credential_is_known_however_it_is_written() {
        for (query, name) in [
            ("access_token=mi_x", "access_token"),
            ("page_size=1&Key=mi_x", "Key"),
            ("api%5Fkey=mi_x", "api_key"),
            ("token", "token"),
        ] {
            let refused = in_query(query).expect(query);
            assert_eq!(refused.code(), Code::Unauthenticated, "{query}");
            assert!(refused.message().starts_with(&format!("`{name}` in the query: no credential")), "{refused}");
            assert!(!refused.message().contains("mi_x"), "{refused}");
        }
        for query in ["", "page_token=x", "keys=1", "request_id=token"] {
            assert!(in_query(query).is_none(), "{query}");
        }
    }
}
