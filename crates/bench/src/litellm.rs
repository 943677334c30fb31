//! LiteLLM's proxy, a peer of `models`: where `MI_BENCH_LITELLM` names its program, it runs as it comes, with one worker.

use std::{
    env, fs,
    net::{SocketAddr, TcpListener},
    process::Stdio,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::{Instant, sleep},
};

use crate::Result;

const PROGRAM: &str = "MI_BENCH_LITELLM";
/// What it takes of its callers; it does not start without.
pub(crate) const KEY: &str = "sk-0123456789abcdef0123456789abcdef";
/// It takes a third of a minute to start.
const START: Duration = Duration::from_secs(120);

/// A running proxy; killed when dropped.
pub(crate) struct LiteLlm {
    pub(crate) address: SocketAddr,
    _child: Child,
    _dir: TempDir,
}

impl LiteLlm {
    /// Starts it before this model server; none: nobody asked for it.
    pub(crate) async fn start(upstream: SocketAddr) -> Result<Option<Self>> {
        let Some(program) = env::var_os(PROGRAM) else { return Ok(None) };
        let dir = tempfile::tempdir()?;
        let config = dir.path().join("config.yaml");
        let text = format!(
            "model_list:\n  - model_name: claude-sonnet-4-5\n    litellm_params:\n      model: openai/m\n      \
             api_base: http://{upstream}/v1\n      api_key: none\ngeneral_settings:\n  master_key: {KEY}\n"
        );
        fs::write(&config, text)?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = Command::new(program);
        command.args(["--num_workers", "1", "--telemetry", "False", "--host", "127.0.0.1", "--config"]).arg(&config);
        command.arg("--port").arg(address.port().to_string());
        // It would else fetch a list of prices.
        command.env("LITELLM_LOCAL_MODEL_COST_MAP", "True").stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.stderr(Stdio::null()).kill_on_drop(true).spawn()?;
        let start = Instant::now();
        while TcpStream::connect(address).await.is_err() {
            if let Some(status) = child.try_wait()? {
                return Err(format!("LiteLLM ended with {status} before it served").into());
            }
            if start.elapsed() > START {
                return Err("LiteLLM does not serve".into());
            }
            sleep(Duration::from_millis(100)).await;
        }
        Ok(Some(Self { address, _child: child, _dir: dir }))
    }
}
