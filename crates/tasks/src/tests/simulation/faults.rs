//! What goes wrong: between a process and its database, and with a client that gives up.

use std::{
    fmt, io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use fastrand::Rng;
use futures::future::BoxFuture;
use mi_store::simulated::{Seam, Step};
use tokio::{task::yield_now, time::sleep};

use super::rows::Book;

/// How much goes wrong in a simulation, in thousandths.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rates {
    /// Steps to the database that fail.
    pub(super) fails: u32,
    /// Steps that take a while.
    pub(super) slow: u32,
    /// Calls whose client gives up.
    pub(super) given_up: u32,
    /// Steps of the simulation at which a process dies.
    pub(super) dies: u32,
}

impl Rates {
    /// Each simulation has its own: some know only delays, some nothing but trouble.
    pub(super) fn choose(random: &mut Rng) -> Self {
        let mut one_of = |rates: [u32; 4]| rates[random.usize(..4)];
        Self {
            fails: one_of([0, 2, 10, 30]),
            slow: one_of([0, 20, 60, 150]),
            given_up: one_of([0, 20, 80, 200]),
            dies: one_of([0, 10, 30, 60]),
        }
    }
}

/// The way of one process to the database, until it dies.
pub(super) struct Fate {
    random: Mutex<Rng>,
    rates: Rates,
    /// Whether nothing goes wrong at the moment, anywhere.
    calm: Arc<AtomicBool>,
    dead: AtomicBool,
    /// Whether the next answer to a commit is lost.
    loses: AtomicBool,
    book: Arc<Mutex<Book>>,
}

impl fmt::Debug for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fate")
    }
}

impl Fate {
    pub(super) fn new(seed: u64, rates: Rates, calm: Arc<AtomicBool>, book: Arc<Mutex<Book>>) -> Self {
        let (dead, loses) = Default::default();
        Self { random: Mutex::new(Rng::with_seed(seed)), rates, calm, dead, loses, book }
    }

    /// From now on it reaches nothing.
    pub(super) fn die(&self) {
        self.dead.store(true, Relaxed);
    }

    pub(super) fn lose_answer(&self) {
        self.loses.store(true, Relaxed);
    }

    async fn lives(&self) {
        if self.dead.load(Relaxed) {
            std::future::pending().await
        }
    }

    /// Whether one of so many in a thousand is met.
    fn meets(&self, thousandths: u32) -> bool {
        self.draw(1000) < u64::from(thousandths)
    }

    fn draw(&self, below: u64) -> u64 {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).u64(..below)
    }

    /// Something takes a while, and fails or does not.
    pub(super) async fn befalls(&self, weight: u32) -> Result<(), io::Error> {
        self.lives().await;
        for _ in 0..self.draw(12).saturating_sub(8) {
            yield_now().await;
        }
        if self.calm.load(Relaxed) {
            return Ok(());
        }
        if self.meets(self.rates.slow) {
            let most = if self.meets(50) { 1500 } else { 30 };
            sleep(Duration::from_millis(1 + self.draw(most))).await;
            self.lives().await;
        }
        match self.meets(self.rates.fails * weight / 10) && !self.calm.load(Relaxed) {
            true => Err(io::ErrorKind::ConnectionReset.into()),
            false => Ok(()),
        }
    }
}

impl Seam for Fate {
    fn before(&self, step: Step) -> BoxFuture<'_, mi_store::sqlx::Result<()>> {
        // Of a transaction's steps most are statements, and what matters most is what became of the commit.
        let weight = match step {
            Step::Statement => 2,
            Step::Read | Step::Begin => 10,
            Step::Commit | Step::Answer => 20,
        };
        Box::pin(async move {
            self.befalls(weight).await?;
            match step == Step::Answer && self.loses.swap(false, Relaxed) {
                true => Err(io::Error::from(io::ErrorKind::ConnectionReset).into()),
                false => Ok(()),
            }
        })
    }

    fn committed(&self) {
        self.book.lock().unwrap_or_else(PoisonError::into_inner).look();
    }
}

/// The same where nothing happens.
#[derive(Debug)]
pub(super) struct Quiet;

impl Seam for Quiet {
    fn before(&self, _: Step) -> BoxFuture<'_, mi_store::sqlx::Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn committed(&self) {}
}

/// A call whose client is gone after so many looks at it; none: it waits for the answer.
pub(super) struct Patient<F> {
    pub(super) call: Pin<Box<F>>,
    pub(super) looks: Option<u32>,
}

impl<F: Future> Future for Patient<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.looks {
            Some(0) => return Poll::Ready(None),
            Some(looks) => *looks -= 1,
            None => {}
        }
        self.call.as_mut().poll(context).map(Some)
    }
}
