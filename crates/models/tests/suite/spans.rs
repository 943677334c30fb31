//! What traces say of a call: OpenTelemetry's conventions for models.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
};

use serde_json::json;
use tracing::{
    Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt},
};

use crate::{
    calls::MESSAGES,
    stage::{LONG, Stage, read, whole},
};

/// The fields of the one span that the role makes.
#[derive(Clone, Default)]
struct Capture(Arc<Mutex<BTreeMap<String, String>>>);

impl Visit for Capture {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.lock().expect("lock").insert(field.name().to_owned(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

impl<S: Subscriber> Layer<S> for Capture {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        if attributes.metadata().target() == "mi::models" {
            attributes.record(&mut self.clone());
        }
    }

    fn on_record(&self, _: &Id, values: &Record<'_>, _: Context<'_, S>) {
        values.record(&mut self.clone());
    }
}

#[tokio::test]
async fn a_call_says_its_model_its_tokens_its_cost_and_its_task() {
    let capture = Capture::default();
    let subscriber = tracing_subscriber::registry().with(capture.clone());
    // The test has one thread, as has what it starts.
    let _guard = tracing::subscriber::set_default(subscriber);
    let usage = json!({"input_tokens": 10, "output_tokens": 4, "cache_read_input_tokens": 2});
    let stage =
        Stage::new([whole(200, json!({"type": "message", "model": "claude-x-20260101", "usage": usage}))]).await;
    let task = mi_kernel::TaskId::new().to_string();
    let body = json!({"model": "claude-x", "max_tokens": 50});
    read(stage.open(MESSAGES, &[("mi-task-id", &task)], body).await).await;
    assert_eq!(stage.tasks.stop(LONG).await, None);
    let fields = capture.0.lock().expect("lock").clone();
    let expected = [
        ("otel.name", "chat claude-x"),
        ("otel.kind", "client"),
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.system", "anthropic"),
        ("gen_ai.provider.name", "anthropic"),
        ("gen_ai.request.model", "claude-x"),
        ("gen_ai.response.model", "claude-x-20260101"),
        ("gen_ai.usage.input_tokens", "12"),
        ("gen_ai.usage.output_tokens", "4"),
        ("mi.cost", "92"),
        ("mi.task", &task),
    ];
    let expected: BTreeMap<_, _> = expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    assert_eq!(fields, expected);
}
