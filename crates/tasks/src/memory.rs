//! What a process remembers of an office's queue from one transaction to the next: the queue's row, the open tasks that it
//! met, and the front of the queue.
//!
//! With it a transaction is one statement, the write, which goes by nobody else's having changed the queue since
//! ([`repo::queue_write`]). What it cannot answer is looked for in the database as if there were none, and what is lost of it
//! costs that look. It has a bound, however long the queue is.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use mi_kernel::{OfficeId, TaskId};
use moka::{policy::EvictionPolicy, sync::Cache};

use super::{
    batch::Batch,
    model::{State, Task},
    repo::{Asked, Opened, Prefetched, QueueFront, Told, Wanted},
    work::Claim,
};

/// Bytes of what is remembered of all offices. Those that were not asked for lately are forgotten first.
const MAX_BYTES: u64 = 64 << 20;
/// Bytes of what is remembered of one.
const MAX_OFFICE_BYTES: usize = 4 << 20;
/// Tasks at the front of a queue that are read together, at least and at most. Less in the simulation, which has few.
const MIN_FRONT: i64 = if cfg!(test) { 2 } else { 64 };
const MAX_FRONT: i64 = if cfg!(test) { 6 } else { 1024 };
/// Fronts are read for that many claims.
const CLAIMS: i64 = if cfg!(test) { 2 } else { 8 };
/// Questions for which a front that is too short, although it was just read, is not read again.
const SPARED: u32 = 32;
/// Most looks that have to find the queue as this process left it before it is remembered again.
const MAX_WAIT: u32 = 64;

/// A place in a queue.
type Place = (i32, TaskId);

/// An open task.
#[derive(Debug)]
struct Remembered {
    task: Task,
    /// Nothing waits for it, and it has no open subtasks.
    is_leaf: bool,
}

/// A queue as this process's last transaction left it. There is nothing to carry on in it.
#[derive(Debug)]
pub(super) struct Memory {
    opened: Opened,
    told: Option<Told>,
    tasks: BTreeMap<TaskId, Remembered>,
    /// The front of the queue.
    queued: BTreeSet<Place>,
    /// The front reaches until there; none: it is all.
    until: Option<Place>,
    bytes: usize,
}

impl Memory {
    /// What was read: the queue's row before its front.
    pub(super) fn new(opened: Opened, told: Option<Told>, front: QueueFront) -> Self {
        let last = front.iter().map(|(task, _)| task.place()).max();
        let is_all = i64::try_from(front.len()) == Ok(opened.counts.0.of(State::Queued.as_str()));
        let until = (!is_all).then(|| last.unwrap_or((i32::MIN, TaskId::MIN)));
        let (tasks, queued) = Default::default();
        let mut memory = Self { opened, told, tasks, queued, until, bytes: 0 };
        front.into_iter().for_each(|(task, is_leaf)| memory.put(task, is_leaf));
        memory
    }

    /// The same, with what is remembered besides, if that is of the same queue.
    pub(super) fn refreshed(self, before: Option<Self>) -> Self {
        let mut memory = self;
        if let Some(before) = before.filter(|before| before.is_of(&memory.opened)) {
            for (id, known) in before.tasks {
                if *known.task.state() != State::Queued && !memory.tasks.contains_key(&id) {
                    memory.put(known.task, known.is_leaf);
                }
            }
        }
        memory.shrink();
        memory
    }

    /// The queue's row, as if it were read now.
    pub(super) fn opened(&self) -> (Opened, Option<Told>) {
        let told = self.told.map(Told::now);
        (Opened { told: told.map(|told| told.time), ..self.opened.clone() }, told)
    }

    /// Whether this is what another look found.
    pub(super) fn is_of(&self, opened: &Opened) -> bool {
        let of = |opened: &Opened| (opened.cursor, opened.office.version, opened.sweep_clock.away);
        of(&self.opened) == of(opened) && self.opened.counts.0 == opened.counts.0
    }

