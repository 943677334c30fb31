//! Reading lists to their end.

use mi_kernel::page::MAX_PAGE_SIZE;
use mi_proto::v1::{
    Account, ApiKey, Backup, Change, File, ListAccountsRequest, ListApiKeysRequest, ListBackupsRequest,
    ListChangesRequest, ListFilesRequest,
};
use tonic::Status;

use crate::{Client, Result, retry};

/// Reads all pages: `page` gets a page token, empty at first, and answers the items with the next token.
///
/// # Errors
/// The first error of `page`.
pub async fn list_all<T>(mut page: impl AsyncFnMut(String) -> Result<(Vec<T>, String), Status>) -> Result<Vec<T>> {
    let mut all = Vec::new();
    let mut token = String::new();
    loop {
        let (items, next) = retry(async || page(token.clone()).await).await?;
        all.extend(items);
        if next.is_empty() {
            return Ok(all);
        }
        token = next;
    }
}

/// Reads the pages of a call of this client, whose request has these fields besides, for the items in a field of the pages.
macro_rules! all {
    ($client:ident.$service:ident.$call:ident($request:ident { $($field:ident: $value:expr),* }).$items:ident) => {
        list_all(async |page_token| {
            let request = $request { $($field: $value,)* page_size: Some(MAX_PAGE_SIZE), page_token };
            let page = $client.$service().$call(request).await?.into_inner();
            Ok((page.$items, page.next_page_token))
        })
        .await
    };
}

impl Client {
    /// All backups of an office, newest first.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn all_backups(&self, office_id: &str) -> Result<Vec<Backup>> {
        all!(self.agents.list_backups(ListBackupsRequest { office_id: office_id.to_owned() }).backups)
    }

    /// All files of an office's drive whose paths start with a prefix, by path.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn all_files(&self, office_id: &str, prefix: &str) -> Result<Vec<File>> {
        all!(
            self.drive
                .list_files(ListFilesRequest { office_id: office_id.to_owned(), prefix: prefix.to_owned() })
                .files
        )
    }

    /// All changes of an office's drive after a cursor, oldest first.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn all_changes(&self, office_id: &str, mut cursor: i64) -> Result<Vec<Change>> {
        let mut all = Vec::new();
        loop {
            let request =
                ListChangesRequest { office_id: office_id.to_owned(), cursor, page_size: Some(MAX_PAGE_SIZE) };
            let page = retry(async || self.drive().list_changes(request.clone()).await).await?.into_inner();
            if page.changes.is_empty() {
                return Ok(all);
            }
            all.extend(page.changes);
            cursor = page.next_cursor;
        }
    }

    /// All API keys of an account; of the caller's own when `account_id` is empty.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn all_api_keys(&self, account_id: &str) -> Result<Vec<ApiKey>> {
        all!(self.access.list_api_keys(ListApiKeysRequest { account_id: account_id.to_owned() }).api_keys)
    }

    /// All accounts, oldest first.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn all_accounts(&self) -> Result<Vec<Account>> {
        all!(self.access.list_accounts(ListAccountsRequest {}).accounts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reads_to_the_last_page() {
        let mut tokens = Vec::new();
        let all = list_all(async |token: String| {
            let next = match token.as_str() {
                "" => "b",
                "b" => "c",
                _ => "",
            };
            tokens.push(token);
            Ok((vec![tokens.len()], next.to_owned()))
        })
        .await
        .expect("all pages");
        assert_eq!(all, [1, 2, 3]);
        assert_eq!(tokens, ["", "b", "c"]);
    }
}
