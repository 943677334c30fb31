//! The change bus: whoever watches rows is told when they may have changed, by this process or by another one over the same
//! Postgres. What is told is a hint and carries nothing: whoever hears it reads the tables from where it stands, so that a
//! lost or doubled hint neither loses nor doubles anything. Other processes are told by NOTIFY, many topics in one, and
//! each process listens on one connection.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use futures::{Stream, TryStreamExt, stream};
use mi_kernel::{Error, OfficeId, Result};
use sqlx::{PgPool, postgres::PgListener};
use tokio::{
    sync::{Notify, Semaphore, broadcast, watch},
    time::{sleep, timeout},
};
use uuid::Uuid;

use crate::Db;

/// While changes keep coming, those of this time are told together; the first of them at once.
const COALESCE: Duration = Duration::from_millis(10);
/// Postgres takes 8,000 bytes in one notification.
const MAX_PAYLOAD_BYTES: usize = 7900;
/// Topics that wait to be told while Postgres is away. Beyond, one word for all of them takes their place.
const MAX_WAITING: usize = 10_000;
/// After a failure.
const PAUSE: Duration = Duration::from_secs(1);
/// How often the rows of an office are looked at all the same: a process may end between its commit and its word.
const OFFICE_INTERVAL: Duration = Duration::from_secs(30);
/// The same for what concerns the platform, which a few watch, and revocations are part of.
const PLATFORM_INTERVAL: Duration = Duration::from_secs(1);
/// How often a process says something to itself: one that does not hear it has lost its connection, or its server, without
/// a word, and connects again.
const PULSE: Duration = Duration::from_secs(10);
/// Looks of one office's watches at a time: many who watch one office, which changes all the time, leave connections to
/// the others.
const LOOKS: usize = 2;
/// What topics begin with that belong to no office.
const PLATFORM: &str = "platform";
/// Hints that a reader of [`Db::heard`] may be behind.
const HEARD: usize = 1024;

/// What may change: a path, of which each beginning stands for all that is below it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Topic(String);

impl Topic {
    /// A resource of an office, such as its tasks.
    pub fn of(office_id: OfficeId, resource: &'static str) -> Self {
        Self(format!("{office_id}/{resource}"))
    }

    /// One thing among an office's resources, by its name.
    pub fn named(office_id: OfficeId, resource: &'static str, name: &str) -> Self {
        Self(format!("{office_id}/{resource}/{name}"))
    }

    /// What belongs to no office.
    pub fn platform(resource: &'static str) -> Self {
        Self(format!("{PLATFORM}/{resource}"))
    }

    /// Everything.
    pub(crate) fn everything() -> Self {
        Self(String::new())
    }

    /// Whether anything may have changed.
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// The office of which all of this resource may have changed.
    pub fn office_of(&self, resource: &'static str) -> Option<OfficeId> {
        let (office, about) = self.0.split_once('/').unwrap_or((&self.0, resource));
        OfficeId::parse(office).ok().filter(|_| about == resource)
    }

    /// Its first part.
    fn office(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }

    fn covers(&self, other: &Self) -> bool {
        let below = other.0.strip_prefix(&self.0);
        below.is_some_and(|rest| self.is_everything() || rest.is_empty() || rest.starts_with('/'))
    }
}

/// Who listens here, and what is still to be told elsewhere.
#[derive(Debug)]
pub(crate) struct ChangeBus {
    /// Identifies this process, which passes over its own notifications.
    node: Uuid,
    /// The schema's own: other roles in the same database have nothing to hear here.
    channel: String,
    listeners: Mutex<BTreeMap<Topic, watch::Sender<()>>>,
    looks: Mutex<HashMap<String, Weak<Semaphore>>>,
    waiting: Mutex<BTreeSet<Topic>>,
    waits: Notify,
    heard: broadcast::Sender<Topic>,
}

impl ChangeBus {
    pub(crate) fn new(schema: &str) -> Self {
        Self {
            node: Uuid::new_v4(),
            channel: format!("mi_changes_{schema}"),
            listeners: Mutex::default(),
            looks: Mutex::default(),
            waiting: Mutex::default(),
            waits: Notify::new(),
            heard: broadcast::Sender::new(HEARD),
        }
    }

    fn wake(&self, topic: &Topic) {
        let listeners = locked(&self.listeners);
        let below = listeners.range(topic.clone()..).take_while(|(other, _)| other.0.starts_with(&topic.0));
        for (_, sender) in below.filter(|(other, _)| topic.covers(other)) {
            sender.send_replace(());
        }
    }

