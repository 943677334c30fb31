//! How many statements transactions have: what others wait for has few of them, however much there is.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, OnceLock},
};

use mi_testkit::until;
use tracing::{Event, Metadata, Subscriber, field::Visit, span};

use super::harness::LONG;

/// Who tells of transactions over an office's queue, and of those over its credits.
pub(super) const QUEUE: &str = "mi::tasks";
pub(super) const CREDITS: &str = "mi::credits";

/// Hears how many statements each transaction had, by who tells of it and office.
#[derive(Default)]
struct Ear(Mutex<Heard>);

type Heard = HashMap<(&'static str, String), Vec<u64>>;

static EAR: OnceLock<&'static Ear> = OnceLock::new();

struct Hears(&'static Ear);

impl Subscriber for Hears {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        [QUEUE, CREDITS].contains(&metadata.target())
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut said = Said::default();
        event.record(&mut said);
        if let (Some(office), Some(statements)) = (said.office, said.statements) {
            self.0.0.lock().expect("whole").entry((event.metadata().target(), office)).or_default().push(statements);
        }
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[derive(Default)]
struct Said {
    office: Option<String>,
    statements: Option<u64>,
}

impl Visit for Said {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "office" {
            self.office = Some(format!("{value:?}"));
        }
    }
    fn record_u64(&mut self, field: &tracing::field::Field, value: u64) {
        if field.name() == "statements" {
            self.statements = Some(value);
        }
    }
}

/// The most statements of any transaction of the office from now on.
pub(super) struct Meter<'a>(&'static str, &'a str);

impl<'a> Meter<'a> {
    pub(super) fn new(target: &'static str, office: &'a str) -> Self {
        EAR.get_or_init(|| {
            let ear: &'static Ear = Box::leak(Box::default());
            tracing::subscriber::set_global_default(Hears(ear)).expect("nobody else listens");
            ear
        });
        let meter = Self(target, office);
        meter.heard().remove(&(target, office.to_owned()));
        meter
    }

    fn heard(&self) -> MutexGuard<'static, Heard> {
        EAR.get().expect("made").0.lock().expect("whole")
    }

    /// The most, which is not nothing; the count begins anew. It is told after the commit, which others see before.
    pub(super) async fn most(&self) -> u64 {
        until("a transaction is told of", LONG, async || {
            Ok::<_, String>(self.heard().remove(&(self.0, self.1.to_owned())).and_then(|all| all.into_iter().max()))
        })
        .await
    }
}
