//! The Rust SDK: one connection, typed calls, retries, and the identity of an agent.
//!
//! ```no_run
//! # async fn example() -> Result<(), mi_client::ClientError> {
//! use mi_client::{Client, Credential, retry};
//! use mi_kernel::secret::Secret;
//! use mi_proto::v1::GetOfficeRequest;
//!
//! let client = Client::connect("http://127.0.0.1:7400", Credential::ApiKey(Secret::new("mi_...")))?;
//! for office in client.all_offices().await? {
//!     let request = GetOfficeRequest { office_id: office.id };
//!     let answer = retry(async || client.offices().get_office(request.clone()).await).await?;
//!     println!("{:?}", answer.into_inner().office);
//! }
//! # Ok(())
//! # }
//! ```

pub mod client;
pub mod credential;
pub mod eddsa;
pub mod error;
pub mod identity;
pub mod pages;
pub mod retry;

pub use client::{Client, Wire};
pub use credential::Credential;
pub use error::{ClientError, Result, reason};
pub use identity::{AgentKey, KeyRing};
pub use pages::list_all;
pub use retry::{jittered, once, retry, retry_unlimited, retry_while};