    fn wait(&self, topics: impl IntoIterator<Item = Topic>) {
        let mut waiting = locked(&self.waiting);
        waiting.extend(topics);
        if waiting.len() > MAX_WAITING {
            *waiting = BTreeSet::from([Topic::everything()]);
        }
        drop(waiting);
        self.waits.notify_one();
    }

    /// As many of those that wait as one notification holds.
    pub(crate) fn take(&self) -> Vec<Topic> {
        let mut waiting = locked(&self.waiting);
        let mut bytes = self.node.to_string().len();
        let mut taken = Vec::new();
        while let Some(topic) = waiting.pop_first() {
            bytes += topic.0.len() + 1;
            if bytes > MAX_PAYLOAD_BYTES {
                waiting.insert(topic);
                break;
            }
            taken.push(topic);
        }
        taken
    }

    /// Tells what waits, and something at every pulse.
    async fn tell(&self, db: &Db, pool: &PgPool) {
        loop {
            let _ = timeout(PULSE, self.waits.notified()).await;
            loop {
                let topics = self.take();
                let mut payload = self.node.to_string();
                for topic in &topics {
                    payload.push('\n');
                    payload.push_str(&topic.0);
                }
                let query = sqlx::query("SELECT pg_notify($1, $2)").bind(&self.channel).bind(payload);
                match db.eviction().heed(query.execute(pool).await) {
                    Ok(_) if locked(&self.waiting).is_empty() => break,
                    Ok(_) => {}
                    Err(error) => {
                        tracing::warn!(target: "mi::store", %error, "other processes could not be told of changes yet");
                        self.wait(topics);
                        sleep(PAUSE).await;
                    }
                }
            }
            sleep(COALESCE).await;
        }
    }

    /// Hears what is told, until the connection fails or says nothing any more.
    async fn hear(&self, pool: &PgPool) -> sqlx::Result<()> {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen(&self.channel).await?;
        let own = self.node.to_string();
        // What was said while nobody listened, and whenever the connection was away for a moment, may be anything.
        self.told(Topic::everything());
        loop {
            let Ok(heard) = timeout(3 * PULSE, listener.try_recv()).await else {
                return Err(sqlx::Error::Io(io::ErrorKind::TimedOut.into()));
            };
            match heard? {
                None => self.told(Topic::everything()),
                Some(notification) => {
                    let mut lines = notification.payload().split('\n');
                    if lines.next() != Some(&own) {
                        lines.for_each(|topic| self.told(Topic(topic.to_owned())));
                    }
                }
            }
        }
    }

    fn listen(bus: &Arc<Self>, topic: Topic) -> Changes {
        let interval = match topic.office() {
            PLATFORM => PLATFORM_INTERVAL,
            _ => OFFICE_INTERVAL,
        };
        let receiver = Some(locked(&bus.listeners).entry(topic.clone()).or_default().subscribe());
        Changes { receiver, looks: Some(bus.looks(&topic)), topic, bus: bus.clone(), interval }
    }

    /// Whose turn it is to look, among those who watch the topic's office.
    fn looks(&self, topic: &Topic) -> Arc<Semaphore> {
        let mut looks = locked(&self.looks);
        if let Some(known) = looks.get(topic.office()).and_then(Weak::upgrade) {
            return known;
        }
        let new = Arc::new(Semaphore::new(LOOKS));
        looks.insert(topic.office().to_owned(), Arc::downgrade(&new));
        new
    }

    /// Something changed elsewhere.
    pub(crate) fn told(&self, topic: Topic) {
        self.wake(&topic);
        // Without anybody who reads it, there is nobody to miss it.
        let _ = self.heard.send(topic);
    }
}

// Each is whole between any two statements: a panic elsewhere does not spoil it.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Db {
    /// To be called after a commit: whoever listens to the topic, or to a part of it, looks again, here and elsewhere.
    pub fn notify(&self, topic: Topic) {
        self.changes.wake(&topic);
        if self.is_shared() {
            self.changes.wait([topic]);
        }
    }

    /// Everything of this office may have changed.
    pub fn notify_office(&self, office_id: OfficeId) {
        let topic = Topic(office_id.to_string());
        let _ = self.changes.heard.send(topic.clone());
        self.notify(topic);
    }

    /// Everything notified after this call is heard.
    pub fn listen(&self, topic: Topic) -> Changes {
        ChangeBus::listen(&self.changes, topic)
    }

    /// What other processes tell from now on, and what is told of whole offices here.
    pub fn heard(&self) -> broadcast::Receiver<Topic> {
        self.changes.heard.subscribe()
    }

    /// Tells other processes what changed here, and hears what changed there, for ever. Without other processes, which
    /// is so on SQLite, there is nothing to do.
    pub async fn exchange_changes(self) {
        let Some(pool) = self.postgres_pool() else { return };
        let hearing = async {
            loop {
                if let Err(error) = self.eviction().heed(self.changes.hear(pool).await) {
                    tracing::warn!(target: "mi::store", %error, "cannot hear of changes by other processes yet");
                    sleep(PAUSE).await;
                }
            }
        };
        tokio::join!(self.changes.tell(&self, pool), hearing);
    }
}

