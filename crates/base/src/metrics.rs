//! Prometheus metrics: rate, errors and duration of every RPC, and the listener that serves them.

use std::{sync::LazyLock, time::Duration};

use axum::{Router, http::StatusCode, routing::get};
use prometheus::{HistogramVec, IntGaugeVec, Registry, TextEncoder, histogram_opts, opts};

static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::new);

static RPC: LazyLock<HistogramVec> = LazyLock::new(|| {
    let options = histogram_opts!(
        "mi_rpc_duration_seconds",
        "Duration of RPCs by role, method and gRPC code; its count is the rate",
        vec![0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0]
    );
    registered(HistogramVec::new(options, &["role", "method", "code"]))
});

static STREAMS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    registered(IntGaugeVec::new(opts!("mi_rpc_open_streams", "Open streams by role and method"), &["role", "method"]))
});

fn registered<M: prometheus::core::Collector + Clone + 'static>(metric: prometheus::Result<M>) -> M {
    // Names and labels are literals above: a mistake in them shows in the first test that touches the metric.
    let metric = metric.expect("metric definitions are valid");
    REGISTRY.register(Box::new(metric.clone())).expect("metric names are unique");
    metric
}

/// Counts one finished RPC. Labels hold no ids: what one office does must not show in another's metrics.
pub fn rpc(role: &'static str, method: &'static str, code: &str, took: Duration) {
    RPC.with_label_values(&[role, method, code]).observe(took.as_secs_f64());
}

/// Counts a stream as open until the guard is dropped.
pub fn open_stream(role: &'static str, method: &'static str) -> OpenStream {
    let gauge = STREAMS.with_label_values(&[role, method]);
    gauge.inc();
    OpenStream(gauge)
}

/// See [`open_stream`].
#[derive(Debug)]
pub struct OpenStream(prometheus::IntGauge);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// `/metrics` for Prometheus and `/healthz` for liveness probes.
pub fn router() -> Router {
    let metrics = || async {
        TextEncoder::new().encode_to_string(&REGISTRY.gather()).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
    };
    Router::new().route("/metrics", get(metrics)).route("/healthz", get(|| async { "ok\n" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_rpc_shows_with_its_labels() {
        rpc("test", "/a.B/C", "OK", Duration::from_millis(3));
        drop(open_stream("test", "/a.B/D"));
        let text = TextEncoder::new().encode_to_string(&REGISTRY.gather()).expect("text");
        assert!(text.contains(r#"mi_rpc_duration_seconds_count{code="OK",method="/a.B/C",role="test"} 1"#), "{text}");
        assert!(text.contains(r#"mi_rpc_open_streams{method="/a.B/D",role="test"} 0"#), "{text}");
    }
}
