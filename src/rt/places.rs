//! Several places that would do, the best first: which is tried when, and when to go back to a better one.
//!
//! Edges use it for the nodes of their list, and so do the library's clients.

use std::future::Future;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::backoff::Backoff;
use super::{clock, wake};

/// How long one place is tried alone: a node that answers does so much earlier, also from far away.
pub const HEAD_START: Duration = Duration::from_millis(200);
/// How soon a place that failed is tried again while others have not answered yet.
const AGAIN: Duration = Duration::from_millis(100);
/// The first wait before a better place is looked for, and the longest.
const BETTER_FIRST: Duration = Duration::from_millis(500);
/// See [`BETTER_FIRST`].
const BETTER_LONGEST: Duration = Duration::from_secs(10);
/// Whoever stayed so long at the best place is in no to and fro: the next look is early again.
const STAYED: Duration = Duration::from_secs(30);

/// Tries places in this order; the first that comes up wins, and the others are dropped. A place that fails is
/// followed by the next at once, one that does not answer after its head start, while it goes on. With no head start given
/// each is tried to its end, and none twice.
///
/// # Errors
///
/// Every place has failed once: with the last failure; `None`: there are no places.
pub async fn first<T, E, Fut>(
    order: &[usize],
    head_start: Option<Duration>,
    attempt: impl Fn(usize) -> Fut,
) -> Result<(usize, T), Option<E>>
where
    Fut: Future<Output = Result<T, E>>,
{
    let attempt = &attempt;
    let one = |place: usize, again: bool| async move {
        if again {
            tokio::time::sleep(AGAIN).await;
        }
        (place, again, attempt(place).await)
    };
    let (mut left, mut tries, mut open, mut last) =
        (order.iter().copied(), FuturesUnordered::new(), 0usize, None);
    loop {
        match left.next() {
            Some(place) => {
                open += 1;
                tries.push(one(place, false));
            }
            None if open == 0 => return Err(last),
            None => {}
        }
        let next_at = head_start.filter(|_| left.len() > 0).map(|wait| clock::now() + wait);
        loop {
            let head = async {
                match next_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some((place, again, result)) = tries.next() => match result {
                    Ok(won) => return Ok((place, won)),
                    Err(why) => {
                        last = Some(why);
                        if head_start.is_some() {
                            tries.push(one(place, true));
                        }
                        if !again {
                            open -= 1;
                            break;
                        }
                    }
                },
                () = head => break,
            }
        }
    }
}

/// Which place to begin with, and when to look for a better one.
#[derive(Debug)]
pub struct Places {
    count: usize,
    /// It took a connection, and then nothing came: it is tried last, once.
    shunned: Option<usize>,
    better: Backoff,
}

impl Places {
    /// So many, the best first.
    pub fn new(count: usize) -> Places {
        Places { count, shunned: None, better: Backoff::new(BETTER_FIRST, BETTER_LONGEST) }
    }

    /// The order of the next round.
    pub fn round(&mut self) -> Vec<usize> {
        let last = self.shunned.take().filter(|place| *place < self.count);
        (0..self.count).filter(|place| Some(*place) != last).chain(last).collect()
    }

    /// What took a connection at this place said nothing, or nothing more.
    pub fn shun(&mut self, place: usize) {
        self.shunned = Some(place);
    }

    /// A connection at this place has ended after so long.
    pub fn left(&mut self, place: usize, after: Duration) {
        if place == 0 && after >= STAYED {
            self.better.reset();
        }
    }

    /// Waits until a better place than this one takes a connection; for ever at the best.
    pub async fn better<T, E, Fut>(&mut self, place: usize, attempt: impl Fn(usize) -> Fut) -> (usize, T)
    where
        Fut: Future<Output = Result<T, E>>,
    {
        if place == 0 {
            return std::future::pending().await;
        }
        let order: Vec<usize> = (0..place.min(self.count)).collect();
        loop {
            wake::or_sleep(self.better.next_wait()).await;
            // One after another: there is time.
            if let Ok(found) = first(&order, None, &attempt).await {
                return found;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// Places that answer so, each after so many milliseconds.
    async fn tried(answers: &[(u64, bool)]) -> (Result<(usize, ()), Option<usize>>, Duration) {
        let began = clock::now();
        let order: Vec<usize> = (0..answers.len()).collect();
        let won = first(&order, Some(HEAD_START), |place| async move {
            let (after, works) = answers[place];
            tokio::time::sleep(Duration::from_millis(after)).await;
            if works { Ok(()) } else { Err(place) }
        });
        (tokio::time::timeout(LONG, won).await.unwrap(), clock::since(began))
    }

    // covers T09, Q02
    #[tokio::test(start_paused = true)]
    async fn a_place_that_refuses_costs_nothing_and_one_that_is_silent_its_head_start() {
        for (answers, wins, least_ms) in [
            (&[(0, true), (0, true)], 0, 0),
            (&[(0, false), (5, true)], 1, 5),
            (&[(9_000, true), (5, true)], 1, 205),
            // The slow one is not given up for the other.
            (&[(300, true), (9_000, true)], 0, 300),
        ] {
            let (won, took) = tried(answers).await;
            assert_eq!(won, Ok((wins, ())), "{answers:?}");
            // Timers are no finer than a millisecond.
            assert!((least_ms..least_ms + 3).contains(&took.as_millis()), "{answers:?}: {took:?}");
        }
        let (failed, _) = tried(&[(0, false), (700, false)]).await;
        assert_eq!(failed, Err(Some(1)));
        assert_eq!(tried(&[]).await.0, Err(None));
    }

    // covers T09
    #[tokio::test(start_paused = true)]
    async fn a_place_that_refused_is_tried_again_while_others_are_silent() {
        let began = clock::now();
        let up = began + Duration::from_millis(450);
        let won = first(&[0, 1], Some(HEAD_START), |place| async move {
            if place == 1 {
                tokio::time::sleep(LONG).await;
            }
            if clock::now() < up { Err(()) } else { Ok(()) }
        });
        assert_eq!(won.await.unwrap().0, 0);
        assert!(clock::since(began) < Duration::from_millis(700), "{:?}", clock::since(began));
    }

    // covers T09, Q02
    #[tokio::test(start_paused = true)]
    async fn a_better_place_is_looked_for_with_back_off_and_what_hangs_is_tried_last() {
        let mut places = Places::new(3);
        places.shun(0);
        assert_eq!((places.round(), places.round()), (vec![1, 2, 0], vec![0, 1, 2]));
        let (began, tries) = (clock::now(), std::cell::Cell::new(0));
        let found = places.better(2, |place| {
            tries.set(tries.get() + 1);
            async move { if clock::since(began) > LONG && place == 1 { Ok(()) } else { Err(()) } }
        });
        assert_eq!(found.await, (1, ()));
        assert!((5..40).contains(&tries.get()), "{}", tries.get());
        assert!(clock::since(began) < LONG + BETTER_LONGEST + Duration::from_secs(1));
        assert!(tokio::time::timeout(LONG, places.better(0, |_| async { Ok::<_, ()>(()) })).await.is_err());
    }
}
