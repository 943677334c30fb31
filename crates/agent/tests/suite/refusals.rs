//! What the platform's proxy refuses: for now, for the task, or for good.

use std::time::Duration;

use mi_agent::ModelApi;
use mi_testkit::{model::Reply, until};

use crate::{
    models::{ALL, Harness, complete},
    platform::LONG,
};

#[tokio::test]
async fn without_credits_the_task_is_given_back_and_nothing_is_claimed_for_a_while() {
    for (reason, text) in [("OUT_OF_CREDITS", "the office has no credits"), ("BUDGET_REACHED", "analyst has no more")] {
        let harness = Harness::new(ModelApi::OpenAi, [Reply::Proxy(402, reason, text), complete()]).await;
        let id = harness.task();
        until("it is given back", LONG, async || {
            let releases = harness.platform.releases.lock().expect("lock");
            Ok::<_, String>(releases.iter().any(|release| release.task_id == id).then_some(()))
        })
        .await;
        let refused = std::time::Instant::now();
        harness.platform.completion(&harness.task()).await;
        assert!(refused.elapsed() >= Duration::from_secs(2), "{:?}", refused.elapsed());
        assert_eq!(harness.platform.failures.lock().expect("lock").len(), 0);
        harness.agent.stop().await;
        let line = format!("task {id}: the model is not paid for: 402 Payment Required: ");
        let lines = harness.platform.texts();
        assert!(lines.iter().any(|(_, said)| said.starts_with(&line) && said.contains(text)), "{lines:?}");
    }
}

#[tokio::test]
async fn what_the_proxy_refuses_for_good_is_asked_once() {
    let own = Reply::Proxy(402, "BUDGET_REACHED", "the task may not cost more than 5 credits");
    let away = Reply::Proxy(503, "MODEL_AWAY", "no such server");
    for (reply, error) in [
        (own, "what the task may cost does not suffice: 402 Payment Required: "),
        (away, "the model server refuses: 503 Service Unavailable: "),
    ] {
        for api in ALL {
            let failure = Harness::new(api, [reply.clone(), complete()]).await.failure().await;
            assert!(failure.error.starts_with(error) && !failure.retryable, "{failure:?}");
        }
    }
}

/// Each of them is paid for, and the next one is no other.
#[tokio::test]
async fn answers_that_cannot_be_read_end_the_task_soon_and_say_where_to_look() {
    let strange = ["<html>welcome</html>", "data: welcome\n\n", "data: {\"result\": \"welcome\"}\n\n"];
    for (api, name) in [(ModelApi::OpenAi, "openai"), (ModelApi::Anthropic, "anthropic"), (ModelApi::Gemini, "gemini")]
    {
        for raw in strange {
            let harness = Harness::new(api, std::iter::repeat_n(Reply::Raw(raw), 5)).await;
            let failure = harness.platform.failure(&harness.task()).await;
            let begin = format!("the model server's answers cannot be read as those of the API {name:?}: ");
            let end = "; look at the `api` of the provider \"some-provider\" in the catalogue, which serves \"a-model\", or \
                       at --model-api and --model-url of the platform";
            assert!(failure.error.starts_with(&begin) && failure.error.ends_with(end), "{}", failure.error);
            assert_eq!((failure.retryable, harness.model.requests().len()), (false, 2));
            harness.agent.stop().await;
        }
    }
}
