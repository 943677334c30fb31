//! Watches: changes since a version, as lines of a body that does not end by itself.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, stream};
use serde_json::{Value, json};
use tokio::{
    sync::watch::{self, Receiver, Sender},
    time::{Instant, sleep_until},
};

use crate::{
    json::{set, text},
    kinds::Kind,
    matching::Matching,
    partial::Shape,
    refusal::Refusal,
    route::{Asked, Query},
    select::Selector,
    shared::Core,
    store::{Change, World},
};

/// How long a watch lasts that does not say.
const USUAL: Duration = Duration::from_secs(1800);
/// The annotation of the bookmark that ends the objects that were there at the start.
const INITIAL_END: &str = "k8s.io/initial-events-end";

/// What becomes of a watch that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// It goes on.
    Run,
    /// It stays silent for ever.
    Hang,
    /// Its connection is broken.
    Break,
    /// It is told that its version is forgotten.
    Expire,
}

/// The watches that are open.
#[derive(Default)]
pub(crate) struct Watches {
    open: BTreeMap<u64, (Asked, Sender<Order>)>,
    next: u64,
}

impl Watches {
    fn add(&mut self, asked: Asked) -> (u64, Receiver<Order>) {
        let (sender, receiver) = watch::channel(Order::Run);
        self.next += 1;
        self.open.insert(self.next, (asked, sender));
        (self.next, receiver)
    }

    fn matching(&self, of: &Matching) -> impl Iterator<Item = &Sender<Order>> {
        let is = |asked: &Asked| of.is_of("watch", asked.kind.resource, "", &asked.namespace, "");
        self.open.values().filter(move |(asked, _)| is(asked)).map(|(_, sender)| sender)
    }

    /// Orders all of these; says how many there are.
    pub(crate) fn order(&self, of: &Matching, order: Order) -> usize {
        self.matching(of).for_each(|sender| {
            sender.send_replace(order);
        });
        self.count(of)
    }

    /// How many of these are open.
    pub(crate) fn count(&self, of: &Matching) -> usize {
        self.matching(of).count()
    }
}

struct Watching {
    core: Arc<Core>,
    id: u64,
    asked: Asked,
    selector: Selector,
    shape: Shape,
    /// Everything up to this version was told.
    at: u64,
    ready: VecDeque<Bytes>,
    changed: Receiver<u64>,
    order: Receiver<Order>,
    end: Instant,
    bookmark: Option<Instant>,
    /// Events until the connection breaks.
    left: Option<usize>,
    is_over: bool,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.core.watches().open.remove(&self.id);
    }
}

/// Opens a watch.
pub(crate) fn open(
    core: &Arc<Core>,
    asked: &Asked,
    query: &Query,
    shape: Shape,
    hang: bool,
    left: Option<usize>,
) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>, Refusal> {
    let selector = Selector::parse(asked.kind, query.text("labelSelector"), query.text("fieldSelector"))?;
    let version = query.number("resourceVersion")?;
    let seconds = query.number("timeoutSeconds")?;
    let bookmarks = query.flag("allowWatchBookmarks");
    let initial = query.flag("sendInitialEvents");
    if initial && query.text("resourceVersionMatch") != "NotOlderThan" {
        let cause = crate::refusal::Cause::forbidden(
            "resourceVersionMatch",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        );
        return Err(Refusal::invalid_options("ListOptions.meta.k8s.io", "", &[cause]));
    }
    let changed = core.changes();
    let (id, order) = core.watches().add(asked.clone());
    let mut watching = Watching {
        core: core.clone(),
        id,
        asked: asked.clone(),
        selector,
        shape,
        at: version.unwrap_or_default(),
        ready: VecDeque::new(),
        changed,
        order,
        end: Instant::now() + seconds.map_or(USUAL, Duration::from_secs),
        bookmark: bookmarks.then(|| Instant::now() + core.bookmarks),
        left,
        is_over: false,
    };
    if hang {
        core.watches().order_one(id, Order::Hang);
    }
    if initial || version.unwrap_or_default() == 0 {
        let world = core.world();
        for (key, object) in world.list(asked.kind.resource, &asked.namespace) {
            if watching.is_inside(&key.namespace) && watching.selector.matches(object) {
                watching.ready.push_back(watching.shape.line("ADDED", object));
            }
        }
        watching.at = world.version();
        drop(world);
        if initial && bookmarks {
            let mark = watching.mark(true);
            watching.ready.push_back(mark);
        }
    }
    Ok(stream::unfold(watching, |mut watching| async move {
        let next = watching.next().await?;
        Some((next, watching))
    }))
}

