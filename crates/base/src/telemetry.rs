//! Log output and trace export, set up once a process.

use std::io::IsTerminal;

use mi_kernel::{Error, Result};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What to log and where to send traces.
#[derive(Debug, Clone, Default)]
pub struct TelemetryConfig {
    /// `service.name` of the traces, e.g. `mi-gateway`.
    pub service: String,
    /// How log lines look.
    pub format: LogFormat,
    /// OTLP/gRPC collector; none: no traces are recorded.
    pub otlp_endpoint: Option<String>,
}

/// Keeps the exporter alive and flushes it when dropped.
#[must_use = "dropping the guard ends the export of traces"]
#[derive(Debug)]
pub struct TelemetryGuard(Option<SdkTracerProvider>);

impl Drop for TelemetryGuard {
    fn drop(&mut self) {
        if let Some(provider) = &self.0
            && let Err(error) = provider.shutdown()
        {
            tracing::debug!(target: "mi::telemetry", %error, "the last spans were not exported");
        }
    }
}

/// Installs the process's subscriber. Levels come from `MI_LOG` (default `info`), in the syntax of `RUST_LOG`.
///
/// # Errors
/// `Invalid` when the endpoint is no URL or `MI_LOG` does not parse.
pub fn init(config: &TelemetryConfig) -> Result<TelemetryGuard> {
    // `rmcp` says of every request that it came and went, and repeats what callers wrote.
    let levels = std::env::var("MI_LOG").unwrap_or_else(|_| "info,sqlx=warn,h2=warn,hyper=warn,rmcp=error".into());
    let filter = EnvFilter::try_new(&levels)
        .map_err(|error| Error::invalid("MI_LOG", "does not parse; try info or mi=debug").caused_by(error))?;
    let output =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let output = match config.format {
        LogFormat::Text => output.with_target(true).boxed(),
        LogFormat::Json => output.json().boxed(),
    };
    let provider = config.otlp_endpoint.as_deref().map(|endpoint| exporter(&config.service, endpoint)).transpose()?;
    // Our own spans only: the transport's would export themselves.
    let own = Targets::new().with_target("mi::", LevelFilter::DEBUG);
    let export = provider
        .as_ref()
        .map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer("mi")).with_filter(own));
    // A second initialisation in one process (tests) keeps the first.
    let _ = tracing_subscriber::registry().with(export).with(output.with_filter(filter)).try_init();
    Ok(TelemetryGuard(provider))
}

fn exporter(service: &str, endpoint: &str) -> Result<SdkTracerProvider> {
    let exporter =
        opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(endpoint).build().map_err(|error| {
            Error::invalid("otlp_endpoint", "must be a URL such as http://127.0.0.1:4317").caused_by(error)
        })?;
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(Resource::builder().with_service_name(service.to_owned()).build())
        .build())
}
