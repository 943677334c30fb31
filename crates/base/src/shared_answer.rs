//! An answer that many want, and that one of them asks for.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, WeakShared},
};
use tokio::time::Instant;

/// The last answer to a question. All who wait for the next one drive it on, so that nobody is held up by who asked first:
/// there are futures that are left alone for a while, such as those of a stream of which nobody reads.
#[derive(Debug)]
pub struct SharedAnswer<T>(Mutex<State<T>>);

#[derive(Debug)]
struct State<T> {
    last: Option<Answered<T>>,
    /// The question under way. It is gone when all who waited for it have given up.
    open: Option<WeakShared<BoxFuture<'static, Answered<T>>>>,
}

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
        Self(Mutex::new(State { last: None, open: None }))
    }
}

impl<T: Clone + Send + Sync + 'static> SharedAnswer<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last answer, if it `stands` or came since this was called; else that of the question under way, or of a new one.
    pub async fn get<A>(&self, stands: impl AsyncFnOnce(Answered<T>) -> bool, ask: impl FnOnce() -> A) -> T
    where
        A: Future<Output = T> + Send + 'static,
    {
        let began = Instant::now();
        let last = self.state().last.clone();
        if let Some(last) = last
            && stands(last.clone()).await
        {
            return last.answer;
        }
        let question = {
            let mut state = self.state();
            if let Some(last) = state.last.as_ref().filter(|last| last.came >= began) {
                return last.answer.clone();
            }
            match state.open.as_ref().and_then(WeakShared::upgrade) {
                Some(open) => open,
                None => {
                    let (asked, asking) = (Instant::now(), ask());
                    let question = asking.map(move |answer| Answered { asked, came: Instant::now(), answer });
                    let question = question.boxed().shared();
                    state.open = question.downgrade();
                    question
                }
            }
        };
        let answered = question.clone().await;
        let mut state = self.state();
        // The first to hear of it: whoever comes later asks anew.
        if state.open.as_ref().and_then(WeakShared::upgrade).is_some_and(|open| open.ptr_eq(&question)) {
            *state = State { last: Some(answered.clone()), open: None };
        }
        answered.answer
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
    };

    use futures::{future::join_all, poll};
    use tokio::{task::yield_now, time::timeout};

    use super::*;

    /// More turns than there are who wait, of whom each drives the question on.
    async fn turns() {
        for _ in 0..10 {
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn those_who_wait_share_an_answer_and_later_ones_ask_unless_it_stands() {
        let (shared, asked) = (SharedAnswer::default(), Arc::new(AtomicU32::new(0)));
        let ask = || {
            let asked = asked.clone();
            async move {
                turns().await;
                asked.fetch_add(1, Ordering::SeqCst)
            }
        };
        assert_eq!(join_all((0..5).map(|_| shared.get(async |_| false, ask))).await, [0; 5]);
        assert_eq!(shared.get(async |known| known.answer == 0, ask).await, 0);
        assert_eq!(shared.get(async |_| false, ask).await, 1);
        assert_eq!(shared.get(async |known| known.answer == 1 && known.asked <= known.came, ask).await, 1);
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn whoever_gives_up_loses_its_question_and_no_answer() {
        let shared = SharedAnswer::default();
        let given_up = shared.get(async |_| true, pending);
        assert!(timeout(Duration::ZERO, given_up).await.is_err());
        assert_eq!(shared.get(async |_| true, || ready(7)).await, 7);
        let given_up = shared.get(async |_| pending().await, || ready(8));
        assert!(timeout(Duration::ZERO, given_up).await.is_err());
        assert_eq!(shared.get(async |_| true, || ready(9)).await, 7);
    }

    #[tokio::test]
    async fn who_is_left_alone_holds_up_nobody() {
        let shared = SharedAnswer::default();
        let ask = |answer| {
            move || async move {
                turns().await;
                answer
            }
        };
        let mut first = Box::pin(shared.get(async |_| false, ask(1)));
        let mut second = Box::pin(shared.get(async |_| false, ask(2)));
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        assert_eq!(shared.get(async |_| false, ask(3)).await, 1);
        assert_eq!(shared.get(async |_| false, ask(4)).await, 4);
        // Those hear what they asked for, and what is known by now stays.
        assert_eq!([first.await, second.await], [1, 1]);
        assert_eq!(shared.get(async |known| known.answer == 4, ask(5)).await, 4);
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