impl Watches {
    fn order_one(&self, id: u64, order: Order) {
        if let Some((_, sender)) = self.open.get(&id) {
            sender.send_replace(order);
        }
    }
}

impl Watching {
    fn is_inside(&self, namespace: &str) -> bool {
        self.asked.namespace.is_empty() || self.asked.namespace == namespace
    }

    fn mark(&self, initial: bool) -> Bytes {
        let kind = self.asked.kind;
        let mut object = json!({
            "kind": kind.kind,
            "apiVersion": kind.api_version(),
            "metadata": {"resourceVersion": self.at.to_string(), "creationTimestamp": null},
        });
        if initial {
            object["metadata"]["annotations"] = json!({INITIAL_END: "true"});
        }
        self.shape.line("BOOKMARK", &object)
    }

    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            if self.is_over {
                return None;
            }
            let order = *self.order.borrow_and_update();
            match order {
                Order::Run => {}
                Order::Hang => {
                    // Even its end is not told.
                    let mut order = self.order.clone();
                    let _ = order.wait_for(|order| *order != Order::Hang).await;
                    continue;
                }
                Order::Break => return self.broken().await,
                Order::Expire => {
                    self.is_over = true;
                    return Some(Ok(self.expired(self.core.world().version())));
                }
            }
            if self.left == Some(0) {
                return self.broken().await;
            }
            if let Some(line) = self.ready.pop_front() {
                self.left = self.left.map(|left| left - 1);
                return Some(Ok(line));
            }
            self.changed.borrow_and_update();
            if !self.read() {
                self.is_over = true;
                let newest = self.core.world().version();
                return Some(Ok(self.expired(newest)));
            }
            if self.ready.is_empty() {
                self.wait().await;
            }
        }
    }

    /// Breaks the connection once what was told before has left.
    async fn broken(&mut self) -> Option<io::Result<Bytes>> {
        tokio::task::yield_now().await;
        Some(Err(io::Error::new(io::ErrorKind::ConnectionReset, "broken on demand")))
    }

    /// Waits until there may be something to tell.
    async fn wait(&mut self) {
        // Without bookmarks nothing is due before the end.
        let bookmark = self.bookmark.unwrap_or(self.end);
        tokio::select! {
            _ = self.changed.changed() => {}
            _ = self.order.changed() => {}
            () = sleep_until(self.end) => {
                self.is_over = self.bookmark.is_none();
                if self.bookmark.take().is_some() {
                    self.ready.push_back(self.mark(false));
                    self.end = Instant::now();
                }
            }
            () = sleep_until(bookmark), if self.bookmark.is_some() => {
                self.ready.push_back(self.mark(false));
                self.bookmark = Some(Instant::now() + self.core.bookmarks);
            }
        }
    }

    fn expired(&self, newest: u64) -> Bytes {
        let refusal = Refusal::expired(format!("too old resource version: {} ({newest})", self.at));
        Bytes::from(format!("{}\n", json!({"type": "ERROR", "object": refusal.status()})))
    }

    /// Reads what is new; says whether the history still has it.
    fn read(&mut self) -> bool {
        let core = self.core.clone();
        let world: &World = &core.world();
        let Some(changes) = world.after(self.at) else { return false };
        for change in changes {
            if change.key.resource != self.asked.kind.resource || !self.is_inside(&change.key.namespace) {
                continue;
            }
            if let Some(line) = self.event(change) {
                self.ready.push_back(line);
            }
        }
        self.at = self.at.max(world.version());
        true
    }

    /// What a change is to this watch: an object that leaves its selection is deleted as far as it can see.
    fn event(&self, change: &Change) -> Option<Bytes> {
        let was = change.before.as_ref().filter(|before| self.selector.matches(before));
        let is = !change.deleted && self.selector.matches(&change.object);
        match (was, is) {
            (None, false) => None,
            (None, true) => Some(self.shape.line("ADDED", &change.object)),
            (Some(_), true) => Some(self.shape.line("MODIFIED", &change.object)),
            (Some(before), false) => {
                let mut last = Value::clone(before);
                set(&mut last, "/metadata/resourceVersion", text(&change.object, "/metadata/resourceVersion"));
                Some(self.shape.line("DELETED", &last))
            }
        }
    }
}

/// The kind is what a watch shows of itself in messages.
impl std::fmt::Debug for Watching {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind: &Kind = self.asked.kind;
        write!(formatter, "watch of {} at {}", kind.resource, self.at)
    }
}
