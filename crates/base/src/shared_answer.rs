//! An answer that many want, and that one of them asks for.

use std::time::Duration;

use tokio::{sync::Mutex, time::Instant};

/// The last answer to a question. Whoever asks it holds the lock meanwhile, and others wait in order.
#[derive(Debug)]
pub struct SharedAnswer<T>(Mutex<Option<Answered<T>>>);

/// An answer, and its times.
#[derive(Debug, Clone)]
pub struct Answered<T> {
    /// When the question was asked.
    pub asked: Instant,
    /// When the answer came.
    pub came: Instant,
    /// What was answered.
    pub answer: T,
}

impl Answered<bool> {
    /// Whether it holds for so long: a good one from when it was asked for, one that says nothing from when it came, so that
    /// those who wait for it do not all ask anew.
    pub fn holds_for(&self, time: Duration) -> bool {
        let from = if self.answer { self.asked } else { self.came };
        from.elapsed() <= time
    }
}

impl<T> Default for SharedAnswer<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> SharedAnswer<T> {
    /// The last answer, if it came while this waited, or if it `stands`; else a new one.
    pub async fn get(&self, stands: impl AsyncFnOnce(Answered<T>) -> bool, ask: impl AsyncFnOnce() -> T) -> T {
        let began = Instant::now();
        let mut last = self.0.lock().await;
        if let Some(known) = &*last
            && (known.came >= began || stands(known.clone()).await)
        {
            return known.answer.clone();
        }
        // One that is given up on the way is no answer.
        *last = None;
        let asked = Instant::now();
        let answer = ask().await;
        last.insert(Answered { asked, came: Instant::now(), answer }).answer.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures::future::join_all;
    use tokio::{task::yield_now, time::timeout};

    use super::*;

    #[tokio::test]
    async fn those_who_wait_share_an_answer_and_later_ones_ask_unless_it_stands() {
        let (shared, asked) = (SharedAnswer::default(), AtomicU32::new(0));
        let ask = async || {
            yield_now().await;
            asked.fetch_add(1, Ordering::SeqCst)
        };
        assert_eq!(join_all((0..5).map(|_| shared.get(async |_| false, ask))).await, [0; 5]);
        assert_eq!(shared.get(async |known| known.answer == 0, ask).await, 0);
        assert_eq!(shared.get(async |_| false, ask).await, 1);
        assert_eq!(shared.get(async |known| known.answer == 1 && known.asked <= known.came, ask).await, 1);
        assert_eq!(asked.into_inner(), 2);
    }

    #[tokio::test]
    async fn whoever_gives_up_loses_its_question_and_no_answer() {
        let shared = SharedAnswer::default();
        let given_up = shared.get(async |_| true, std::future::pending);
        assert!(timeout(Duration::ZERO, given_up).await.is_err());
        assert_eq!(shared.get(async |_| true, async || 7).await, 7);
        let given_up = shared.get(async |_| std::future::pending().await, async || 8);
        assert!(timeout(Duration::ZERO, given_up).await.is_err());
        assert_eq!(shared.get(async |_| true, async || 9).await, 7);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_says_nothing_holds_from_when_it_came() {
        let second = Duration::from_secs(1);
        let asked = Instant::now();
        tokio::time::advance(2 * second).await;
        let answered = |answer| Answered { asked, came: Instant::now(), answer };
        let (good, none) = (answered(true), answered(false));
        assert!(!good.holds_for(second) && good.holds_for(2 * second) && none.holds_for(second));
        tokio::time::advance(2 * second).await;
        assert!(!none.holds_for(second));
    }
}