/// The changes of a topic, for one who listens.
#[derive(Debug)]
pub struct Changes {
    /// Until it is dropped.
    receiver: Option<watch::Receiver<()>>,
    topic: Topic,
    bus: Arc<ChangeBus>,
    /// Shared by the watches of an office. Until it is dropped.
    looks: Option<Arc<Semaphore>>,
    /// How long a change that nobody told of may stay unseen: by a process that ended between its commit and its word, or by
    /// a call that was given up there.
    interval: Duration,
}

/// What was found at one look.
#[derive(Debug)]
pub struct Batch<T> {
    /// What is handed on.
    pub found: Vec<T>,
    /// Whether there may be more already.
    pub more: bool,
}

impl Changes {
    /// With another time for which a change that nobody told of may stay unseen.
    pub(crate) fn every(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Returns when something may have changed since it last did.
    pub async fn changed(&mut self) {
        // The sender lives in the map as long as this does, so `changed` does not fail.
        if let Some(receiver) = &mut self.receiver {
            let _ = timeout(self.interval, receiver.changed()).await;
        }
    }

    /// What `look` finds at once, and each time something may have changed, for ever or until the first error. It looks
    /// only when all that it found was handed on, so a slow reader costs no more than one batch.
    pub fn follow<T, F>(self, look: F) -> impl Stream<Item = Result<T>> + use<T, F>
    where
        F: AsyncFnMut() -> Result<Batch<T>>,
    {
        let batches = stream::try_unfold((self, look, true), async |(mut changes, mut look, more)| {
            if !more {
                changes.changed().await;
            }
            let Batch { found, more } = {
                let _turn = match &changes.looks {
                    Some(looks) => looks.acquire().await.ok(),
                    None => None,
                };
                look().await?
            };
            Ok::<_, Error>(Some((stream::iter(found.into_iter().map(Ok)), (changes, look, more))))
        });
        batches.try_flatten()
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        let mut listeners = locked(&self.bus.listeners);
        // Under the lock nobody else comes or goes: the last one takes the entry along.
        self.receiver = None;
        if listeners.get(&self.topic).is_some_and(|sender| sender.receiver_count() == 0) {
            listeners.remove(&self.topic);
        }
        let mut looks = locked(&self.bus.looks);
        self.looks = None;
        if looks.get(self.topic.office()).is_some_and(|known| known.strong_count() == 0) {
            looks.remove(self.topic.office());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn whoever_goes_leaves_nothing_behind() {
        let (bus, topic) = (Arc::new(ChangeBus::new("test")), Topic::of(OfficeId::new(), "chat"));
        for _ in 0..2000 {
            let pair = [(); 2].map(|()| ChangeBus::listen(&bus, topic.clone()));
            thread::scope(|scope| pair.into_iter().for_each(|changes| drop(scope.spawn(move || drop(changes)))));
            assert_eq!((locked(&bus.listeners).len(), locked(&bus.looks).len()), (0, 0));
        }
    }

    #[test]
    fn what_waits_goes_in_parts_and_is_bounded() {
        let bus = ChangeBus::new("test");
        let topics: BTreeSet<Topic> = (0..500).map(|_| Topic::of(OfficeId::new(), "chat")).collect();
        bus.wait(topics.clone());
        let mut told = BTreeSet::new();
        loop {
            let part = bus.take();
            let bytes: usize = part.iter().map(|topic| topic.0.len() + 1).sum();
            assert!(bytes + 36 <= MAX_PAYLOAD_BYTES, "{bytes} bytes");
            if part.is_empty() {
                break;
            }
            told.extend(part);
        }
        assert_eq!(told, topics);

        bus.wait((0..=MAX_WAITING).map(|_| Topic::of(OfficeId::new(), "chat")));
        assert_eq!(bus.take(), [Topic::everything()]);
        assert_eq!(bus.take(), []);
    }
}