    /// What a look for these claims would find; none: it is not all remembered.
    pub(super) fn answer(&self, asked: &Asked<'_>, claims: &[&Claim]) -> Option<Prefetched> {
        if !asked.ended.iter().all(|id| self.tasks.get(id).is_some_and(|known| known.is_leaf)) {
            return None;
        }
        let task = |id: &TaskId| self.tasks.get(id).map(|known| known.task.clone());
        let tasks = asked.ids.iter().map(task).collect::<Option<Vec<_>>>()?;
        let is_leaf = |id: &&TaskId| self.tasks.get(id).is_some_and(|known| known.is_leaf);
        let leaves = asked.ids.iter().filter(is_leaf).copied().collect();
        Some(Prefetched { tasks, claimable: self.claimable(claims, asked.wanted.limit)?, leaves })
    }

    fn claimable(&self, claims: &[&Claim], limit: i64) -> Option<Vec<Task>> {
        let limit = usize::try_from(limit).unwrap_or_default();
        let known = self.queued.iter().filter_map(|(_, id)| self.tasks.get(id)).map(|known| &known.task);
        let taken = known.filter(|task| claims.iter().any(|claim| claim.takes(task)));
        let found: Vec<Task> = taken.take(limit).cloned().collect();
        (self.until.is_none() || found.len() == limit).then_some(found)
    }

    /// Whether the front is too short for such a claim, and there is more behind it.
    fn is_short(&self, wanted: &Wanted) -> bool {
        self.until.is_some() && i64::try_from(self.queued.len()).is_ok_and(|known| known < wanted.limit)
    }

    fn put(&mut self, task: Task, is_leaf: bool) {
        let is_front = self.until.is_none_or(|until| task.place() <= until);
        match task.state() {
            State::Queued if is_front => drop(self.queued.insert(task.place())),
            State::Running(_) | State::Verifying { .. } => {}
            State::Queued | State::Blocked { .. } | State::Done { .. } | State::Failed | State::Cancelled => return,
        }
        self.bytes += size(&task);
        self.tasks.insert(task.id, Remembered { task, is_leaf });
    }

    fn take(&mut self, id: TaskId) -> Option<Remembered> {
        let known = self.tasks.remove(&id)?;
        self.bytes -= size(&known.task);
        self.queued.remove(&known.task.place());
        Some(known)
    }

    /// Follows a transaction over the queue as it is remembered.
    fn follow(&mut self, left: Left) {
        (self.opened, self.told) = (left.opened, left.told);
        let above = |task: &Task| task.spec.parent.into_iter().chain(task.spec.depends_on.clone());
        let waited_for: Vec<TaskId> = left.written.iter().flat_map(|(task, _)| above(task)).collect();
        for (task, is_new) in left.written {
            let known = self.take(task.id);
            self.put(task, is_new || known.is_some_and(|known| known.is_leaf));
        }
        for id in waited_for {
            if let Some(known) = self.tasks.get_mut(&id) {
                known.is_leaf = false;
            }
        }
        self.shrink();
    }

    /// Forgets what is too much: first the oldest of what is being worked on, then the end of the front.
    fn shrink(&mut self) {
        let most = usize::try_from(2 * MAX_FRONT).unwrap_or(usize::MAX);
        if self.bytes > MAX_OFFICE_BYTES {
            let at_work = self.tasks.iter().filter(|(_, known)| *known.task.state() != State::Queued);
            for id in at_work.map(|(id, _)| *id).collect::<Vec<_>>() {
                if self.bytes <= MAX_OFFICE_BYTES {
                    break;
                }
                self.take(id);
            }
        }
        while self.queued.len() > most || self.bytes > MAX_OFFICE_BYTES {
            let Some((_, id)) = self.queued.last().copied() else { break };
            self.take(id);
            self.until = Some(self.queued.last().copied().unwrap_or((i32::MIN, TaskId::MIN)));
        }
    }
}

