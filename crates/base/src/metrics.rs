//! Prometheus metrics: rate, errors and duration of every RPC, and the listener that serves them.

use std::{sync::LazyLock, time::Duration};

use axum::{Router, http::StatusCode, routing::get};
use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec, Registry, TextEncoder, histogram_opts, opts};

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

static FAULTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let options = opts!("mi_faults_total", "Faults of the platform's own in work that callers share; the log has each");
    registered(IntCounterVec::new(options, &["work"]))
});

static CONNECTIONS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    registered(IntGaugeVec::new(opts!("mi_open_connections", "Open connections by listener"), &["listener"]))
});

static REFUSED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let options =
        opts!("mi_refused_connections_total", "Connections that were closed for a limit, by listener and limit");
    registered(IntCounterVec::new(options, &["listener", "limit"]))
});

static MODEL_CALLS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let options = opts!("mi_model_calls_total", "Calls of models by provider, model and outcome");
    registered(IntCounterVec::new(options, &["provider", "model", "outcome"]))
});

static MODEL_TOKENS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let options = opts!("mi_model_tokens_total", "Tokens of models by provider, model and kind, as providers say");
    registered(IntCounterVec::new(options, &["provider", "model", "kind"]))
});

static MODEL_COST: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let options = opts!("mi_model_cost_micro_credits_total", "Micro-credits that models cost, by provider and model");
    registered(IntCounterVec::new(options, &["provider", "model"]))
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

/// Counts a fault of ours in work that several callers share.
pub fn fault(work: &'static str) {
    FAULTS.with_label_values(&[work]).inc();
}

/// Counts a connection as open until the guard is dropped.
pub fn open_connection(listener: &'static str) -> OpenConnection {
    let gauge = CONNECTIONS.with_label_values(&[listener]);
    gauge.inc();
    OpenConnection(gauge)
}

/// See [`open_connection`].
#[derive(Debug)]
pub struct OpenConnection(prometheus::IntGauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Counts a connection that was closed for a limit.
pub fn refused_connection(listener: &'static str, limit: &'static str) {
    REFUSED.with_label_values(&[listener, limit]).inc();
}

/// Counts a call of a model that ended. Provider and model are those of the catalogue; both empty: the call named none.
pub fn model_call(provider: &str, model: &str, outcome: &'static str) {
    MODEL_CALLS.with_label_values(&[provider, model, outcome]).inc();
}

/// Counts tokens of a kind.
pub fn model_tokens(provider: &str, model: &str, kind: &'static str, tokens: i64) {
    MODEL_TOKENS.with_label_values(&[provider, model, kind]).inc_by(u64::try_from(tokens).unwrap_or_default());
}

/// Counts what a call cost.
pub fn model_cost(provider: &str, model: &str, micro_credits: i64) {
    MODEL_COST.with_label_values(&[provider, model]).inc_by(u64::try_from(micro_credits).unwrap_or_default());
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
        fault("test-work");
        let _open = open_connection("test");
        refused_connection("test", "address");
        model_call("p", "m", "ok");
        model_tokens("p", "m", "input", 7);
        model_cost("p", "m", 9);
        let text = TextEncoder::new().encode_to_string(&REGISTRY.gather()).expect("text");
        assert!(text.contains(r#"mi_rpc_duration_seconds_count{code="OK",method="/a.B/C",role="test"} 1"#), "{text}");
        assert!(text.contains(r#"mi_rpc_open_streams{method="/a.B/D",role="test"} 0"#), "{text}");
        assert!(text.contains(r#"mi_faults_total{work="test-work"} 1"#), "{text}");
        assert!(text.contains(r#"mi_open_connections{listener="test"} 1"#), "{text}");
        assert!(text.contains(r#"mi_refused_connections_total{limit="address",listener="test"} 1"#), "{text}");
        assert!(text.contains(r#"mi_model_calls_total{model="m",outcome="ok",provider="p"} 1"#), "{text}");
        assert!(text.contains(r#"mi_model_tokens_total{kind="input",model="m",provider="p"} 7"#), "{text}");
        assert!(text.contains(r#"mi_model_cost_micro_credits_total{model="m",provider="p"} 9"#), "{text}");
    }
}
