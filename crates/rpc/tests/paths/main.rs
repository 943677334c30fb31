//! A role behind its guard, reached in this process and over the network: both ways must look the same to callers.

#![expect(clippy::disallowed_methods, reason = "tests join what they spawn, or end with it")]

mod callers;
mod compression;
mod connections;
mod deadlines;
mod http;
mod refused;
mod remote;
mod stage;
mod streams;
mod tls;

/// Runs each test on both ways: of `async fn name(side: Side)`, it makes `name::local` and `name::remote`.
macro_rules! on_both_paths {
    ($($test:ident),+ $(,)?) => {
        $(
            mod $test {
                #[tokio::test]
                async fn local() {
                    super::$test($crate::stage::Side::local().await).await;
                }

                #[tokio::test]
                async fn remote() {
                    super::$test($crate::stage::Side::remote().await).await;
                }
            }
        )+
    };
}
pub(crate) use on_both_paths;
