//! The Rust SDK: one connection, typed calls, retries, and the identity of an agent.
//!
//! ```no_run
//! # async fn example(key: mi_kernel::secret::Secret) -> Result<(), mi_client::ClientError> {
//! use mi_client::{Client, Credential};
//!
//! let client = Client::connect("http://127.0.0.1:7400", Credential::ApiKey(key))?;
//! let office = client.offices().create("My Colony").await?;
//! client.agents().hire(&office.id, "analyst").await?;
//! let task = client.tasks().run(&office.id, "echo hello").await?;
//! println!("{}", task.result);
//! # Ok(())
//! # }
//! ```
//!
//! Behind [`Client::offices`] and its like are the typed clients of the whole API, for what has no line of its own:
//!
//! ```no_run
//! # async fn example(client: mi_client::Client, office_id: String) -> Result<(), mi_client::ClientError> {
//! use mi_client::retry;
//! use mi_proto::v1::ListIntegrationsRequest;
//!
//! let request = ListIntegrationsRequest { office_id };
//! let answer = retry(async || client.integrations().list_integrations(request.clone()).await).await?;
//! println!("{:?}", answer.into_inner().integrations);
//! # Ok(())
//! # }
//! ```

pub mod client;
pub mod credential;
pub mod eddsa;
pub mod error;
pub mod everyday;
pub mod identity;
pub mod pages;
pub mod retry;

pub use client::{Client, Wire};
pub use credential::Credential;
pub use error::{ClientError, Result, reason};
pub use everyday::{Agents, Offices, Tasks};
pub use identity::{AgentKey, KeyRing};
pub use pages::list_all;
pub use retry::{jittered, once, retry, retry_unlimited, retry_while};