/// About how many bytes a task takes here.
fn size(task: &Task) -> usize {
    const REST: usize = 1536;
    let (spec, progress) = (&task.spec, &task.progress);
    let list = |texts: &[String]| texts.iter().map(|text| size_of::<String>() + text.len()).sum::<usize>();
    let texts = [&spec.title, &spec.description, &spec.cause, &progress.error, &progress.stalled];
    let work = match task.state() {
        State::Verifying { work, .. } => work.result.len() + work.receipt.len() + list(&work.artifacts),
        _ => 0,
    };
    let texts: usize = texts.into_iter().map(String::len).sum();
    REST + texts + work + list(&spec.required_tools) + size_of::<TaskId>() * spec.depends_on.len()
}

/// What a transaction leaves behind.
pub(super) struct Left {
    began: Opened,
    opened: Opened,
    told: Option<Told>,
    /// Tasks, each with whether it is new.
    written: Vec<(Task, bool)>,
    /// Something is left to be done about changes of tasks.
    carries_on: bool,
}

impl Left {
    /// What it has written, all of it.
    pub(super) fn of(batch: &mut Batch<'_>) -> Self {
        let (began, opened, told) = (batch.began.clone(), batch.left(), batch.told);
        Self { began, opened, told, written: batch.take_written(), carries_on: batch.consequences.are_left() }
    }
}

/// What a process knows of one queue.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) memory: Option<Memory>,
    /// The position that this process left the queue at; none: it has not changed it.
    left_at: Option<i64>,
    /// How many looks have to find it there before it is remembered: the more, the more often another process has changed it
    /// meanwhile.
    wait: u32,
    waits: u32,
    /// For how many questions a front that is too short is not read again: it was, and was too short all the same.
    spared: u32,
}

impl Known {
    /// How many tasks to read of the front before such a question is answered; none: it is not worth while.
    pub(super) fn front(&mut self, asked: &Asked<'_>) -> Option<i64> {
        match &self.memory {
            Some(memory) if !memory.is_short(&asked.wanted) => return None,
            Some(_) if self.spared > 0 => {
                self.spared -= 1;
                return None;
            }
            None if self.waits > 0 => return None,
            _ => {}
        }
        Some((CLAIMS * asked.wanted.limit).clamp(MIN_FRONT, MAX_FRONT))
    }

    /// The front was read for such a question, or could not be.
    pub(super) fn read(&mut self, memory: Option<Memory>, asked: &Asked<'_>) {
        match &memory {
            None => self.waits = MAX_WAIT,
            Some(memory) if memory.is_short(&asked.wanted) => self.spared = SPARED,
            Some(_) => self.spared = 0,
        }
        self.memory = memory;
    }

    /// Another process has changed what was remembered.
    pub(super) fn lost(&mut self) {
        self.memory = None;
        self.wait = (2 * self.wait).clamp(1, MAX_WAIT);
        self.waits = self.wait;
    }

    /// After a look.
    pub(super) fn saw(&mut self, opened: &Opened) {
        let is_left = self.left_at.is_none_or(|left_at| left_at == opened.cursor);
        self.waits = if is_left { self.waits.saturating_sub(1) } else { self.wait };
        self.memory = self.memory.take().filter(|memory| memory.is_of(opened));
    }

    /// After a transaction that is durable.
    pub(super) fn follow(&mut self, left: Left) {
        self.left_at = Some(left.opened.cursor);
        match &mut self.memory {
            Some(memory) if memory.is_of(&left.began) && !left.carries_on => memory.follow(left),
            _ => self.memory = None,
        }
    }

    /// After one that was a single statement.
    pub(super) fn served(&mut self, left: Left) {
        self.wait = self.wait.saturating_sub(1);
        self.follow(left);
    }
}

#[derive(Debug)]
struct Kept {
    bytes: usize,
    known: Mutex<Option<Known>>,
}

/// What a process knows of all queues. Whoever has a queue's transaction takes it out, and puts it back afterwards.
#[derive(Clone)]
pub(super) struct Memories(Cache<OfficeId, Arc<Kept>>);

impl Default for Memories {
    fn default() -> Self {
        let length = |_: &OfficeId, kept: &Arc<Kept>| u32::try_from(kept.bytes).unwrap_or(u32::MAX);
        let lru = EvictionPolicy::lru();
        Self(Cache::builder().max_capacity(MAX_BYTES).weigher(length).eviction_policy(lru).build())
    }
}

impl Memories {
    pub(super) fn take(&self, office_id: OfficeId) -> Known {
        let kept = self.0.remove(&office_id);
        kept.and_then(|kept| kept.known.lock().unwrap_or_else(PoisonError::into_inner).take()).unwrap_or_default()
    }

    pub(super) fn put(&self, office_id: OfficeId, known: Known) {
        const REST: usize = 2048;
        let bytes = REST + known.memory.as_ref().map_or(0, |memory| memory.bytes);
        self.0.insert(office_id, Arc::new(Kept { bytes, known: Mutex::new(Some(known)) }));
    }
}

#[cfg(test)]
mod tests {
    use mi_kernel::{AccountId, Clock, SystemClock};
    use mi_store::Json;

    use super::*;
    use crate::{repo::Rest, status_counts::StatusCounts, sweep_clock::SweepClock, tests::active_office};

    fn opened(cursor: i64) -> Opened {
        let office = active_office(OfficeId::new(), AccountId::new(), SystemClock.now());
        let (counts, sweep_clock) = (Json(StatusCounts::default()), SweepClock::default());
        Opened { cursor, counts, rest: Rest::None, available: 0, office, sweep_clock, told: None }
    }

    #[test]
    fn the_more_often_others_change_a_queue_the_later_it_is_remembered_again() {
        let asked = Asked::default();
        let mut known = Known { left_at: Some(7), ..Known::default() };
        assert_eq!(known.front(&asked), Some(MIN_FRONT), "nobody has changed it");
        let mut waited = Vec::new();
        for _ in 0..8 {
            known.lost();
            let mut looks = 0;
            while known.front(&asked).is_none() {
                known.saw(&opened(7));
                looks += 1;
            }
            waited.push(looks);
        }
        assert_eq!(waited, [1, 2, 4, 8, 16, 32, 64, 64]);
        // A look that finds a change begins anew.
        known.lost();
        (0..63).for_each(|_| known.saw(&opened(7)));
        known.saw(&opened(8));
        assert_eq!((known.front(&asked), known.waits), (None, 64));
    }

    impl Memories {
        /// How many tasks are remembered of a queue, and how many bytes their descriptions have; none: it is not.
        pub(crate) fn length(&self, office_id: OfficeId) -> Option<(usize, usize)> {
            let kept = self.0.get(&office_id)?;
            let known = kept.known.lock().expect("nobody panicked");
            let tasks = &known.as_ref()?.memory.as_ref()?.tasks;
            Some((tasks.len(), tasks.values().map(|known| known.task.spec.description.len()).sum()))
        }

        /// How what is remembered of a queue differs from its tasks, if this is its position; none: not at all.
        pub(crate) fn differs(
            &self,
            office_id: OfficeId,
            cursor: i64,
            tasks: &BTreeMap<TaskId, Task>,
        ) -> Option<String> {
            let kept = self.0.get(&office_id)?;
            let known = kept.known.lock().expect("nobody panicked");
            let memory = known.as_ref()?.memory.as_ref().filter(|memory| memory.opened.cursor == cursor)?;
            let is_leaf = |id: &TaskId| {
                tasks.values().all(|task| {
                    let is_part = task.spec.parent == Some(*id) && !task.state().is_final();
                    !is_part && !task.spec.depends_on.contains(id)
                })
            };
            for (id, known) in &memory.tasks {
                if tasks.get(id) != Some(&known.task) {
                    return Some(format!("{:?} is remembered as {:?}", tasks.get(id), known.task));
                }
                if known.is_leaf && !is_leaf(id) {
                    return Some(format!("{:?} is remembered as one for which nothing waits", known.task));
                }
            }
            let queued = tasks.values().filter(|task| *task.state() == State::Queued).map(Task::place);
            let front: BTreeSet<Place> =
                queued.filter(|place| memory.until.is_none_or(|until| *place <= until)).collect();
            (front != memory.queued).then(|| format!("the front is {front:?}, and remembered is {:?}", memory.queued))
        }
    }
}
